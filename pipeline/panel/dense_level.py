"""Open the dense slide at the resolution of the check, as a lazy array of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.progress import say
from pipeline.slides.base import CorruptTileError, Pixels, level_for
from pipeline.slides.lazy_blocks import lazy_blocks, opened_once
from pipeline.slides.record import SideRecord

if TYPE_CHECKING:
    from dask.array import Array

# 18 channels of uint16 take 38 MB, and a slide of 20 x 20 mm has some 60 such blocks at 2.6 um per pixel.
BLOCK_PX = 1024
# Side of the window of level 0 that is read of each block: single pixels, of which a coarser level shows means.
WINDOW_PX = 512


@dataclass(frozen=True)
class DenseLevel:
    """Reads blocks of a dense slide; may be sent to another process, which opens the file itself.

    Attributes:
        side: the dense slide, as inspected.
        slide: name of the slide, for errors.
        level: index of the level that is read.
        step: pixels of the level, in each direction, that are averaged to one.
    """

    side: SideRecord
    slide: str
    level: int
    step: int

    @classmethod
    def at(cls, side: SideRecord, slide: str, mpp: float) -> DenseLevel:
        """Return the coarsest level that is as fine as `mpp`, averaged over whole squares to come near it."""
        level = level_for(side.levels, mpp / side.mpp)
        step = max(1, int(mpp / (side.mpp * side.levels[level].downsample) + 1e-3))
        return cls(side, slide, level, step)

    @property
    def mpp(self) -> float:
        """Um per pixel of the blocks."""
        return self.side.mpp * self.downsample

    @property
    def downsample(self) -> float:
        """Level-0 pixels per pixel of the blocks."""
        return self.side.levels[self.level].downsample * self.step

    @property
    def size_xy(self) -> tuple[int, int]:
        """Width and height in pixels of the blocks; the last ones may be averages of fewer pixels."""
        width, height = self.side.levels[self.level].size_xy
        return ceil(width / self.step), ceil(height / self.step)

    def lazy(self) -> Array:
        """Return the slide as a lazy array (C, H, W) in its own type."""
        width, height = self.size_xy
        # Of a level that has to be averaged, the window that is read counts.
        side_px = max(128, BLOCK_PX // self.step)
        return lazy_blocks(self, (len(self.side.channels), height, width), (1, 2), self.side.dtype, side_px)

    def __call__(self, corner_xy: tuple[int, int]) -> Pixels:
        """Return (C, h, w): the block at a corner, up to the far edges of the slide; 0 where it cannot be decoded."""
        side_px = max(128, BLOCK_PX // self.step)
        left, top = (side * self.step for side in corner_xy)
        width, height = self.side.levels[self.level].size_xy
        right, bottom = min(left + side_px * self.step, width), min(top + side_px * self.step, height)
        size_xy = (right - left, bottom - top)
        window = self._read(self.level, (left, top), size_xy)
        if window is None:
            # As area that was never imaged is stored.
            window = np.zeros((len(self.side.channels), *size_xy[::-1]), dtype=self.side.dtype)
        return window if self.step == 1 else _averaged(window, self.step)

    def window(self, corner_xy: tuple[int, int], shape_yx: tuple[int, int]) -> Pixels | None:
        """Return (C, h, w): single pixels of level 0, from the middle of the block at a corner, of `shape_yx`.

        None where they cannot be decoded.
        """
        sizes = self.side.size_xy
        left, top = (
            min(max(int((start + length / 2) * self.downsample) - WINDOW_PX // 2, 0), max(size - WINDOW_PX, 0))
            for start, length, size in zip(corner_xy, shape_yx[::-1], sizes, strict=True)
        )
        return self._read(0, (left, top), (min(WINDOW_PX, sizes[0]), min(WINDOW_PX, sizes[1])))

    def _read(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels | None:
        try:
            pixels = opened_once(self.side, self.slide).read_region(level, corner_xy, size_xy)
        except CorruptTileError as error:
            say(f"panel {self.slide}: {size_xy[0]} x {size_xy[1]} px of level {level} count as not imaged: {error}")
            return None
        return np.moveaxis(pixels, -1, 0)


def _averaged(window: Pixels, step: int) -> Pixels:
    """Return the means of squares of `step` pixels; those at the far edges of the slide are of what there is."""
    height, width = window.shape[1:]
    missing = (-height % step, -width % step)
    size = ((width + missing[1]) // step, (height + missing[0]) // step)
    planes = []
    for plane in window:
        whole = cv2.copyMakeBorder(np.ascontiguousarray(plane), 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
        planes.append(cv2.resize(whole, size, interpolation=cv2.INTER_AREA))
    return np.stack(planes)
