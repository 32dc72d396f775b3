"""Present both sides of a slide as lazy dask arrays on one grid, for napari or for computing without a warped copy.

No stage needs this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.given_table import MppPair
from pipeline.registration.transform import Transform
from pipeline.registration.transform_file import read_transform
from pipeline.slides.base import Pixels
from pipeline.slides.kinds import kind_named
from pipeline.slides.lazy_blocks import lazy_blocks, opened_once
from pipeline.slides.record import SideRecord, SlideRecord, read_record
from pipeline.tiling.grid import Grid
from pipeline.tiling.sampling import read_dense_patch, read_sparse_patch

if TYPE_CHECKING:
    from dask.array import Array

# Of blocks of 512 px a window on a screen takes a dozen, and 20 channels of uint16 take 10 MB.
BLOCK_PX = 512


@dataclass(frozen=True, eq=False)
class LazyPair:
    """Both sides of a slide on one grid, read where and when they are looked at.

    Pixel (y, x) of both is centred at ((x + 0.5) * mpp, (y + 0.5) * mpp) less half a level-0 pixel, in um of the
    sparse frame.

    Attributes:
        mpp: um per pixel.
        sparse_yxc: (H, W, 3) uint8, the H&E.
        dense_cyx: (C, H, W) in the dense slide's own type, through the transform; beyond the dense slide white where
            it is RGB, else 0.
        channels: the names of the dense channels.
    """

    mpp: float
    sparse_yxc: Array
    dense_cyx: Array
    channels: tuple[str, ...]


def open_lazy_pair(record: Path, transform: Path, *, mpp: float | None = None) -> LazyPair:
    """Return the two sides of a slide as `inspect` and `register` left them.

    Each block is read from the right level of its pyramid as a patch of a store is, so a block costs what such a
    patch costs, and nothing is read before it is computed. Files stay open as long as the process lives.

    Args:
        record: `results/inspect/{slide}.json`; run from the folder that the sheet's paths are relative to.
        transform: `results/register/{slide}/transform.zarr`, or any other file that a sheet may name.
        mpp: um per pixel; None is that of the H&E at level 0. Where it is not a multiple of that, the corner of each
            block is rounded to a level-0 pixel, as the corner of each patch is.

    Raises:
        StatedError: if a file is absent or broken, the slide has no dense image, or `mpp` is finer than the H&E.
    """
    slide = read_record(record)
    dense = slide.dense
    if dense is None or not kind_named(dense.kind).is_image:
        found = "none" if dense is None else kind_named(dense.kind).words.side
        raise StatedError(slide=slide.slide, file=record, expected="a slide with a dense image", found=found)
    mpp_level0 = slide.sparse.mpp
    mpp = mpp_level0 if mpp is None else mpp
    if not mpp >= mpp_level0:
        expected = f"{mpp_level0:g} um/px, the resolution of the H&E, or coarser"
        raise StatedError(slide=slide.slide, file=record, expected=expected, found=f"{mpp:g} um/px")
    # The whole slide's pixels, the last ones where their squares still lie on it by more than half.
    width, height = (max(round(side * mpp_level0 / mpp), 1) for side in slide.sparse.size_xy)
    grid = Grid(BLOCK_PX, mpp, mpp_level0, np.zeros((0, 2), np.int64))
    warp = _DenseBlock(slide, dense, read_transform(transform, MppPair(slide.sparse.mpp, dense.mpp)), grid)
    return LazyPair(
        mpp=mpp,
        sparse_yxc=lazy_blocks(_SparseBlock(slide, grid), (height, width, 3), (0, 1), "uint8", BLOCK_PX),
        dense_cyx=lazy_blocks(warp, (len(dense.channels), height, width), (1, 2), dense.dtype, BLOCK_PX),
        channels=dense.channels,
    )


@dataclass(frozen=True, eq=False)
class _SparseBlock:
    """Reads the H&E's square at a corner; may be sent to another process, which opens the file itself."""

    record: SlideRecord
    grid: Grid

    def __call__(self, corner_xy: tuple[int, int]) -> Pixels:
        opened = opened_once(self.record.sparse, self.record.slide)
        return read_sparse_patch(opened, self.grid, _level0_px(self.grid, corner_xy))


@dataclass(frozen=True, eq=False)
class _DenseBlock:
    """Reads the dense side of the H&E's square at a corner, likewise."""

    record: SlideRecord
    side: SideRecord
    transform: Transform
    grid: Grid

    def __call__(self, corner_xy: tuple[int, int]) -> Pixels:
        opened, corner_px = opened_once(self.side, self.record.slide), _level0_px(self.grid, corner_xy)
        labels = kind_named(self.side.kind).labels
        return read_dense_patch(opened, self.side.mpp, self.grid, corner_px, self.transform, labels=labels).pixels


def _level0_px(grid: Grid, corner_xy: tuple[int, int]) -> NDArray[np.int64]:
    """Return the level-0 pixel of the H&E at which a block of the grid begins."""
    return np.rint(np.array(corner_xy) * grid.downsample).astype(np.int64)
