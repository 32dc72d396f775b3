"""Format the registered pairs for the template: verdict, numbers with units, pictures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.registration.class_map import class_colour
from pipeline.registration.overlay_text import CLOSE_UPS_KEY, FIELD_KEY
from pipeline.report.composite import Ink, composite
from pipeline.report.dense_words import dense_kind, overlay_words, slide_words
from pipeline.report.mosaic import sparse_picture
from pipeline.report.pictures import Picture, drawing, fitted, opened, photograph
from pipeline.report.results import Registration, SlideResults
from pipeline.report.views import Badge, badge

_RESIDUAL = "The shift left between the stains, in µm, where tissue was held out from fitting; even and small is good."
_CLOSE_UPS = (
    "H&E and overlay of three squares, by how far apart nuclei still are there. A shift shows as white nuclei with a "
    "coloured rim on one side, the same one throughout a square."
)
_PIXELS = (
    "Up to six markers, each from its background to its brightest on this slide, in the same colour on every slide; "
    "black is where no pair is. Swipe to the H&E: what glands, vessels and lymphocytes show must lie on them."
)
_MEANS = (
    "Up to six markers, each patch in the colour of its means, the same colour on every slide; black is where no pair "
    "is. In a smaller cohort its pixels are drawn. Swipe to the H&E: tissue must change where the colours do."
)
_DEFORMATION = "How the grid of the slide is bent; smooth lines are plausible, folds are not."
_UNITS = {"um": "µm", "mm": "mm", "px": "px", "mpp": "µm/px", "deg": "°", "degrees": "°", "seconds": "s", "s": "s"}
_UNITS |= {"mb": "MB", "mib": "MiB", "gb": "GB", "bytes": "bytes"}
_ORDER = {"fail": 0, "warn": 1}


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture with its title and how to read it."""

    title: str
    how: str
    alt: str
    picture: Picture


@dataclass(frozen=True)
class PairView:
    """One registered pair; `classes` are names and CSS colours of the classes of a mask, `inks` those of markers."""

    slide: str
    verdict: Badge | None
    reasons: tuple[str, ...]
    retry: str
    facts: tuple[tuple[str, str], ...]
    sparse: Picture | None
    overlay: Picture | None
    overlay_alt: str
    how: str
    classes: tuple[tuple[str, str], ...]
    multiplex: Picture | None
    inks: tuple[Ink, ...]
    multiplex_how: str
    others: tuple[ExplainedPicture, ...]
    numbers: tuple[tuple[str, str, str], ...]


def by_urgency(views: Iterable[PairView]) -> list[PairView]:
    """Return the pairs with what failed first, then what is in doubt, otherwise in their order."""
    return sorted(views, key=lambda view: _ORDER.get(str(view.verdict or ""), 2))


def quantity(path: str) -> tuple[str, str]:
    """Name and unit of a number of qc.json: `round_trip_um.max` is "round trip: max" in µm."""
    parts, unit = [], ""
    for part in path.split("."):
        name, _, suffix = part.rpartition("_")
        if suffix in _UNITS and (name or suffix == "seconds"):
            unit, part = _UNITS[suffix], name or part
        parts.append(part.replace("_", " "))
    return ": ".join(parts), unit


def pair_view(
    slide: SlideResults, overview: Image.Image | None, side_px: int, inks: Sequence[Ink] = (), slides: int = 1
) -> PairView | None:
    """Return the view of a slide's registration; None where it was not registered.

    Args:
        slide: what there is of it.
        overview: that its H&E is drawn from; None without a store.
        side_px: longest side of the pictures.
        inks: of the markers that are drawn in colour beside the overlay.
        slides: of the cohort.
    """
    registration = slide.registration
    if registration is None:
        return None
    path = registration.pictures.get("overlay")
    overlay, field = (opened(path), part_of(path, FIELD_KEY)) if path else (None, None)
    store = slide.store
    sparse = sparse_picture(store, overview, fitted(field.size, side_px)) if field and store and overview else None
    coloured = composite(store, inks, sparse.size, slides) if store and sparse else None
    kind = dense_kind(slide)
    classes = kind.legend(store.attributes.markers if store else ()) if kind else ()
    retry = f"snakemake --cores all --forcerun register -- {shlex.quote(f'results/register/{slide.slide}/qc.json')}"
    return PairView(
        slide=slide.slide,
        verdict=badge(registration.verdict),
        reasons=registration.reasons,
        retry=retry if registration.verdict == "fail" else "",
        facts=tuple(_facts(slide, registration)),
        sparse=photograph(sparse, side_px) if sparse else None,
        overlay=photograph(field or overlay, side_px) if overlay else None,
        overlay_alt=f"{slide_words(slide).laid_over or 'overlay of the registered dense slide on'} slide {slide.slide}",
        how=overlay_words(slide),
        classes=tuple((name, "#{:02x}{:02x}{:02x}".format(*class_colour(i))) for i, name in enumerate(classes)),
        multiplex=photograph(coloured.picture, side_px) if coloured else None,
        inks=coloured.inks if coloured else (),
        multiplex_how=_PIXELS if coloured and coloured.whole else _MEANS,
        others=tuple(_others(slide, registration, side_px)),
        numbers=tuple(
            (name, _rounded(value), unit)
            for (name, unit), value in ((quantity(path), value) for path, value in registration.numbers.items())
        ),
    )


def part_of(path: Path, key: str) -> Image.Image | None:
    """Return the part of an overlay that its text chunk `key` names, left top width height; None without one."""
    with Image.open(path) as picture:
        text = str(picture.info.get(key, ""))
        size = picture.size
    if not re.fullmatch(r"\d{1,6}( \d{1,6}){3}", text):
        return None
    left, top, width, height = map(int, text.split())
    if not 0 < width <= size[0] - left or not 0 < height <= size[1] - top:
        return None
    return opened(path).crop((left, top, left + width, top + height))


def _others(slide: SlideResults, registration: Registration, side_px: int) -> Iterator[ExplainedPicture]:
    path = registration.pictures.get("overlay")
    if path and (close_ups := part_of(path, CLOSE_UPS_KEY)):
        alt = f"close-ups of slide {slide.slide}"
        yield ExplainedPicture("At the scale of nuclei", _CLOSE_UPS, alt, drawing(close_ups, side_px))
    explained = {"checkerboard": slide_words(slide).checkerboard, "residual": _RESIDUAL, "deformation": _DEFORMATION}
    if slide_words(slide).laid_over:
        del explained["residual"]  # they show no nuclei by which any could be measured
    for name, how in explained.items():
        if name in registration.pictures:
            picture = drawing(opened(registration.pictures[name]), side_px)
            yield ExplainedPicture(name.capitalize(), how, f"{name} of slide {slide.slide}", picture)


def _facts(slide: SlideResults, registration: Registration) -> Iterator[tuple[str, str]]:
    if registration.mode:
        yield "Mode", registration.mode
    for name, key in (("before", "steps.initial.after_um.median"), ("after", "held_out_residual_um.median")):
        if key in registration.numbers:
            yield f"Median residual {name} registration", f"{_rounded(registration.numbers[key])} µm"
    if slide.store and slide.store.has_dense:
        residual = slide.store.table.residual_um[np.isfinite(slide.store.table.residual_um)]
        if len(residual):
            yield "Median shift left in a patch", f"{np.median(residual):.2f} µm"
            yield "In 90 % of the patches at most", f"{np.percentile(residual, 90):.2f} µm"
    if slide.pairs is not None:
        yield "Usable pairs", str(slide.pairs)


def _rounded(value: float) -> str:
    """Return three significant digits, or all of a whole number's: never a power of ten for what fits in a line."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
