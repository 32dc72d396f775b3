"""Draw the map of the patches in pictures: a few dozen patches at their positions among the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.embedding_maps import Components
from pipeline.report.pictures import Picture, photograph
from pipeline.report.results import Results
from pipeline.report.svg import linear

Floats = NDArray[np.float64]

# Columns and rows of the parts of the map, of each of which one patch is drawn.
GRIDS = ((9, 6), (12, 8), (15, 10))
_ENOUGH = 24
_SIDE_PX = 96
_EDGE = np.array([0.043, 0.068])  # half of a picture, in shares of the map: at its edge they stay inside


@dataclass(frozen=True)
class Representative:
    """A patch on the map; `left` and `top` say where its centre lies, in shares of the map."""

    slide: str
    row: int
    picture: Picture
    left: float
    top: float


@dataclass(frozen=True)
class PatchMap:
    """The patches, from left to right and from top to bottom, and the shares of variance of the two axes."""

    patches: tuple[Representative, ...]
    shares: tuple[float, float]


def patch_map(results: Results, components: Components) -> PatchMap | None:
    """Return one patch of each part of the map that has any; None where no store is there to read them from."""
    stores = {slide.slide: slide.store for slide in results.slides if slide.store is not None}
    names = [name for name, points in components.points.items() if len(points) and name in stores]
    if not names:
        return None
    points = np.concatenate([components.points[name] for name in names])
    rows = np.concatenate([components.rows[name] for name in names])
    owner = np.repeat(np.arange(len(names)), [len(components.points[name]) for name in names])
    across, up = linear(points[:, 0].tolist(), 0, 1), linear(points[:, 1].tolist(), 1, 0)
    shown = np.array([(across(x), up(y)) for x, y in points.tolist()])
    patches = []
    for index in representatives(shown):
        slide, row = names[owner[index]], int(rows[index])
        picture = photograph(stores[slide].read_sparse(slice(row, row + 1))[0], _SIDE_PX)
        left, top = np.clip(shown[index], _EDGE, 1 - _EDGE).tolist()
        patches.append(Representative(slide, row, picture, left, top))
    return PatchMap(tuple(patches), (float(components.explained[0]), float(components.explained[1])))


def representatives(points: Floats) -> list[int]:
    """Return which of the places (n, 2), in shares of the map, are drawn: the most central ones of a grid.

    It is the coarsest with two dozen occupied cells: a few patches far out leave most of a map empty.
    """
    chosen: list[int] = []
    for columns, rows in GRIDS:
        chosen = most_central(points, columns, rows)
        if len(chosen) >= _ENOUGH:
            break
    return chosen


def most_central(points: Floats, columns: int, rows: int) -> list[int]:
    """Return of positions (n, 2), shares of the map, the one nearest to the middle of each cell, row by row."""
    grid = np.array([columns, rows])
    cell = np.clip(np.floor(points * grid), 0, grid - 1)
    distance = np.hypot(*((points * grid - cell - 0.5).T))
    number = (cell[:, 1] * columns + cell[:, 0]).astype(np.int64)
    order = np.lexsort((distance, number))
    first = np.unique(number[order], return_index=True)[1]
    return [int(index) for index in order[first]]
