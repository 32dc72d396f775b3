"""The sparse side of a tile job: which squares it takes, and whether they are copied or decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from imagecodecs import jpeg8_decode
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.settings import TileSettings
from pipeline.slides.base import Slide
from pipeline.slides.jpeg_tiles import Stream, joined
from pipeline.slides.record import SlideRecord
from pipeline.tiling.grid import Grid
from pipeline.tiling.lattice import TileLattice, copied_transform, find_lattice
from pipeline.tiling.sampling import read_sparse_patch


@dataclass(frozen=True)
class SparseSide:
    """The open sparse slide and the squares to take from it.

    Attributes:
        slide: the slide.
        grid: the squares.
        lattice: the JPEG tiles that they are; None where they are decoded on a grid of their own.
        transform: what copied streams say of their colours; None where patches are stored decoded.
    """

    slide: Slide
    grid: Grid
    lattice: TileLattice | None
    transform: int | None

    @classmethod
    def of(cls, slide: Slide, grid: Grid, lattice: TileLattice | None, codec: str) -> Self:
        """The side whose patches are stored by `codec`, as the settings call it."""
        copies = lattice is not None and codec == "auto"
        return cls(slide, grid, lattice, copied_transform(slide, lattice) if lattice and copies else None)

    def streams(self, rows: slice) -> list[Stream] | None:
        """The JPEG streams of these squares; None where they are to be decoded."""
        if self.lattice is None or self.transform is None:
            return None
        return self.lattice.tiles.streams(self.lattice.numbers[rows, 0], self.transform)

    def decoded(self, first_row: int, streams: Sequence[Stream]) -> NDArray[np.uint8]:
        """(n, P, P, 3): the pixels of copied squares from `first_row` on.

        Raises:
            StatedError: if a stream is broken.
        """
        side = self.grid.size_px
        pixels = np.empty((len(streams), side, side, 3), dtype=np.uint8)
        for place, stream in enumerate(streams):
            try:
                jpeg8_decode(joined(stream), out=pixels[place])
            except (RuntimeError, ValueError) as error:
                x, y = self.grid.position_px[first_row + place].tolist()
                expected = f"a readable JPEG tile at level-0 pixel ({x}, {y})"
                raise StatedError(file=self.slide.header.path, expected=expected, found=str(error)) from None
        return pixels

    def pixels(self, rows: slice) -> NDArray[np.uint8]:
        """(n, P, P, 3): these squares, decoded by the slide's reader."""
        return np.stack([read_sparse_patch(self.slide, self.grid, corner) for corner in self.grid.position_px[rows]])


def wanted_lattice(record: SlideRecord, settings: TileSettings, slide: Slide, grid: Grid) -> TileLattice | None:
    """The JPEG tiles that the squares are, where the settings want and the slide allows it; to be closed.

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
