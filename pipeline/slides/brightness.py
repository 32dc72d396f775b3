"""Decide whether an RGB image shows light on black (fluorescence) or absorption (stain)."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import CorruptTileError, Pixels, Slide

# Windows across the coarsest level that are looked at: a level as large as a slide is not read whole.
_WINDOWS, _WINDOW_PX = 12, 48
# Darker in every colour: no glass, no stained tissue.
_DARK = 100
# Brighter in every colour: glass, white or grey. Fluorescence hardly gets there.
_WHITE, _LARGEST_WHITE = 200, 0.02
_LARGEST_DARK = 0.5
# Where most of an image is brighter in some colour, light comes through.
_LIGHT = 160
# Of what is not of the one colour that fills the unscanned part of a slide. Ink and pigment are dark, but little.
_LARGEST_DARK_REST = 0.25
_FILL_TOLERANCE = 4
_STEPS = 256 // _FILL_TOLERANCE
_PLACES = np.array([1, _STEPS, _STEPS**2])


def is_on_black(pixels: NDArray[np.uint8]) -> bool:
    """Return whether (n, 3) pixels are those of fluorescence: mostly dark, in many shades, and hardly ever white.

    Black or grey where nothing was scanned is dark as well, but of one colour.
    """
    brightest = pixels.max(axis=1, initial=0)
    if not len(pixels) or (brightest < _DARK).mean() <= _LARGEST_DARK:
        return False
    dark = pixels[brightest < _DARK]
    coarse = (dark // _FILL_TOLERANCE).astype(np.int64) @ _PLACES
    fill = np.bincount(coarse).argmax() // _PLACES % _STEPS * _FILL_TOLERANCE + _FILL_TOLERANCE // 2
    rest = pixels[(np.abs(pixels - fill) > _FILL_TOLERANCE).any(axis=1)]
    if not len(rest):
        return False
    is_white = (rest.min(axis=1) >= _WHITE).mean() > _LARGEST_WHITE
    return not is_white and bool((rest.max(axis=1) < _DARK).mean() > _LARGEST_DARK_REST)


def is_on_white(pixels: NDArray[np.uint8]) -> bool:
    """Return whether (n, 3) pixels are those of a brightfield image: most let much of the light through."""
    return bool(len(pixels)) and bool(np.median(pixels.max(axis=1)) > _LIGHT)


def sampled_pixels(slide: Slide) -> NDArray[np.uint8]:
    """Return (n, 3) pixels from all over the coarsest level of an image of three or four samples of 8 bits.

    Pixels whose fourth sample is 0, which may be alpha, and tiles that cannot be decoded are left out.
    """
    level = len(slide.header.levels) - 1
    lefts, tops = (_starts(size) for size in slide.header.levels[level].size_xy)
    found = [np.empty((0, 3), np.uint8)]
    for y, x in product(tops, lefts):
        size = tuple(min(_WINDOW_PX, size) for size in slide.header.levels[level].size_xy)
        try:
            found.append(_colours(slide.read_region(level, (x, y), (size[0], size[1]))))
        except CorruptTileError:
            # Tiling says how many these are.
            continue
    return np.concatenate(found)


def _starts(size_px: int) -> list[int]:
    count = min(_WINDOWS, -(-size_px // _WINDOW_PX))
    return [round(start) for start in np.linspace(0, max(size_px - _WINDOW_PX, 0), count)]


def _colours(window: Pixels) -> NDArray[np.uint8]:
    flat = window.reshape(-1, window.shape[-1])
    if flat.shape[1] == 4 and flat[:, 3].any():
        flat = flat[flat[:, 3] > 0]
    return np.ascontiguousarray(flat[:, :3])
