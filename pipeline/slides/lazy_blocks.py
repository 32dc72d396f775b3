"""Present blocks of an image as a lazy dask array; each is read when it is computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.slides.base import Pixels, Slide
from pipeline.slides.opening import open_side
from pipeline.slides.record import SideRecord

if TYPE_CHECKING:
    from dask.array import Array

# Returns the pixels at a corner (x, y), along with what is beyond the far edges of the array; it may be sent to
# another process.
ReadBlock = Callable[[tuple[int, int]], Pixels]


def lazy_blocks(
    read: ReadBlock, shape: tuple[int, int, int], yx_axes: tuple[int, int], dtype: str, side_px: int
) -> Array:
    """Return a lazy array whose blocks of `side_px` along the two axes are what `read` gives.

    They are cut off at the far edges.
    """
    import dask.array as da

    chunks = tuple(side_px if axis in yx_axes else side for axis, side in enumerate(shape))
    whole = da.core.normalize_chunks(chunks, shape)
    array: Array = da.map_blocks(_block, read, yx_axes, chunks=whole, dtype=dtype, meta=np.empty((0, 0, 0), dtype))
    return array


@lru_cache(maxsize=64)
def opened_once(side: SideRecord, slide: str) -> Slide:
    """Return an image that stays open as long as the process lives: each worker opens a file once for all blocks."""
    return open_side(side, slide=slide)


def _block(read: ReadBlock, yx_axes: tuple[int, int], block_info: dict[Any, Any] | None = None) -> Pixels:
    """Return the block that dask says it wants, by its place in the array."""
    assert block_info is not None
    location = block_info[None]["array-location"]
    (top, bottom), (left, right) = (location[axis] for axis in yx_axes)
    pixels = read((left, top))
    height, width = bottom - top, right - left
    return pixels[:height, :width] if yx_axes == (0, 1) else pixels[:, :height, :width]
