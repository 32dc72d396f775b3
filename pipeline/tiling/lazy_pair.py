"""Both sides of a slide as lazy dask arrays on one grid: to look at in napari, or to compute on without a warped copy.

No stage needs this; it wants the package dask (the extra `view`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.given_table import MppPair
from pipeline.registration.transform import Transform
from pipeline.registration.transform_file import read_transform
from pipeline.slides.base import Pixels, Slide
from pipeline.slides.kinds import kind_named
from pipeline.slides.opening import open_side
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
        sparse_yxc=_blocks(_SparseBlock(slide, grid), (height, width, 3), (0, 1), "uint8"),
        dense_cyx=_blocks(warp, (len(dense.channels), height, width), (1, 2), dense.dtype),
        channels=dense.channels,
    )


@dataclass(frozen=True, eq=False)
class _SparseBlock:
    """Reads the H&E's square at a corner; may be sent to another process, which opens the file itself."""

    record: SlideRecord
    grid: Grid

    def __call__(self, corner_px: NDArray[np.int64]) -> Pixels:
        return read_sparse_patch(_opened(self.record.sparse, self.record.slide), self.grid, corner_px)


@dataclass(frozen=True, eq=False)
class _DenseBlock:
    """Reads the dense side of the H&E's square at a corner, likewise."""

    record: SlideRecord
    side: SideRecord
    transform: Transform
    grid: Grid

    def __call__(self, corner_px: NDArray[np.int64]) -> Pixels:
        opened = _opened(self.side, self.record.slide)
        labels = kind_named(self.side.kind).labels
        return read_dense_patch(opened, self.side.mpp, self.grid, corner_px, self.transform, labels=labels).pixels


@lru_cache(maxsize=64)
def _opened(side: SideRecord, slide: str) -> Slide:
    return open_side(side, slide=slide)


def _blocks(
    read: _SparseBlock | _DenseBlock, shape: tuple[int, int, int], yx_axes: tuple[int, int], dtype: str
) -> Array:
    """Return a lazy array whose blocks of `BLOCK_PX` along the two axes are what `read` gives.

    Cut off at the far edges.
    """
    import dask.array as da

    chunks = tuple(BLOCK_PX if axis in yx_axes else side for axis, side in enumerate(shape))
    whole = da.core.normalize_chunks(chunks, shape)
    array: Array = da.map_blocks(_block, read, yx_axes, chunks=whole, dtype=dtype, meta=np.empty((0, 0, 0), dtype))
    return array


def _block(
    read: _SparseBlock | _DenseBlock, yx_axes: tuple[int, int], block_info: dict[Any, Any] | None = None
) -> Pixels:
    """Return the block that dask says it wants, by its place in the array."""
    assert block_info is not None
    location = block_info[None]["array-location"]
    (top, bottom), (left, right) = (location[axis] for axis in yx_axes)
    pixels = read(np.rint(np.array([left, top]) * read.grid.downsample).astype(np.int64))
    height, width = bottom - top, right - left
    return pixels[:height, :width] if yx_axes == (0, 1) else pixels[:, :height, :width]
