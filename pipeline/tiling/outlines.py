"""Convert pixel masks to polygons along the edges of pixels, and back by the pixels' centres."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Floats

Ring = NDArray[np.int64]
Polygon = list[Floats]

_CROSSINGS_AT_ONCE = 4_000_000


def polygons_of(mask: NDArray[np.bool_]) -> list[list[Ring]]:
    """Return the polygons that cover exactly the mask's pixels.

    Returns:
        Per polygon its outer ring and then its holes; a ring is (n, 2), xy of the corners of pixels, pixel (0, 0)
        reaching from (0, 0) to (1, 1), and does not repeat its first point. No ring touches itself.
    """
    # At twice the size every pixel is two wide, so that the line through a piece's border pixels, which OpenCV follows,
    # keeps its two sides apart: halved and rounded up it is the line along their edges.
    twice = np.repeat(np.repeat(mask.view(np.uint8), 2, axis=0), 2, axis=1)
    outlines, hierarchy = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found: list[list[Ring]] = []
    if not outlines:
        return found
    pieces: dict[int, list[Ring]] = {}
    for number, outline in enumerate(outlines):
        parent = int(hierarchy[0][number][3])
        corners = (outline[:, 0].astype(np.int64) + 1) // 2
        pieces.setdefault(number if parent < 0 else parent, []).extend(_simple_rings(corners))
    for rings in pieces.values():
        found += _nested(rings)
    return found


def paint(target: NDArray[np.uint8], polygon: Polygon, value: int, x: Floats, y: Floats) -> None:
    """Set the pixels whose sampling point lies inside a polygon, by the even-odd rule.

    Args:
        target: (h, w), changed in place.
        polygon: rings (n, 2), xy; closed or not, they may cross themselves.
        value: what to set.
        x: (w,) ascending, where the columns are sampled, in the polygon's coordinates.
        y: (h,) ascending, where the rows are.
    """
    corners = np.concatenate(polygon)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    rows = slice(*np.searchsorted(y, [top, bottom]))
    columns = slice(*np.searchsorted(x, [left, right]))
    x, y = x[columns], y[rows]
    if not len(x) or not len(y):
        return
    start = corners
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in polygon])
    toggles = np.zeros((len(y), len(x) + 1), dtype=np.int64)
    for row, crossing in _crossings(start, end, y):
        flat = row * toggles.shape[1] + np.searchsorted(x, crossing)
        toggles += np.bincount(flat, minlength=toggles.size).reshape(toggles.shape)
    inside = np.cumsum(toggles[:, :-1], axis=1) % 2 == 1
    target[rows, columns][inside] = value


def _crossings(start: Floats, end: Floats, y: Floats) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield row and x of every place where an edge crosses a sampled row, some millions at a time."""
    first = np.searchsorted(y, np.minimum(start[:, 1], end[:, 1]))
    counts = np.searchsorted(y, np.maximum(start[:, 1], end[:, 1])) - first
    crossed = np.flatnonzero(counts)
    start, end, first, counts = start[crossed], end[crossed], first[crossed], counts[crossed]
    groups = np.cumsum(counts) // _CROSSINGS_AT_ONCE
    for group in np.unique(groups):
        edge = np.repeat(np.flatnonzero(groups == group), counts[groups == group])
        own = counts[groups == group]
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(own) - own, own)
        slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
        yield row, start[edge, 0] + slope * (y[row] - start[edge, 1])


def _simple_rings(corners: Ring) -> list[Ring]:
    """Return a closed walk along pixel edges, parted where it meets itself, without the points on straight lines."""
    rings: list[Ring] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in map(tuple, corners.tolist()):
        if path and corner == path[-1]:
            continue
        if corner in place:
            cut = place[corner]
            rings.append(np.array(path[cut:], dtype=np.int64))
            for passed in path[cut:]:
                del place[passed]
            del path[cut:]
        place[corner] = len(path)
        path.append(corner)
    rings.append(np.array(path, dtype=np.int64))
    return [_bends(ring) for ring in rings if len(ring) >= 4]


def _bends(ring: Ring) -> Ring:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(ring[turns], dtype=np.int64)


def _nested(rings: Sequence[Ring]) -> list[list[Ring]]:
    """Return outer rings, each with the holes that lie in it.

    OpenCV walks the former and the latter opposite ways round.
    """
    areas = [_signed_area(ring) for ring in rings]
    outer = sorted((number for number, area in enumerate(areas) if area < 0), key=lambda number: -areas[number])
    polygons = {number: [rings[number]] for number in outer}
    for number, area in enumerate(areas):
        if area > 0:
            holder = outer[0] if len(outer) == 1 else next(o for o in outer if _holds(rings[o], rings[number]))
            polygons[holder].append(rings[number])
    return [polygons[number] for number in sorted(outer)]


def _holds(outer: Ring, hole: Ring) -> bool:
    """Return whether the middle of the pixel inside the hole's upper left corner lies in the outer ring."""
    corner = hole[np.lexsort((hole[:, 0], hole[:, 1]))[0]] + 0.5
    inside = cv2.pointPolygonTest(outer.astype(np.float32)[:, None], (float(corner[0]), float(corner[1])), False)
    return bool(inside > 0)


def _signed_area(ring: Ring) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
