"""Decide whether an image shows the same as another, scaled down; a label picture of fitting size does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.base import Pixels
from pipeline.slides.pyramid import Compare
from pipeline.slides.tiff_plane import Plane
from pipeline.slides.window import clip_window

# Gives the pixels (h, w, channels) of a window by its corner and size, in pixels of the image; None where the file
# leaves out some of them.
Read = Callable[[tuple[int, int], tuple[int, int]], Pixels | None]

_SIDE_PX, _LEAST_SIDE_PX = 32, 4
_WINDOWS = 5
# Side of what is read of the finer image for one window: a thumbnail far below it gets smaller windows.
_MOST_FINE_PX = 1024
# Of the range of values: noise and the traces of compression on glass.
_FLAT = 0.01


def correlation(coarse: Read, fine: Read, size_xy: tuple[int, int], downsample: float) -> float | None:
    """Return how the fine structure of two images agrees, from -1 to 1.

    None where neither has any, or where one is so much finer that comparing would take too long.

    Args:
        coarse: reads the image that may be a level.
        fine: reads a finer one.
        size_xy: width and height in pixels of the coarse one to look at: that of the field, without padding.
        downsample: pixels of the fine one per pixel of the coarse one, if it is a level.

    Small windows are compared, each less its mean, and the median counts: tissue in the middle of glass is no
    agreement, nor is a like outline.
    """
    if downsample > _MOST_FINE_PX / _LEAST_SIDE_PX:
        return None
    side = max(_LEAST_SIDE_PX, min(_SIDE_PX, int(_MOST_FINE_PX / downsample)))
    width, height = (min(side, size) for size in size_xy)
    seen, made = [], []
    full = 0.0
    for x, y in _corners(size_xy, width, height):
        left, top, right, bottom = (round(downsample * edge) for edge in (x, y, x + width, y + height))
        try:
            pixels = coarse((x, y), (width, height))
            finer = fine((left, top), (max(1, right - left), max(1, bottom - top)))
        except StatedError:
            # A broken tile tells nothing of the others, and is met again by whoever needs it.
            continue
        if pixels is None or finer is None:
            # Levels need not leave out the same: what is drawn in its place would be taken for structure.
            continue
        full = 255.0 if pixels.dtype == np.uint8 else 0.0
        seen.append(_grey(pixels))
        made.append(cv2.resize(_grey(finer), (width, height), interpolation=cv2.INTER_AREA))
    if not seen:
        return None
    one, other = np.stack(seen), np.stack(made)
    scale = max(full, *(float(image.max()) - float(image.min()) for image in (one, other)))
    one -= one.mean(axis=(1, 2), keepdims=True)
    other -= other.mean(axis=(1, 2), keepdims=True)
    spreads = [(image**2).mean(axis=(1, 2)) for image in (one, other)]
    shown = np.maximum(*spreads) > (_FLAT * scale) ** 2
    if not shown.any():
        return None
    product = np.sqrt(spreads[0] * spreads[1])[shown]
    common = (one * other).mean(axis=(1, 2))[shown]
    return float(np.median(np.divide(common, product, out=np.zeros_like(common), where=product > 0)))


def compare_by(reader: Callable[[int], Read], size_xy: tuple[int, int]) -> Compare:
    """Return what compares two stored images by their index; `size_xy` is the size of level 0."""

    def compare(level: int, finer: int, downsample: float, finer_downsample: float) -> float | None:
        extent = (max(1, int(size_xy[0] / downsample)), max(1, int(size_xy[1] / downsample)))
        return correlation(reader(level), reader(finer), extent, downsample / finer_downsample)

    return compare


def plane_reader(plane: Plane, paint: Callable[[Plane, Pixels, tuple[int, int], Sequence[int]], None]) -> Read:
    """Return what reads windows of a stored plane: of a colour image R, G and B, else its first channel."""
    page = plane.keyframe
    samples = list(range(3 if page.samplesperpixel >= 3 else 1))

    def read(corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels | None:
        out: Pixels = np.zeros((size_xy[1], size_xy[0], len(samples)), page.dtype)
        window = clip_window(corner_xy, size_xy, (int(page.imagewidth), int(page.imagelength)))
        (left, top), (right, bottom) = window.start_xy, window.stop_xy
        if plane.lacks(window.corner_xy, (right - left, bottom - top)):
            return None
        if not window.is_empty:
            paint(plane, out[top:bottom, left:right], window.corner_xy, samples)
        return out

    return read


def _corners(size_xy: tuple[int, int], width: int, height: int) -> list[tuple[int, int]]:
    across, down = (
        sorted({round(place) for place in np.linspace(0, size - side, _WINDOWS)})
        for size, side in zip(size_xy, (width, height), strict=True)
    )
    return [(x, y) for y in down for x in across]


def _grey(pixels: Pixels) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = np.asarray(pixels, dtype=np.float32).mean(axis=-1, dtype=np.float32)
    return grey
