"""Lay the lattice of patches over the sparse slide, and measure how much tissue each square holds."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Floats


@dataclass(frozen=True)
class Grid:
    """The squares of a lattice that starts at level-0 pixel (0, 0).

    Attributes:
        size_px: side of a patch in its own pixels.
        mpp: um per pixel of a patch.
        mpp_level0: um per level-0 pixel of the slide.
        position_px: (N, 2) int64, xy of each square's upper-left level-0 pixel, row by row.
    """

    size_px: int
    mpp: float
    mpp_level0: float
    position_px: NDArray[np.int64]

    @property
    def downsample(self) -> float:
        """Level-0 pixels per patch pixel."""
        return self.mpp / self.mpp_level0

    @property
    def size_level0_px(self) -> float:
        """Side of a patch in level-0 pixels, exact."""
        return self.size_px * self.downsample

    @property
    def position_um(self) -> NDArray[np.float64]:
        """(N, 2) float64: centres of the pixels of `position_px` in um."""
        return np.asarray(self.position_px * self.mpp_level0, dtype=np.float64)

    def take(self, rows: NDArray[np.bool_]) -> Grid:
        """Return the grid with only the squares where `rows` is true."""
        return Grid(self.size_px, self.mpp, self.mpp_level0, self.position_px[rows])


def lattice(slide_size_xy: tuple[int, int], *, size_px: int, mpp: float, mpp_level0: float) -> Grid:
    """Return all squares that lie wholly on the slide.

    The pitch is the exact side of a patch; each corner is rounded to the nearest level-0 pixel, so
    neither the physical side nor the pitch drifts where the two resolutions do not divide.
    """
    pitch_px = size_px * mpp / mpp_level0
    counts = [int(np.floor(side / pitch_px + 1e-9)) for side in slide_size_xy]
    x, y = (np.rint(np.arange(n) * pitch_px).astype(np.int64) for n in counts)
    corners = np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)
    return Grid(size_px, mpp, mpp_level0, corners)


def tissue_fraction(grid: Grid, mask: NDArray[np.bool_], mask_mpp: float) -> NDArray[np.float32]:
    """Return (N,) float32: share of each square that the mask calls tissue.

    Args:
        grid: the squares.
        mask: (h, w) bool over the whole slide; its pixel (0, 0) starts where the slide does.
        mask_mpp: um per pixel of the mask.
    """
    # The integral image at fractional corners is linear interpolation of the cumulative area: exact for a pixel mask.
    area: Floats = cv2.integral(mask.astype(np.uint8)).astype(np.float64)
    scale = grid.mpp_level0 / mask_mpp
    low = np.asarray(grid.position_px * scale, dtype=np.float64)
    high = np.asarray((grid.position_px + grid.size_level0_px) * scale, dtype=np.float64)
    total = (
        _interpolate(area, high[:, 0], high[:, 1])
        - _interpolate(area, low[:, 0], high[:, 1])
        - _interpolate(area, high[:, 0], low[:, 1])
        + _interpolate(area, low[:, 0], low[:, 1])
    )
    return np.clip(total / (grid.size_level0_px * scale) ** 2, 0, 1).astype(np.float32)


def _interpolate(image: Floats, x: Floats, y: Floats) -> Floats:
    x = np.clip(x, 0, image.shape[1] - 1)
    y = np.clip(y, 0, image.shape[0] - 1)
    left = np.minimum(x.astype(np.int64), image.shape[1] - 2)
    top = np.minimum(y.astype(np.int64), image.shape[0] - 2)
    u, v = x - left, y - top
    upper = image[top, left] * (1 - u) + image[top, left + 1] * u
    lower = image[top + 1, left] * (1 - u) + image[top + 1, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)
