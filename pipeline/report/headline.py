"""Write the headline: whether the dense side helped, by how much, and on what evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.aggregates import MEAN, MEAN_UNSEEN
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import marker_probe_spec
from pipeline.report.dense_words import cohort_words
from pipeline.report.figures import signed
from pipeline.report.label_curves import label_sentence, most_fewer
from pipeline.report.results import Results
from pipeline.report.words import BLOCKS_EXPLAINED, FEW_BLOCKS, counted, listed, within_slides

HEADLINE_PROBE = marker_probe_spec("ridge")
# In mean Pearson r. At r 0.5 as much more explains 3 % more of the variance.
SLIGHT = 0.03
SIZES_EXPLAINED = (
    f"A difference below {SLIGHT:g} is called slight; clear is one whose whole interval lies beyond {SLIGHT:g}, on "
    f"several patients and trainings and {FEW_BLOCKS} blocks of tissue or more."
)
# What controls are called where no encoder is there to tell them, and how they were paired.
CONTROLS = {"shuffled": "shuffled", "blank": "blank"}
_OUTCOMES = {"helped": "a gain", "harmed": "a loss", "no difference": "no difference"}


@dataclass(frozen=True)
class Headline:
    """Whether the dense side helped.

    Attributes:
        answer: a few words, with the size of the difference and what it rests on.
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
    dense, seeds = cohort_words(results), min(row.seeds, baseline.seeds)
    whose = ", whose other tissue trained the encoders" if within_slides(results) else ""
    measured = (
        f"{dense.values} were predicted from H&E alone on {row.test_patches} held-out patches of "
        f"{counted(row.test_slides, 'slide')}{whose}. Features of the run “{row.run}” reach a mean Pearson r of "
        f"{signed(row.score)}, those of “{baseline.run}” {signed(baseline.score)}: a difference of "
        f"{with_interval(row)}."
    )
    sentences = [measured, _rests_on(results, row, seeds)]
    sentences += [*_fewer_labels(results, row, baseline), *_unseen(results, row)]
    others = [one for one in compared if one.run != row.run]
    controls = results.controls.keys() | CONTROLS.keys()
    if others:
        comparisons = (
            f"{'the control ' if one.run in controls else ''}“{one.run}” {with_interval(one)}, {_OUTCOMES[one.verdict]}"
            for one in others
        )
        sentences.append(f"In comparison with the same baseline: {'; '.join(comparisons)}.")
    gained = [f"“{one.run}”" for one in compared if one.run in controls and one.verdict == "helped"]
    answer = _answer(results, row, seeds, dense.side)
    kind = {"helped": "helped", "harmed": "harmed"}.get(row.verdict, "none")
    size = f"({signed(row.difference, 3, plus=True)})"
    if row.verdict == "helped" and gained:
        answer, kind = f"A gain {size}, but not from the pairing", "doubt"
        sentences.append(
            f"The {'control' if len(gained) == 1 else 'controls'} {' and '.join(gained)}, trained without true pairs, "
            "gained as well: true pairs cannot be what explains the gain."
        )
    elif row.verdict != "no difference" and not any(one.run in controls for one in compared):
        answer, kind = f"{_OUTCOMES[row.verdict].capitalize()} {size}, but no control was compared", "doubt"
        sentences.append(
            "No run on shuffled or blank pairs was compared: something else than the pairs may be the cause."
        )
    return Headline(f"{answer}, {_caveat(results, row, seeds)}", tuple(sentences), kind)


def _answer(results: Results, row: EvidenceRow, seeds: int, side: str) -> str:
    """Return the verdict with the size of the difference; `slightly` and `clearly` as `SIZES_EXPLAINED` says."""
    ends = row.difference_within
    nearest = min(abs(ends.low), abs(ends.high)) if ends.low * ends.high > 0 else 0.0
    slight = abs(row.difference) < SLIGHT
    clear = nearest >= SLIGHT and not _is_little(results, row, seeds)
    size = f"({signed(row.difference, 3, plus=True)})"
    if row.verdict == "helped":
        return f"The {side} {'clearly ' if clear else ''}helped {'slightly ' if slight else ''}{size}"
    if row.verdict == "harmed":
        return f"The {side} did {'clear ' if clear else 'slight ' if slight else ''}harm {size}"
    return f"No difference was found {size}"


def _caveat(results: Results, row: EvidenceRow, seeds: int) -> str:
    """Return what the headline rests on, in a few words."""
    parts = [_number(results.patients, "patient")] if results.patients else []
    parts.append(_number(seeds, "seed"))
    if _few_blocks(results, row):
        parts.append(_number(row.blocks or results.blocks, "block") + " of tissue")
    if within_slides(results):
        parts.append("on slides that also trained")
    return ", ".join(parts)


def _number(count: int, one: str) -> str:
    return f"one {one}" if count == 1 else counted(count, one)


def _fewer_labels(results: Results, row: EvidenceRow, baseline: EvidenceRow) -> list[str]:
    """Return how many labels the run saves, where it surely saves some."""
    if not (row.verdict == "helped" and row.fewer_labels_within.low > 1):
        return []
    labels = label_sentence(row, baseline.run, most_fewer(row, results.evidence))
    return [f"{labels} The full score takes {baseline.train_patches} labelled patches."]


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
            "No run was named to compare the others with (evaluate.baseline): whether the "
            f"{cohort_words(results).side} helped cannot be told."
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
    by_patient = results.split is None or results.split.by == "patient"
    parts = [counted(results.patients, "held-out patient" if by_patient else "patient")] if results.patients else []
    parts.append(f"{counted(seeds, 'training')} of each run")
    blocks = row.blocks or results.blocks
    parts += [f"{counted(blocks, 'block')} of tissue"] if blocks else []
    explained = f" ({BLOCKS_EXPLAINED})" if blocks else ""
    little = " So little may not speak for other patients or trainings." if _is_little(results, row, seeds) else ""
    return f"This rests on {listed(parts)}{explained}.{little}"


def _few_blocks(results: Results, row: EvidenceRow) -> bool:
    return 0 < (row.blocks or results.blocks) < FEW_BLOCKS


def _is_little(results: Results, row: EvidenceRow, seeds: int) -> bool:
    """Return whether a verdict rests on one patient, one training of each run or few blocks of tissue."""
    return results.patients == 1 or seeds == 1 or _few_blocks(results, row)


def with_interval(row: EvidenceRow) -> str:
    """Return the difference to the baseline with its interval."""
    gain = signed(row.difference, 3, plus=True)
    if not math.isfinite(row.difference_within.low):
        return gain
    return f"{gain} (95 % interval {signed(row.difference_within.low, 3)} to {signed(row.difference_within.high, 3)})"


def runs_explained(results: Results) -> list[tuple[str, str]]:
    """Return what a reader must know of the runs that are no contenders: the baseline and the controls."""
    runs = dict.fromkeys(row.run for row in results.evidence)
    described = [(run, "the baseline that the others are compared with") for run in runs if run == results.baseline]
    meaning = {
        "shuffled": "a control that trained on shuffled pairs: each H&E patch beside the partner of another one. What "
        "it gains does not come from the pairing",
        "blank": "a control that trained on blank partners. What it gains does not come from them",
    }
    pairings = CONTROLS | dict(results.controls)
    return described + [(run, meaning[kind]) for run in runs if (kind := pairings.get(run, "")) in meaning]
