"""The report's sentences: the headline verdict, what held out means here, and the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import StatedError
from pipeline.evaluation.aggregates import MEAN, MEAN_UNSEEN
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import marker_probe_spec
from pipeline.json_file import MISFIT
from pipeline.report.dense_words import cohort_words, slide_words
from pipeline.report.figures import signed
from pipeline.report.results import Results

HEADLINE_PROBE = marker_probe_spec("ridge")
# What controls are called where no encoder is there to tell them.
CONTROLS = frozenset({"shuffled", "blank"})
# On fewer blocks of drawn tissue half of the runs that were clearly better got no verdict (benchmarks/calibration.py).
_FEW_BLOCKS = 20
_OUTCOMES = {"helped": "a gain", "harmed": "a loss", "no difference": "no difference"}


@dataclass(frozen=True)
class Headline:
    """Whether the dense side helped.

    Attributes:
        answer: a word or two.
        sentences: what was measured, with interval and controls.
        kind: `helped`, `harmed`, `none` or `doubt`, for the style.
    """

    answer: str
    sentences: tuple[str, ...]
    kind: str


def headline(results: Results, embedding: str) -> Headline | None:
    """Return the verdict on the run whose embeddings are shown, or why there is none.

    None where nothing was evaluated.
    """
    rows = [row for row in results.evidence if row.spec == HEADLINE_PROBE and row.target == MEAN]
    if not rows:
        return None
    compared = [row for row in rows if row.verdict]
    row = next((row for row in compared if row.run == embedding), next(iter(compared), None))
    baseline = next((one for one in rows if one.run == results.baseline), None)
    if row is None or baseline is None:
        return _no_verdict(results, rows, baseline)
    dense = cohort_words(results)
    answer = {"helped": f"The {dense.side} helped", "harmed": f"The {dense.side} did harm"}.get(
        row.verdict, "No difference was found"
    )
    kind = {"helped": "helped", "harmed": "harmed"}.get(row.verdict, "none")
    measured = (
        f"{dense.values} were predicted from H&E alone on {row.test_patches} held-out patches of "
        f"{counted(row.test_slides, 'slide')}. Features of the run “{row.run}” reach a mean Pearson r of "
        f"{signed(row.score)}, those of “{baseline.run}” {signed(baseline.score)}: a difference of "
        f"{with_interval(row)}."
    )
    seeds = min(row.seeds, baseline.seeds)
    sentences = [measured, _rests_on(results, row, seeds), *_fewer_labels(row, baseline), *_unseen(results, row)]
    others = [one for one in compared if one.run != row.run]
    controls = results.controls | CONTROLS
    if others:
        told = (
            f"{'the control ' if one.run in controls else ''}“{one.run}” {with_interval(one)}, {_OUTCOMES[one.verdict]}"
            for one in others
        )
        sentences.append(f"In comparison with the same baseline: {'; '.join(told)}.")
    gained = [f"“{one.run}”" for one in compared if one.run in controls and one.verdict == "helped"]
    if row.verdict == "helped" and gained:
        answer, kind = "A gain, but not from the pairing", "doubt"
        sentences.append(
            f"The {'control' if len(gained) == 1 else 'controls'} {' and '.join(gained)}, trained without true pairs, "
            "gained as well: true pairs cannot be what explains the gain."
        )
    elif row.verdict != "no difference" and not any(one.run in controls for one in compared):
        answer, kind = f"{_OUTCOMES[row.verdict].capitalize()}, but no control was compared", "doubt"
        sentences.append(
            "No run on shuffled or blank pairs was compared: something else than the pairs may be the cause."
        )
    if _is_little(results, row, seeds):
        answer = f"{answer}, on little evidence"
    return Headline(answer, tuple(sentences), kind)


def _fewer_labels(row: EvidenceRow, baseline: EvidenceRow) -> list[str]:
    """Return how many labels the run saves, where it surely saves some."""
    ends = row.fewer_labels_within
    if not (row.verdict == "helped" and ends.low > 1):
        return []
    return [
        f"“{row.run}” reaches the full score of “{baseline.run}”, which is fitted on {baseline.train_patches} labelled "
        f"patches, with {row.fewer_labels:.2g} times fewer labels (95 % interval {ends.low:.2g} to {ends.high:.2g})."
    ]


def _unseen(results: Results, row: EvidenceRow) -> list[str]:
    """Return what was found on markers that the run's training left out, where it left any."""
    own = [one for one in results.evidence if one.spec == row.spec and one.run == row.run]
    mean = next((one for one in own if one.target == MEAN_UNSEEN and one.seen == "no" and one.verdict), None)
    if mean is None:
        return []
    names = [one.target for one in own if not one.is_mean and one.seen == "no"]
    return [
        f"On markers that its training never saw ({listed(names, 6)}) the difference is {with_interval(mean)}: "
        f"{_OUTCOMES[mean.verdict]}."
    ]


def _no_verdict(results: Results, rows: Sequence[EvidenceRow], baseline: EvidenceRow | None) -> Headline:
    """Return what stands in the headline's place where no run was compared, or none could be."""
    scores = "; ".join(f"“{row.run}” {signed(row.score)}" for row in rows if math.isfinite(row.score))
    reached = f"Mean Pearson r on held-out patches: {scores}." if scores else "No marker could be scored."
    if baseline is None:
        why = (
            "No run was named to compare the others with (evaluate.baseline): whether the dense side helped cannot be "
            "told."
        )
        return Headline("No comparison was made", (why, reached), "none")
    if len(rows) == 1:
        why = f"“{baseline.run}”, the baseline, is the only run that was evaluated."
        return Headline("No comparison was made", (why, reached), "none")
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    why = f"The runs could not be told apart or alike: {'; '.join(notes) or 'there are no intervals'}."
    return Headline("No verdict", (why, reached), "none")


def _rests_on(results: Results, row: EvidenceRow, seeds: int) -> str:
    """Return what the verdict rests on, in numbers."""
    told = [counted(results.patients, "held-out patient")] if results.patients else []
    told.append(counted(seeds, "training") + " of each run")
    if blocks := row.blocks or results.blocks:
        told.append(counted(blocks, "block") + " of tissue")
    little = " So little may not speak for other patients or trainings." if _is_little(results, row, seeds) else ""
    return f"This rests on {listed(told)}.{little}"


def _is_little(results: Results, row: EvidenceRow, seeds: int) -> bool:
    """Return whether a verdict rests on one patient, one training of each run or few blocks of tissue."""
    return results.patients == 1 or seeds == 1 or 0 < (row.blocks or results.blocks) < _FEW_BLOCKS


def with_interval(row: EvidenceRow) -> str:
    """Return the difference to the baseline with its interval."""
    gain = signed(row.difference, 3, plus=True)
    if not math.isfinite(row.difference_within.low):
        return gain
    return f"{gain} (95 % interval {signed(row.difference_within.low, 3)} to {signed(row.difference_within.high, 3)})"


def retrieval(results: Results) -> str:
    """Return how well dense patches are found from H&E, in a sentence; empty where nobody looked.

    Raises:
        StatedError: if the details do not tell it as evaluate does.
    """
    told = []
    try:
        for run, found in results.retrieval.items():
            among, middle = found["recall_at_10"], found["median_rank"]
            around = "" if among["low"] is None else f" ({_share(among['low'])} to {_share(among['high'])})"
            told.append(
                f"“{run}” {_share(among['score'])}{around} of the patches, {_share(among['chance'])} by chance, median "
                f"rank {middle['score']:.0f} of {found['patches']}"
            )
    except MISFIT as error:
        raise StatedError(
            file="evaluate/details.json", expected="retrieval as evaluate writes it", found=repr(error)
        ) from None
    if not told:
        return ""
    return (
        "Each held-out H&E patch was asked for its own dense patch, by likeness of the embeddings, among all that were "
        f"held out. The right one was among the first ten for {'; for '.join(told)}."
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def missing(results: Results) -> list[str]:
    """Return what has no score or no interval, by probe, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in results.evidence:
        if row.note:
            found.setdefault((row.probe, row.note), []).append(row.target)
    return [f"{probe}, {listed(list(dict.fromkeys(names)))}: {note}." for (probe, note), names in found.items()]


def limits(results: Results, note: str) -> list[str]:
    """Return what a reader must not conclude, in plain sentences."""
    told, many = [note] if note else [], cohort_words(results).many
    patients = {slide.patient for slide in results.slides}
    if len(patients) == 1:
        told.append("All slides are of one patient: nothing here says how results carry over to another patient.")
    if results.split is not None:
        told.append(_held_out(results))
    if results.evidence:
        told += [
            f"{_blocks(results)} They do not cover the differences between patients, nor between trainings: "
            f"{_seeds(results)}",
            f"The intervals of single {many} are not corrected for the number of {many}; the mean over {many} is the "
            "one comparison to go by.",
        ]
    unmeasured = {slide_words(slide).unmeasured for slide in results.slides if slide.registration}
    told += sorted(filter(None, unmeasured))
    if "" in unmeasured:
        told.append(
            "Registration residuals measure how well the two stains agree with each other on tissue that was not used "
            "for fitting. They are not a comparison with landmarks placed by a person."
        )
    if results.features:
        told.append(
            "The embedding maps show the first principal components only. Closeness there hints at likeness and proves "
            "none."
        )
    return told


def summary(results: Results) -> str:
    """Return one sentence on the size of the cohort."""
    patients = len({slide.patient for slide in results.slides})
    paired = sum(slide.has_dense for slide in results.slides)
    patches = sum(len(slide.store) for slide in results.slides if slide.store)
    pairs = sum(slide.pairs or 0 for slide in results.slides)
    sentence = f"{counted(len(results.slides), 'H&E slide')} of {counted(patients, 'patient')}"
    if paired:
        sentence += f", {paired} with a dense partner"
    if patches:
        sentence += f"; {counted(patches, 'patch', 'patches')}"
        sentence += f", {pairs} of them usable as pairs" if pairs else ""
    return sentence + "."


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names in a sentence; the surplus of a long list as a number."""
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def _blocks(results: Results) -> str:
    """Return what the intervals rest on."""
    if not any(math.isfinite(row.within.low) for row in results.evidence):
        return "There are no intervals and no verdicts: the held-out slides hold too few blocks of tissue."
    drawn = f"the {results.blocks} blocks" if results.blocks else "the blocks"
    few = " So few can show large differences only." if 0 < results.blocks < _FEW_BLOCKS else ""
    return (
        f"The intervals describe these held-out slides: {drawn} of their tissue are set against each other, half by "
        f"half.{few}"
    )


def _seeds(results: Results) -> str:
    fewest, most = (pick(row.seeds for row in results.evidence) for pick in (min, max))
    if fewest < 2:
        return "each run was trained once." if most < 2 else "some of the runs were trained only once."
    return (
        f"there are at least {fewest} per run, the scores are their means, and any verdict but “no difference” "
        "asks that all seeds agree."
    )


def _held_out(results: Results) -> str:
    split = results.split
    assert split is not None
    what = {
        "patient": "Patches are held out by patient",
        "slide": "Patches are held out by slide, so one patient may be on both sides",
        "block": "Patches are held out by blocks of tissue, so the same slides are fitted on and tested: scores are "
        "those of known patients and scanners",
    }.get(split.by, f"Patches are held out by {split.by}")
    sentence = (
        f"{what}. Held out: {listed(split.held_out_slides)} ({counted(len(split.held_out_patients), 'patient')})."
    )
    return f"{sentence} {split.note}".strip()
