"""Draw the multiplex in colour: up to six markers, each in the same colour on every slide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.report.results import SlideResults
from pipeline.slides.kinds import kind_named
from pipeline.store.patch_indices import patch_places
from pipeline.store.patch_store import PatchStore

Floats = NDArray[np.float64]

_NUCLEAR = (64, 84, 230)
_OTHERS = ((0, 255, 70), (255, 50, 50), (255, 210, 0), (0, 210, 255), (255, 70, 255))
MOST_MARKERS = 1 + len(_OTHERS)
# Of the patches of all slides together, decoded: some seconds of reading. What is more is drawn a colour per patch.
_MOST_BYTES = 6_000_000_000
_SMALLEST_PATCH_PX = 4.0  # side of a patch in the picture from which its pixels tell more than its means
_ROWS_AT_ONCE = 64
# Of a marker's values where it is drawn: dark below the first, full colour from the second on. Means over patches have
# a little of everything everywhere.
_PIXELS, _MEANS = (20.0, 99.5), (60.0, 99.5)
_MOST_ROWS = 2000  # of a slide that the choice of markers looks at


@dataclass(frozen=True)
class Ink:
    """A marker and its colour."""

    marker: str
    rgb: tuple[int, int, int]

    @property
    def css(self) -> str:
        """The colour as the style sheet writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


@dataclass(frozen=True)
class Composite:
    """A slide's markers in colour.

    Attributes:
        picture: (h, w, 3) uint8, the whole slide, black where there is no pair.
        inks: of the markers that the slide has.
        whole: whether pixels were drawn; otherwise each patch has one colour, that of its means.
    """

    picture: NDArray[np.uint8]
    inks: tuple[Ink, ...]
    whole: bool


def chosen_inks(slides: Iterable[SlideResults]) -> tuple[Ink, ...]:
    """Return the markers that are drawn on every slide of a cohort: the nuclear one, and those that differ most.

    One after the other the marker is taken whose variation over the tissue, of log(1 + mean), those before it explain
    least: T cells are not shown three times. What shows autofluorescence, or nothing by the check of the panel, is left
    out, and so is what less than half of the slides have.
    """
    stores, left_out = [], set()
    for slide in slides:
        if slide.store and _is_multiplex(slide.store):
            stores.append(slide.store)
            if slide.panel:
                left_out |= {slide.panel.autofluorescence, *slide.panel.left_out}
    counts = Counter(name for store in stores for name in store.attributes.markers)
    kept = [name for name, count in counts.items() if name not in left_out and 2 * count >= len(stores)]
    nuclear = [name for name in kept if any(name == _nuclear_marker(store) for store in stores)]
    first = kept.index(nuclear[0]) if nuclear else None
    order = [kept[index] for index in _least_explained(_covariance(stores, kept), first)]
    others = [name for name in order if name not in nuclear]
    inks = [Ink(name, rgb) for name, rgb in zip(others, _OTHERS, strict=False)]
    return (*(Ink(name, _NUCLEAR) for name in nuclear[:1]), *inks)


def _nuclear_marker(store: PatchStore) -> str:
    known = store.attributes
    return "" if known.nuclear_channel is None else known.markers[known.nuclear_channel]


def composite(store: PatchStore, inks: Sequence[Ink], size_px: tuple[int, int], slides: int) -> Composite | None:
    """Return the whole slide in colour; None where it has none of the markers, or no pairs.

    Args:
        store: of the slide.
        inks: of the cohort.
        size_px: width and height of the picture.
        slides: of the cohort, which share the time for reading pixels.
    """
    if not _is_multiplex(store):
        return None
    known = store.attributes
    shown = tuple(ink for ink in inks if ink.marker in known.markers)
    rows = np.flatnonzero(store.table.pair_quality > 0)
    if not shown or not len(rows):
        return None
    columns = [known.markers.index(ink.marker) for ink in shown]
    decoded = len(rows) * known.dense_channels * known.dense_size_px**2 * store.dense_dtype.itemsize
    side_px = known.size_px * known.mpp / known.mpp_level0 * size_px[0] / known.size_level0_px[0]
    whole = decoded * slides <= _MOST_BYTES and side_px >= _SMALLEST_PATCH_PX
    planes, drawn = (_pixels if whole else _means)(store, rows, columns, size_px)
    return Composite(_coloured(planes, drawn, shown, _PIXELS if whole else _MEANS), shown, whole)


def _is_multiplex(store: PatchStore) -> bool:
    return store.has_dense and kind_named(store.attributes.dense_kind).name == "fluorescence"


def _covariance(stores: Sequence[PatchStore], names: Sequence[str]) -> Floats:
    """Return (T, T) the covariance within slides of log(1 + mean) over a sample of pairs, averaged over slides."""
    total, count = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for store in stores:
        markers = store.attributes.markers
        here = [index for index, name in enumerate(names) if name in markers]
        rows = np.flatnonzero(store.table.pair_quality > 0)
        rows = rows[:: max(1, len(rows) // _MOST_ROWS)]
        if len(rows) < 2 or not here:
            continue
        columns = [markers.index(names[index]) for index in here]
        means = store.table.marker_mean[rows][:, columns]
        values = np.log1p(np.maximum(np.nan_to_num(means.astype(np.float64)), 0))
        total[np.ix_(here, here)] += np.atleast_2d(np.cov(values, rowvar=False))
        count[np.ix_(here, here)] += 1
    return np.asarray(total / np.maximum(count, 1))


def _least_explained(covariance: Floats, first: int | None) -> list[int]:
    """Return all indices, each next one that with the largest variance left: a pivoted Cholesky factorisation."""
    left = covariance.copy()
    order: list[int] = []
    while len(order) < len(left):
        variance = np.diag(left).copy()
        variance[order] = -np.inf
        chosen = first if first is not None and not order else int(np.argmax(variance))
        order.append(chosen)
        if left[chosen, chosen] > 0:
            left -= np.outer(left[:, chosen], left[chosen]) / left[chosen, chosen]
    return order


def _pixels(
    store: PatchStore, rows: NDArray[np.int64], columns: Sequence[int], size_px: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return planes (K, h, w) of the patches, scaled down and laid in their places, and where any lies."""
    known = store.attributes
    scale = np.asarray(size_px) / np.asarray(known.size_level0_px)
    side_level0 = known.size_px * known.mpp / known.mpp_level0
    first = np.rint(store.table.position_px[rows] * scale).astype(np.int64)
    last = np.rint((store.table.position_px[rows] + side_level0) * scale).astype(np.int64)
    planes = np.zeros((len(columns), size_px[1], size_px[0]), np.float32)
    drawn = np.zeros(planes.shape[1:], np.bool_)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        patches = store.read_dense(block)[:, list(columns)].astype(np.float32)
        for place, patch in enumerate(patches, start):
            (left, top), (right, bottom) = first[place], np.maximum(last[place], first[place] + 1)
            for plane, pixels in zip(planes[:, top:bottom, left:right], patch, strict=True):
                small = cv2.resize(pixels, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
                plane[...] = small[: plane.shape[0], : plane.shape[1]]
            drawn[top:bottom, left:right] = True
    return planes, drawn


def _means(
    store: PatchStore, rows: NDArray[np.int64], columns: Sequence[int], size_px: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return planes (K, h, w) of one value per patch, and where any lies."""
    places = patch_places(store)
    assert places is not None
    there = np.zeros(places.shape, np.uint8)
    there[places.row[rows], places.column[rows]] = 1
    left, top = round(places.left * size_px[0]), round(places.top * size_px[1])
    width, height = max(1, round(places.width * size_px[0])), max(1, round(places.height * size_px[1]))
    planes = np.zeros((len(columns), size_px[1], size_px[0]), np.float32)
    drawn = np.zeros(planes.shape[1:], np.bool_)
    area = drawn[top : top + height, left : left + width]
    area[...] = cv2.resize(there, area.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    for plane, column in zip(planes[:, top : top + height, left : left + width], columns, strict=True):
        grid = np.zeros(places.shape, np.float32)
        grid[places.row[rows], places.column[rows]] = store.table.marker_mean[rows, column]
        plane[...] = cv2.resize(grid, area.shape[::-1], interpolation=cv2.INTER_NEAREST)
    return planes, drawn


def _coloured(
    planes: NDArray[np.float32], drawn: NDArray[np.bool_], inks: Sequence[Ink], percentiles: tuple[float, float]
) -> NDArray[np.uint8]:
    """Return (h, w, 3) the sum of the markers' light, each between two percentiles of what is drawn of it.

    What is too bright keeps its hue.
    """
    light = np.zeros((*drawn.shape, 3), np.float32)
    for plane, ink in zip(planes, inks, strict=True):
        low, high = np.percentile(plane[drawn], percentiles)
        share = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * drawn
        light += share[..., None] * np.asarray(ink.rgb, np.float32)
    light *= 255 / np.maximum(light.max(axis=2, keepdims=True), 255)
    return np.rint(light).astype(np.uint8)
