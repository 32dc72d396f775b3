"""Sample patches at an exact resolution: sparse ones on the slide's grid, dense ones through the transform."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import um_to_pixel
from pipeline.registration.transform import Transform
from pipeline.slides.base import Level, Pixels, Slide, level_for
from pipeline.slides.imaged import void_of
from pipeline.tiling.grid import Grid

# Below a hundredth of a pixel a patch is a plain copy: interpolation would only soften it.
_ALIGNED_PX = 0.01
_MARGIN_PX = 4
# OpenCV's weights for uint8 have 8 bits. Of a narrower Gaussian all but three are 0, yet it multiplies by five.
_THREE_WEIGHTS = 0.57


@dataclass(frozen=True)
class SparseWindow:
    """The part of a level from which the square at one corner is made.

    Attributes:
        level: index of the level.
        corner_xy: its first pixel, in pixels of the level.
        size_xy: its size, in pixels of the level.
        step: pixels of the level per pixel of the patch.
        offset_xy: centre of the patch's first pixel, from the centre of the window's; None where the window is the
            patch (step 1) or whole squares of `step` pixels are its pixels.
    """

    level: int
    corner_xy: tuple[int, int]
    size_xy: tuple[int, int]
    step: float
    offset_xy: tuple[float, float] | None


def sparse_window(slide: Slide, grid: Grid, corner_px: NDArray[np.int64]) -> SparseWindow:
    """Return what to read for the square at `corner_px`.

    Pixel j of the patch is centred (j + 0.5) * downsample - 0.5 level-0 pixels beyond the corner pixel's centre.
    """
    levels = slide.header.levels
    index = level_for(levels, grid.downsample)
    downsample = levels[index].downsample
    step = grid.downsample / downsample
    whole_step = round(step)
    # Where the first pixel of the patch begins, counted in pixels of the level from the edge of its first.
    left, top = (int(side) / downsample for side in corner_px)
    whole = round(left), round(top)
    drift = max(abs(left - whole[0]), abs(top - whole[1])) + abs(step - whole_step) * grid.size_px
    if drift < _ALIGNED_PX:
        side = whole_step * grid.size_px
        return SparseWindow(index, whole, (side, side), whole_step, None)
    start = left + step / 2 - 0.5, top + step / 2 - 0.5
    first = floor(start[0]) - _MARGIN_PX, floor(start[1]) - _MARGIN_PX
    side = ceil(step * grid.size_px) + 2 * _MARGIN_PX + 1
    return SparseWindow(index, first, (side, side), step, (start[0] - first[0], start[1] - first[1]))


def read_sparse_patch(slide: Slide, grid: Grid, corner_px: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return (P, P, 3) uint8: the square at `corner_px`; see `read_window`."""
    return read_window(slide, sparse_window(slide, grid, corner_px), grid.size_px)


def read_window(slide: Slide, window: SparseWindow, size_px: int) -> NDArray[np.uint8]:
    """Return (P, P, 3) uint8: the patch of a window, resampled only where the slide has no level of just its mpp.

    Where whole squares of a level's pixels make the patch's pixels, these are their means. Elsewhere the level is
    smoothed as much as such means would, and interpolated.
    """
    pixels = np.ascontiguousarray(slide.read_region(window.level, window.corner_xy, window.size_xy))
    size = (size_px, size_px)
    if window.offset_xy is None:
        return pixels if window.step == 1 else np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    step, (x, y) = window.step, window.offset_xy
    smooth = _smooth(pixels, step)
    # The patch's upper left corner, from that of the window's first pixel.
    left, top = x + 0.5 - step / 2, y + 0.5 - step / 2
    if max(abs(left - round(left)), abs(top - round(top))) < _ALIGNED_PX:
        # As at level 0 always: the grid of `resize` begins there, too, and it takes half the time.
        begun = smooth[round(top) :, round(left) :]
        return np.asarray(cv2.resize(begun, None, fx=1 / step, fy=1 / step)[:size_px, :size_px])
    matrix = np.array([[step, 0, x], [0, step, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(smooth, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8)


@dataclass(frozen=True)
class DensePatch:
    """A dense patch on the sparse patch's pixels.

    Attributes:
        pixels: (C, P, P) in the dense slide's dtype; beyond the dense slide white if RGB, else 0.
            Of gene counts P is 1.
        inside: fraction of the pixels that lie on the dense slide.
        void: fraction of the pixels that lie on it and were never imaged.
        specks: fraction of the imaged pixels that look the same in small runs; see `pipeline.slides.imaged`.
    """

    pixels: Pixels
    inside: float
    void: float = 0.0
    specks: float = 0.0


def read_dense_patch(
    slide: Slide,
    mpp: float,
    grid: Grid,
    corner_px: NDArray[np.int64],
    transform: Transform,
    *,
    labels: bool = False,
) -> DensePatch:
    """Return the dense side of the square at `corner_px`: only the window it needs is read, from the right level.

    Args:
        slide: the dense slide.
        mpp: its um per level-0 pixel.
        grid: the sparse grid.
        corner_px: xy of the square's upper-left level-0 pixel on the sparse slide.
        transform: from the sparse to the dense frame.
        labels: whether pixels are labels: the nearest of level 0 is taken, for no mean of two labels is one.
    """
    header = slide.header
    index = 0 if labels else level_for(header.levels, grid.mpp / mpp)
    level = header.levels[index]
    fill = 255 if header.is_rgb else 0
    out = np.full((len(header.channels), grid.size_px, grid.size_px), fill, dtype=header.dtype)
    beyond_um = ((np.arange(grid.size_px) + 0.5) * grid.downsample - 0.5) * grid.mpp_level0
    x_um, y_um = (corner_px[axis] * grid.mpp_level0 + beyond_um for axis in (0, 1))
    wanted = transform.lattice_to_dense(x_um, y_um)
    position = np.asarray(um_to_pixel(wanted, downsample=level.downsample, mpp=mpp))
    flat = position.reshape(2, -1)
    lowest, highest = flat.min(axis=1), flat.max(axis=1)
    inside = _share_on_level(position, lowest, highest, level)
    low = np.maximum(np.floor(lowest).astype(int) - _MARGIN_PX, 0)
    high = np.minimum(np.ceil(highest).astype(int) + _MARGIN_PX + 1, level.size_xy)
    if inside == 0 or (high <= low).any():
        return DensePatch(out, 0.0)
    width, height = (high - low).tolist()
    window = slide.read_region(index, (int(low[0]), int(low[1])), (width, height))
    step = grid.mpp / (mpp * level.downsample)
    map_x, map_y = (position - low[:, None, None]).astype(np.float32)
    how = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    # One plane at a time: measured against three planes, or all channels, interleaved for one remap, it is the
    # fastest (uint16: twice), and needs no fixed-point map, which would round to 1/32 px.
    for plane, into in zip(np.moveaxis(window, -1, 0), out, strict=True):
        smooth = np.ascontiguousarray(plane) if labels else _smooth(np.ascontiguousarray(plane), step)
        cv2.remap(smooth, map_x, map_y, how, dst=into, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)
    # Of labels 0 is a value like any other.
    found = None if labels else void_of(window, is_rgb=header.is_rgb)
    if found is None:
        return DensePatch(out, inside)
    void = cv2.remap(found.mask.view(np.uint8), map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return DensePatch(out, inside, float(np.mean(void)), found.specks)


def _share_on_level(
    position: NDArray[np.float64], lowest: NDArray[np.float64], highest: NDArray[np.float64], level: Level
) -> float:
    """Return fraction of the positions (2, H, W), whose extremes are given, that lie on the level's pixels."""
    end = np.array(level.size_xy) - 0.5
    if (lowest >= -0.5).all() and (highest <= end).all():
        return 1.0
    return float(np.mean(((position >= -0.5) & (position <= end[:, None, None])).all(axis=0)))


def _smooth(image: NDArray[Any], step: float) -> NDArray[Any]:
    """Return the image blurred for taking every `step`-th pixel.

    By the variance of a box that wide, less one pixel's.
    """
    if step <= 1.05:
        return image
    sigma = float(np.sqrt((step * step - 1) / 12))
    size = (3, 3) if image.dtype == np.uint8 and sigma < _THREE_WEIGHTS else (0, 0)
    return np.asarray(cv2.GaussianBlur(image, size, sigma, borderType=cv2.BORDER_REPLICATE))
