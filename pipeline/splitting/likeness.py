"""Decide whether two stores hold one slide: exported twice, recompressed, in another format or magnification.

Bytes do not tell. The fine structure of the whole slide finds pairs that may be one slide; patches at the same places
then decide, for nuclei lie at the same places in no two sections, however alike their outlines are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from pipeline.store.patch_store import PatchStore

Structure = NDArray[np.float32]
Pixels = NDArray[np.uint8]

_SIDE_PX, _LEAST_SIDE_PX = 64, 32
# Structure wider than this is the outline of the tissue, or uneven light.
_WIDE_PX = 1.5
# Of 255: below it there is nothing but noise and the traces of compression.
_FLAT = 1.0
# Patches are compared at a quarter of their resolution, so that half a pixel of rounding does not matter.
_COARSER, _LEAST_PATCH_PX = 4, 8
_FEWEST_PATCHES, _MOST_PATCHES = 4, 24
_SAME_MPP = 0.01
# Measured on H&E: of one slide, stored as JPEG of quality 30 or at half the magnification, 0.90 and more for the whole
# and 0.98 for patches; of neighbouring sections of one block 0.35 at most, of drawn slides that differ by their nuclei
# only 0.92 for the whole and 0.02 for patches.
_ALIKE, _SAME = 0.75, 0.7


def slide_structure(overview: Pixels) -> Structure | None:
    """Return the fine structure (64 x 64) of a whole slide (h, w, 3), of mean 0 and length 1; None if there is none."""
    if min(overview.shape[:2]) < _LEAST_SIDE_PX:
        return None
    return _normal(cv2.resize(overview, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA))


def alike(structures: Sequence[Structure | None]) -> Iterator[tuple[int, int]]:
    """Yield the indices of every two slides that may be one, by their structure as a whole."""
    known = [index for index, structure in enumerate(structures) if structure is not None]
    stacked = np.array([structures[index] for index in known], dtype=np.float32)
    for row, index in enumerate(known):
        found = stacked[:row] @ stacked[row] if row else np.empty(0)
        yield from ((known[int(other)], index) for other in np.flatnonzero(found >= _ALIKE))


def is_same(one: PatchStore, other: PatchStore) -> bool | None:
    """Return whether two stores show the same nuclei at the same places.

    None where they cannot be compared: too few of their patches overlap, or show anything there.
    """
    mpp = one.attributes.mpp
    if not len(one) or not len(other) or abs(other.attributes.mpp - mpp) > _SAME_MPP * mpp:
        return None
    rows = np.unique(np.linspace(0, len(one) - 1, _MOST_PATCHES).round().astype(np.int64))
    places_um = one.table.position_um[rows]
    _, nearest = KDTree(other.table.position_um).query(places_um, p=np.inf)
    # Lattices differ where they follow the files' tiles.
    offsets_px = np.rint((other.table.position_um[nearest] - places_um) / mpp).astype(np.int64)
    near = np.abs(offsets_px).max(axis=1) <= one.attributes.size_px // 2
    rows, nearest, offsets_px = rows[near], nearest[near], offsets_px[near]
    if len(rows) < _FEWEST_PATCHES:
        return None
    patches = zip(one.read_sparse(rows), other.read_sparse(nearest), offsets_px.tolist(), strict=True)
    pairs = [[_patch_structure(part) for part in _overlap(a, b, x, y)] for a, b, (x, y) in patches]
    found = [float(a @ b) for a, b in pairs if a is not None and b is not None]
    return bool(np.median(found) >= _SAME) if len(found) >= _FEWEST_PATCHES else None


def _overlap(one: Pixels, other: Pixels, x: int, y: int) -> tuple[Pixels, Pixels]:
    """Return what two patches share, the corner of the other being at (x, y) of the first."""
    width, height = (min(one.shape[i], other.shape[i] + start) - max(start, 0) for i, start in ((1, x), (0, y)))
    (left, top), (other_left, other_top) = (max(x, 0), max(y, 0)), (max(-x, 0), max(-y, 0))
    return (
        one[top : top + height, left : left + width],
        other[other_top : other_top + height, other_left : other_left + width],
    )


def _patch_structure(patch: Pixels) -> Structure | None:
    height, width = (side // _COARSER for side in patch.shape[:2])
    if min(height, width) < _LEAST_PATCH_PX:
        return None
    return _normal(cv2.resize(patch, (width, height), interpolation=cv2.INTER_AREA))


def _normal(rgb: NDArray[Any]) -> Structure | None:
    """Return what is finer than a few pixels of an image (h, w, 3): (h w), mean 0, length 1; None if hardly any."""
    grey = rgb.astype(np.float32).mean(axis=2)
    fine = (grey - cv2.GaussianBlur(grey, (0, 0), _WIDE_PX)).ravel()
    fine -= fine.mean()
    if fine.std() < _FLAT:
        return None
    return np.asarray(fine / np.linalg.norm(fine), dtype=np.float32)
