"""Locate the patches of a store: on its grid as one small pixel per patch over the slide, and in um."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.store.patch_store import PatchStore


@dataclass(frozen=True)
class PatchPlaces:
    """The part of the grid that holds the patches of a slide.

    Attributes:
        row: (N,) int64, from the uppermost patch.
        column: (N,) int64, from the leftmost patch.
        shape: rows and columns of that part.
        left: its left edge, as a fraction of the slide's width.
        top: its upper edge, as a fraction of the slide's height.
        width: as a fraction of the slide's width.
        height: as a fraction of the slide's height.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    shape: tuple[int, int]
    left: float
    top: float
    width: float
    height: float


def patch_centres_um(store: PatchStore, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n, 2) float64, xy of the centres of these rows of a store."""
    known = store.attributes
    # A position is the centre of the patch's first level-0 pixel, half a pixel inside its corner.
    offset = (known.size_px * known.mpp - known.mpp_level0) / 2
    return np.asarray(store.table.position_um[rows], dtype=np.float64) + offset


def patch_places(store: PatchStore) -> PatchPlaces | None:
    """Return the places of the patches of a store; None where it has none."""
    attributes, position = store.attributes, store.table.position_px
    if not len(position):
        return None
    pitch = attributes.size_px * attributes.mpp / attributes.mpp_level0
    origin = position.min(axis=0)
    column, row = np.rint((position - origin) / pitch).astype(np.int64).T
    shape = int(row.max()) + 1, int(column.max()) + 1
    full = np.asarray(attributes.size_level0_px, dtype=np.float64)
    left, top = origin / full
    width, height = np.asarray(shape[::-1]) * pitch / full
    return PatchPlaces(row, column, shape, float(left), float(top), float(width), float(height))
