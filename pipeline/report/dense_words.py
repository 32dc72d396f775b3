"""What the dense side is called on the page: markers, stains, classes or genes, and how its pictures are to be read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.results import Results, SlideResults


@dataclass(frozen=True)
class DenseWords:
    """Words for one kind of dense side.

    Attributes:
        side: what the dense side is.
        one: what a column of values stands for.
        many: several of them.
        values: what is predicted of a patch.
        each: the same as the object of a sentence.
        scale: what a prediction is counted in standard deviations of.
        overlay: how to read the overlay of register.
        checkerboard: how to read its checkerboard.
    """

    side: str
    one: str
    many: str
    values: str
    each: str
    scale: str
    overlay: str
    checkerboard: str


_STAINS = "Squares alternate between the stains; structures must run on across the borders."
_WORDS = {
    "fluorescence": DenseWords(
        "dense stain",
        "marker",
        "markers",
        "Marker intensities",
        "the mean intensity of each marker",
        "log(1 + mean intensity)",
        "Swipe between the H&E and the overlay: nuclei must stay where they are. In the overlay hematoxylin is "
        "magenta, the dense slide’s nuclei are green, and both together white.",
        _STAINS,
    ),
    "brightfield": DenseWords(
        "dense stain",
        "stain",
        "stains",
        "Stain densities",
        "the mean optical density of each stain",
        "the mean optical density",
        "Swipe between the H&E and the overlay: nuclei must stay where they are. In the overlay the hematoxylin of the "
        "H&E is magenta, that of the dense slide green, and both together white.",
        _STAINS,
    ),
    "mask": DenseWords(
        "mask",
        "class",
        "classes",
        "Class shares",
        "the share of each class",
        "the share of the class",
        "Swipe between the H&E and the mask’s classes over it: tissue must change where they do.",
        "Squares alternate between the H&E and the classes; borders must run on.",
    ),
}
_WORDS["counts"] = DenseWords(
    "gene counts",
    "gene",
    "genes",
    "Gene counts",
    "the counts of each gene",
    "log(1 + counts per 10,000)",
    "Swipe between the H&E and the spots over it: they must lie on tissue. There is no picture of the counts "
    "themselves.",
    "Squares alternate between the H&E and the spots; the spots must lie on tissue.",
)
_MIXED = DenseWords(
    "dense side",
    "value",
    "values",
    "Values of the dense side",
    "each value of the dense side",
    "the value",
    "Swipe between both pictures.",
    _STAINS,
)
_NEIGHBOURS = (
    "Swipe between the H&E and the overlay: tissue must stay where it is. Neighbouring sections share outlines, gaps "
    "and glands, no nuclei. In the overlay the nuclei of the H&E are magenta, those of the dense slide green."
)


def dense_kind(slide: SlideResults) -> str:
    """Return `fluorescence`, `brightfield`, `mask` or `counts`.

    Empty where there is no dense side, or nothing told of it.
    """
    if slide.record and slide.record.dense:
        return slide.record.dense.kind
    return slide.store.attributes.dense_kind if slide.store and slide.store.has_dense else ""


def slide_words(slide: SlideResults) -> DenseWords:
    """Return the words for one slide."""
    return _WORDS.get(dense_kind(slide), _WORDS["fluorescence"])


def cohort_words(results: Results) -> DenseWords:
    """Return the words for a cohort: those of its kind of dense side, neutral ones where it has several."""
    kinds = {kind for slide in results.slides if (kind := dense_kind(slide))}
    return _MIXED if len(kinds) > 1 else _WORDS[next(iter(kinds), "fluorescence")]


def overlay_words(slide: SlideResults) -> str:
    """Return how to read the overlay of a slide, which neighbouring sections share no nuclei in."""
    serial = slide.registration is not None and slide.registration.mode == "serial"
    return _NEIGHBOURS if serial and dense_kind(slide) not in ("mask", "counts") else slide_words(slide).overlay
