"""Decide whether the squares of a grid are whole JPEG tiles, which are copied instead of decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Pixels, Slide, level_for
from pipeline.slides.jpeg_level import shown_transform
from pipeline.slides.jpeg_tiles import JpegTiles
from pipeline.tiling.grid import Grid

# What a patch may drift over its side and still be called the slide's own pixels.
_ALIGNED_PX = 0.01


@dataclass(frozen=True)
class TileLattice:
    """Squares that are whole tiles.

    Attributes:
        tiles: the open tiles of the level; who holds the lattice closes them.
        level: the level of the slide.
        tiles_per_side: 1 where a square is one tile.
        numbers: (N, tiles_per_side**2) int64, the tiles of each square.
    """

    tiles: JpegTiles
    level: int
    tiles_per_side: int
    numbers: NDArray[np.int64]

    @property
    def has_pixels(self) -> NDArray[np.bool_]:
        """(N,): false for squares of which the scanner left out every tile."""
        return np.asarray((self.tiles.counts[self.numbers] > 0).any(axis=1))

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """Return the lattice with only the squares where `rows` is true."""
        return type(self)(self.tiles, self.level, self.tiles_per_side, self.numbers[rows])


@dataclass(frozen=True)
class NoLattice:
    """Why squares are not whole tiles, in words that end the sentence "found …"."""

    reason: str


def find_lattice(slide: Slide, grid: Grid) -> TileLattice | NoLattice:
    """Return how the squares of `grid` lie on the tiles of the slide."""
    header = slide.header
    if not header.is_rgb or header.dtype != "uint8":
        return NoLattice(f"channels {', '.join(header.channels)} of {header.dtype}")
    index = level_for(header.levels, grid.downsample)
    level = header.levels[index]
    step = grid.downsample / level.downsample
    if abs(step - 1) * grid.size_px >= _ALIGNED_PX:
        return NoLattice(f"no level of {grid.mpp:g} um/px, the next at {grid.mpp / step:g} um/px")
    tiles = JpegTiles.open(header.path, level.size_xy)
    if tiles is None:
        return NoLattice("a level without square 8-bit JPEG tiles")
    per_side, rest = divmod(grid.size_px, tiles.side_px)
    corners = (grid.position_px + grid.downsample / 2) / level.downsample - 0.5
    whole = np.rint(corners).astype(np.int64)
    if rest or not per_side or np.abs(corners - whole).max(initial=0) >= _ALIGNED_PX or (whole % tiles.side_px).any():
        tiles.close()
        return NoLattice(f"JPEG tiles of {tiles.side_px} px")
    column, row = (whole // tiles.side_px).T
    inside = np.arange(per_side)
    offsets = (inside[:, None] * tiles.across + inside).reshape(-1)
    return TileLattice(tiles, index, per_side, (row * tiles.across + column)[:, None] + offsets)


def copied_transform(slide: Slide, lattice: TileLattice) -> int | None:
    """Return what a copied stream must say of its colours for it to show what the slide's reader shows.

    See `pipeline.slides.jpeg_level.shown_transform`.

    Returns:
        The transform of `pipeline.slides.jpeg_tiles`; None where the squares cannot be copied.
    """
    if lattice.tiles_per_side != 1 or not len(lattice.numbers):
        return None
    known = slide.jpeg_transform(lattice.level)
    if known is not None:
        return known

    def show(corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels:
        return slide.read_region(lattice.level, corner_xy, size_xy)

    return shown_transform(lattice.tiles, slide.header.levels[lattice.level].size_xy, show)
