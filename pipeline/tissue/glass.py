"""Find the glass of a sparse slide where it is not white, but dark, tinted or shaded towards the edges."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.tissue.mask import Overview, tissue_mask

Colours = NDArray[np.float32]

# Glass is even over 40 um, unlike tissue, and neither dark nor deep in colour. Eosin and hematoxylin absorb green most.
_FLAT_OVER_UM, _FLAT_SD = 40.0, 2.5
_DARKEST, _DEEPEST, _GREEN_BELOW = 120, 70, 12
# From this share of the slide on, what looks like glass and is taken for tissue is glass.
_LEAST_TAKEN = 0.02
# Colour of ordinary glass, which any other is brought to.
_WHITE = 243.0
# What differs from the glass fitted so far by more than this is something else.
_OFF = 8.0
_SMOOTH_UM = 10.0
_FITS, _MOST_SAMPLES = 10, 20_000


def with_white_glass(overview: Overview) -> Overview:
    """Return the overview brought to ordinary glass; unchanged where tissue stands out from its glass already."""
    like_glass = _like_glass(overview.rgb, overview.mpp)
    taken = np.count_nonzero(like_glass & tissue_mask(overview))
    if taken < _LEAST_TAKEN * like_glass.size:
        return overview
    field = glass_field(overview.rgb, like_glass)
    return replace(overview, rgb=np.clip(np.rint(overview.rgb * (_WHITE / field)), 0, 255).astype(np.uint8))


def stained(overview: Overview) -> NDArray[np.bool_]:
    """Return (h, w) bool: where the slide is darker than its glass, be it ever so pale."""
    like_glass = _like_glass(overview.rgb, overview.mpp)
    enough = np.count_nonzero(like_glass) >= _LEAST_TAKEN * like_glass.size
    field = glass_field(overview.rgb, like_glass) if enough else np.float32(255)
    darker = (field - overview.rgb).max(axis=2).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(darker, (0, 0), _SMOOTH_UM / overview.mpp) > _OFF, dtype=np.bool_)


def glass_field(rgb: NDArray[np.uint8], like_glass: NDArray[np.bool_]) -> Colours:
    """Return the colour of the glass at each pixel (h, w, 3): a surface of second degree through what looks like it."""
    height, width = like_glass.shape
    rows, columns = np.nonzero(like_glass)
    chosen = slice(None, None, max(1, len(rows) // _MOST_SAMPLES))
    rows, columns = rows[chosen], columns[chosen]
    colours = rgb[rows, columns].astype(np.float64)
    terms = _terms(columns / width, rows / height)
    brightness = colours.min(axis=1)
    kept = np.abs(brightness - _brightest_mode(brightness)) <= _OFF
    for _ in range(_FITS):
        fitted, *_rest = np.linalg.lstsq(terms[kept], colours[kept], rcond=None)
        kept = np.abs(colours - terms @ fitted).max(axis=1) <= _OFF
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    field = (_terms(x.ravel(), y.ravel()) @ fitted).reshape(height, width, 3)
    return np.asarray(np.clip(field, _DARKEST, 255), dtype=np.float32)


def _brightest_mode(brightness: NDArray[np.float64]) -> float:
    """Return the brightest value that many pixels have: around which lies a tenth of them, or as many as anywhere."""
    counts = np.convolve(np.bincount(np.rint(brightness).astype(int), minlength=256), np.ones(9), "same")
    many = counts >= min(0.1 * len(brightness), counts.max())
    top = int(np.flatnonzero(many)[-1])
    near = slice(max(0, top - 8), top + 1)
    return float(near.start + np.argmax(counts[near]))


def _terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _like_glass(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Return (h, w) bool: even, pale, and no exact white, with which files are filled."""
    side = (2 * max(1, round(_FLAT_OVER_UM / mpp / 2)) + 1,) * 2
    values = rgb.astype(np.float32)
    mean = cv2.blur(values, side)
    spread = cv2.blur(values * values, side) - mean * mean
    red, green, blue = (rgb[..., channel].astype(np.int16) for channel in range(3))
    least, most = rgb.min(axis=2), rgb.max(axis=2)
    even = spread.max(axis=2) < _FLAT_SD**2
    pale = (least >= _DARKEST) & (most - least <= _DEEPEST) & (green >= np.minimum(red, blue) - _GREEN_BELOW)
    return np.asarray(even & pale & (least < 255), dtype=np.bool_)
