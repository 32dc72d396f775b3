"""Name the dense side on the page: markers, stains, classes or genes, and how to read its pictures."""

from __future__ import annotations

from pipeline.report.results import Results, SlideResults
from pipeline.slides.kinds import kind_named
from pipeline.slides.kinds.base import CHECKERBOARD_OF_STAINS, DenseKind, DenseWords

_MIXED = DenseWords(
    "paired data",
    "value",
    "values",
    "Values of the paired slides",
    "each value of the paired slide",
    "the value",
    "Swipe between both pictures.",
    CHECKERBOARD_OF_STAINS,
)
# What a slide is taken for of which nothing is known.
_USUAL = kind_named("fluorescence")
_NEIGHBOURS = (
    "Swipe between the H&E and the overlay: tissue must stay where it is. Neighbouring sections share outlines, gaps "
    "and glands, no nuclei. In the overlay the nuclei of the H&E are magenta, those of the paired slide green."
)


def dense_kind(slide: SlideResults) -> DenseKind | None:
    """Return what the dense side of a slide is; None where there is none, or nothing told of it."""
    if slide.record and slide.record.dense:
        return kind_named(slide.record.dense.kind)
    return kind_named(slide.store.attributes.dense_kind) if slide.store and slide.store.has_dense else None


def slide_words(slide: SlideResults) -> DenseWords:
    """Return the words for one slide."""
    return (dense_kind(slide) or _USUAL).words


def cohort_words(results: Results) -> DenseWords:
    """Return the words for a cohort: those of its kind of dense side, neutral ones where it has several."""
    kinds = {kind for slide in results.slides if (kind := dense_kind(slide))}
    return _MIXED if len(kinds) > 1 else next(iter(kinds), _USUAL).words


def overlay_words(slide: SlideResults) -> str:
    """Return how to read the overlay of a slide, which neighbouring sections share no nuclei in."""
    serial = slide.registration is not None and slide.registration.mode == "serial"
    return _NEIGHBOURS if serial and (dense_kind(slide) or _USUAL).is_registered else slide_words(slide).overlay
