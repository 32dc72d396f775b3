"""Read the sparse side of a tile job: which squares it takes, copied or decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.settings import TileSettings
from pipeline.slides.base import CorruptTileError, Slide
from pipeline.slides.jpeg_tiles import Stream, decode_strictly, joined
from pipeline.slides.record import SlideRecord
from pipeline.tiling.grid import Grid
from pipeline.tiling.lattice import TileLattice, copied_transform, find_lattice
from pipeline.tiling.sampling import read_window, sparse_window

# Squares side by side in a block of which all rows of a shard are read before the next block is.
_SQUARES_PER_BLOCK = 8


@dataclass(frozen=True)
class SparseSide:
    """The open sparse slide and the squares to take from it.

    Attributes:
        slide: the slide.
        grid: the squares.
        lattice: the JPEG tiles that they are; None where they are decoded on another grid.
        transform: what copied streams say of their colours; None where patches are stored decoded.
        verify: whether copied streams are decoded, only to see whether they can be.
    """

    slide: Slide
    grid: Grid
    lattice: TileLattice | None
    transform: int | None
    verify: bool

    @classmethod
    def of(cls, slide: Slide, grid: Grid, lattice: TileLattice | None, settings: TileSettings) -> Self:
        """Return the side whose patches are stored as the settings say."""
        copies = lattice is not None and settings.codec == "auto"
        transform = copied_transform(slide, lattice) if lattice and copies else None
        return cls(slide, grid, lattice, transform, settings.verify)

    def streams(self, rows: slice) -> list[Stream | None] | None:
        """Return the JPEG streams of these squares, None for one that is corrupt; None where all are to be decoded."""
        if self.lattice is None or self.transform is None:
            return None
        streams = self.lattice.tiles.streams(self.lattice.numbers[rows, 0], self.transform)
        return [stream if stream and _decodes(stream) else None for stream in streams] if self.verify else streams

    def decoded(self, streams: Sequence[Stream | None]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return (n, P, P, 3): the pixels of copied squares; and (n,), which of them are corrupt."""
        side = self.grid.size_px
        pixels = np.zeros((len(streams), side, side, 3), dtype=np.uint8)
        corrupt = np.zeros(len(streams), dtype=np.bool_)
        for index, stream in enumerate(streams):
            try:
                if stream is None:
                    raise ValueError("no JPEG stream")
                decode_strictly(joined(stream), pixels[index])
            except ValueError:
                corrupt[index] = True
        return pixels, corrupt

    def pixels(self, rows: slice) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return (n, P, P, 3): these squares, decoded by the slide's reader; and (n,), which of them are corrupt.

        Squares that share tiles of the slide are read one after the other, column by column of a few at a time, so
        that each tile is decoded about once while it is kept.
        """
        corners, side = self.grid.position_px[rows], self.grid.size_px
        pixels = np.empty((len(corners), side, side, 3), dtype=np.uint8)
        corrupt = np.zeros(len(corners), dtype=np.bool_)
        blocks = (corners[:, 0] / (_SQUARES_PER_BLOCK * self.grid.size_level0_px)).astype(np.int64)
        for index in np.lexsort((corners[:, 0], corners[:, 1], blocks)).tolist():
            window = sparse_window(self.slide, self.grid, corners[index])
            try:
                pixels[index] = read_window(self.slide, window, side)
                corrupt[index] = self.slide.is_corrupt(window.level, window.corner_xy, window.size_xy)
            except CorruptTileError:
                corrupt[index] = True
        return pixels, corrupt

    def without(self, corrupt: NDArray[np.bool_]) -> Self:
        """Return the side without the squares that are corrupt."""
        lattice = self.lattice.take(~corrupt) if self.lattice else None
        return replace(self, grid=self.grid.take(~corrupt), lattice=lattice)


def _decodes(stream: Stream) -> bool:
    try:
        decode_strictly(joined(stream))
    except ValueError:
        return False
    return True


def wanted_lattice(record: SlideRecord, settings: TileSettings, slide: Slide, grid: Grid) -> TileLattice | None:
    """Return the JPEG tiles that the squares are, where the settings want and the slide allows it; to be closed.

    Raises:
        StatedError: if the settings insist and the slide does not allow it.
    """
    if settings.grid == "exact":
        return None
    found = find_lattice(slide, grid)
    if isinstance(found, TileLattice):
        return found
    if settings.grid == "lattice":
        raise StatedError(
            slide=record.slide,
            file=record.sparse.path,
            expected=f"patches of {grid.size_px} px, {grid.mpp:g} um/px, that are whole JPEG tiles (tile.grid lattice)",
            found=found.reason,
        )
    return None
