"""Write the report's sentences: cohort size, the meaning of held out, what is missing, and the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.errors import StatedError
from pipeline.json_file import MISFIT
from pipeline.report.dense_words import cohort_words, slide_words
from pipeline.report.probe_words import probe_title
from pipeline.report.results import Results

# On fewer blocks of drawn tissue half of the runs that were clearly better got no verdict (benchmarks/calibration.py).
FEW_BLOCKS = 20
BLOCKS_EXPLAINED = "a block is tissue that lies together and counts once, for neighbouring patches are alike"


def retrieval(results: Results) -> str:
    """Return how well dense patches are found from H&E, in a sentence; empty where nobody looked.

    Raises:
        StatedError: if the details do not tell it as evaluate does.
    """
    comparisons = []
    try:
        for run, found in results.retrieval.items():
            among, middle = found["recall_at_10"], found["median_rank"]
            around = "" if among["low"] is None else f" ({_share(among['low'])} to {_share(among['high'])})"
            comparisons.append(
                f"“{run}” {_share(among['score'])}{around} of the patches, {_share(among['chance'])} by chance, median "
                f"rank {middle['score']:.0f} of {found['patches']}"
            )
    except MISFIT as error:
        raise StatedError(
            file="evaluate/details.json", expected="retrieval as evaluate writes it", found=repr(error)
        ) from None
    if not comparisons:
        return ""
    return (
        "For each held-out H&E patch its own partner was looked for among all that were held out, by likeness of the "
        f"embeddings. It was among the first ten for {'; for '.join(comparisons)}."
    )


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def missing(results: Results) -> list[str]:
    """Return what has no score or no interval, by probe, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in results.evidence:
        if row.note:
            found.setdefault((probe_title(row.spec), row.note), []).append(row.target)
    return [f"{probe}, {listed(list(dict.fromkeys(names)))}: {note}." for (probe, note), names in found.items()]


def limits(results: Results, note: str) -> list[str]:
    """Return what a reader must not conclude, in plain sentences."""
    sentences, many = [note] if note else [], cohort_words(results).many
    patients = {slide.patient for slide in results.slides}
    if len(patients) == 1:
        sentences.append("All slides are of one patient: nothing here says how results carry over to another patient.")
    if results.split is not None:
        sentences.append(_held_out(results))
    if results.evidence:
        sentences += [
            f"{_blocks(results)} They do not cover the differences between patients, nor between trainings: "
            f"{_seeds(results)}",
            f"The intervals of single {many} are not corrected for the number of {many}; the mean over {many} is the "
            "one comparison to go by.",
        ]
    unmeasured = {slide_words(slide).unmeasured for slide in results.slides if slide.registration}
    sentences += sorted(filter(None, unmeasured))
    if "" in unmeasured:
        sentences.append(
            "Registration residuals measure how well the two stains agree with each other on tissue that was not used "
            "for fitting. They are not a comparison with landmarks placed by a person."
        )
    if results.features:
        sentences.append(
            "The embedding maps show the first principal components only. Closeness there hints at likeness and proves "
            "none."
        )
    return sentences


def summary(results: Results) -> str:
    """Return one sentence on the size of the cohort."""
    patients = len({slide.patient for slide in results.slides})
    paired = sum(slide.has_dense for slide in results.slides)
    patches = sum(len(slide.store) for slide in results.slides if slide.store)
    pairs = sum(slide.pairs or 0 for slide in results.slides)
    sentence = f"{counted(len(results.slides), 'H&E slide')} of {counted(patients, 'patient')}"
    if paired:
        sentence += f", {paired} with {cohort_words(results).side}"
    if patches:
        sentence += f"; {counted(patches, 'patch', 'patches')}"
        sentence += f", {pairs} of them usable as pairs" if pairs else ""
    return sentence + "."


def within_slides(results: Results) -> bool:
    """Return whether blocks of slides are held out whose other tissue is trained on."""
    return results.split is not None and results.split.by == "block"


def folds_explained(results: Results) -> str:
    """Return what a fold is in this cohort."""
    by = results.split.by if results.split else ""
    whole = {"patient": "patients", "slide": "slides", "block": "blocks of tissue"}.get(by, "patches")
    return f"Folds are groups of whole {whole}; what is in fold 0 is held out: it tests and never trains."


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
        return "There are no intervals and no verdicts: what is held out has too few blocks of tissue."
    drawn = f"the {results.blocks} blocks" if results.blocks else "the blocks"
    few = " So few can show large differences only." if 0 < results.blocks < FEW_BLOCKS else ""
    what = "the held-out tissue of these slides" if within_slides(results) else "these held-out slides"
    return (
        f"The intervals describe {what}: {drawn} of tissue are set against each other, half by half; "
        f"{BLOCKS_EXPLAINED}.{few}"
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
