"""Whether the squares of a grid are whole JPEG tiles of the slide, so that they can be copied instead of decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from imagecodecs import jpeg8_decode
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.base import Slide, level_for
from pipeline.slides.jpeg_tiles import RGB, YCBCR, JpegTiles, joined
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
        """The lattice with only the squares where `rows` is true."""
        return type(self)(self.tiles, self.level, self.tiles_per_side, self.numbers[rows])


@dataclass(frozen=True)
class NoLattice:
    """Why squares are no whole tiles, in words that end the sentence "found …"."""

    reason: str


def find_lattice(slide: Slide, grid: Grid) -> TileLattice | NoLattice:
    """How the squares of `grid` lie on the tiles of the slide."""
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
    """What a copied stream must say of its colours for it to show what the slide's reader shows.

    Files contradict themselves: a tile may claim YCbCr where its page says RGB, and readers differ in whom they
    believe. So three tiles are decoded either way and compared with the slide's pixels, which must be met exactly.

    Returns:
        The transform of `pipeline.slides.jpeg_tiles`; None where the squares cannot be copied.
    """
    if lattice.tiles_per_side != 1 or not len(lattice.numbers):
        return None
    tiles, count = lattice.tiles, len(lattice.numbers)
    numbers = lattice.numbers[np.unique([0, count // 2, count - 1]), 0]
    side = tiles.side_px
    try:
        shown = [
            slide.read_region(lattice.level, (int(x) * side, int(y) * side), (side, side))
            for y, x in zip(*divmod(numbers, tiles.across), strict=True)
        ]
        for transform in (RGB, YCBCR):
            decoded = [jpeg8_decode(joined(stream)) for stream in tiles.streams(numbers, transform)]
            if all(np.array_equal(a, b) for a, b in zip(decoded, shown, strict=True)):
                return transform
    except (StatedError, RuntimeError):
        # A tile that is broken is told by the path that decodes it, which every reader shares.
        return None
    return None
