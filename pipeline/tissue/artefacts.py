"""Find pen marks and folds on the overview by their absorption, which differs from that of stained tissue."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.tissue.mask import Overview

Mask = NDArray[np.bool_]
Density = NDArray[np.float32]

_MPP = 16.0

# Hematoxylin and eosin both absorb green the most and blue the least or nearly so. Ink that absorbs red more than green
# (blue, green, cyan), all three alike or a great deal of each (black), or blue like green and much more than red (red)
# is neither. Over nine real slides 99.99 % of the tissue stays under 0.06 in the first, 0.54 and 0.30 in the others.
_RED_OVER_GREEN = 0.09
_BLACK_EVEN, _BLACK_EVEN_LEAST, _BLACK_LEAST = 0.75, 0.40, 0.75
_WARM_BLUE, _WARM_BLUE_OVER_RED, _WARM_EVEN = 0.65, 0.45, 0.70
# Single sections stay under 0.65 in red; what is deeper and joins ink, of which it has this share at least, is ink too.
_DEEP_RED, _DEEP_JOINED = 0.75, 0.15
# The rim of a stroke is paler than its middle: within reach of a sure place, half as much is enough.
_RIM = 0.5
_REACH_UM = 60.0
_SMALLEST_PEN_UM2 = 250.0**2

# A fold doubles the section: the same colour as around it, about twice as dense in every channel (Beer and Lambert), in
# a band that is narrow for its length. So is epithelium on pale stroma, but for the colour; hence only bands denser
# than most unfolded tissue are called folds, and folds of pale tissue are not.
_FOLD_TIMES, _FOLD_EDGE_TIMES = 1.7, 1.4
_FOLD_LEAST = 0.8
_SAME_COLOUR = 0.985
_AROUND_UM = 1000.0
_FOLD_WIDEST_UM = 200.0
_FOLD_SHORTEST_UM = 400.0
_LONG_FOR_ITS_WIDTH = 4.0


def pen_mask(overview: Overview) -> Mask:
    """Return (h, w) bool: ink of any common colour, on glass or on tissue, in pieces of at least 250 um by 250 um.

    Thresholds are optical densities over 16 um. Ink so thin that stained tissue shows through keeps the colour of a
    stain and is not found, nor is violet ink; surgical margin ink is ink.
    """
    density, mpp = _densities(overview)
    sure = _ink(density, 1.0)
    if sure.any():
        sure = large_pieces(_with_deep_parts(sure, density[..., 0]), _SMALLEST_PEN_UM2 / mpp**2)
        near = cv2.dilate(sure.astype(np.uint8), _disc(_REACH_UM / mpp)) > 0
        sure |= near & _ink(density, _RIM)
    return _enlarged(sure, overview)


def fold_mask(overview: Overview, tissue: Mask) -> Mask:
    """Return (h, w) bool.

    Narrow bands of `tissue` that absorb the same colour as their surroundings about twice over.
    """
    density, mpp = _densities(overview)
    height, width = density.shape[:2]
    inside = cv2.resize(tissue.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    length = _length(density)
    dense = inside & (length >= _FOLD_LEAST)
    if not dense.any():
        return np.zeros_like(tissue)
    around = _mean_within(density, inside, _AROUND_UM / mpp)
    alike = dense & ((density * around).sum(axis=2) >= _SAME_COLOUR * length * _length(around))
    times = np.min(density / np.maximum(around, 0.02), axis=2)
    found = alike & (times >= _FOLD_EDGE_TIMES)
    _, pieces = cv2.connectedComponents(found.view(np.uint8), connectivity=8)
    has_core = np.zeros(pieces.max() + 1, dtype=np.bool_)
    has_core[pieces[found & (times >= _FOLD_TIMES)]] = True
    return _enlarged(_long_and_narrow(found & has_core[pieces], mpp), overview) & tissue


def _with_deep_parts(sure: Mask, red: NDArray[np.float32]) -> Mask:
    """Return sure ink, with places deep in red that join it: blue ink over eosin has a stain's colour."""
    joined = sure | (red > _DEEP_RED)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(joined.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    # On a slide that is ink all over the background has no pixel.
    area = np.maximum(statistics[:, cv2.CC_STAT_AREA], 1)
    share = np.bincount(labels[sure], minlength=len(statistics)) / area
    return np.asarray(sure | (share >= _DEEP_JOINED)[labels], dtype=np.bool_)


def large_pieces(mask: Mask, smallest_px: float) -> Mask:
    """Return (h, w) bool: the mask's pieces of more than `smallest_px` pixels."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(mask & (statistics[:, cv2.CC_STAT_AREA] > smallest_px)[labels], dtype=np.bool_)


def _ink(density: Density, share: float) -> Mask:
    """Return where the optical densities (h, w, RGB) are those of ink, the limits on their amount being multiplied."""
    red, green, blue = cv2.split(density)
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    cold = red - green > _RED_OVER_GREEN * share
    black = (least > _BLACK_LEAST * share) | ((least > _BLACK_EVEN_LEAST * share) & (least > _BLACK_EVEN * most))
    warm = (blue > _WARM_BLUE * share) & (blue - red > _WARM_BLUE_OVER_RED * share) & (blue > _WARM_EVEN * green)
    return np.asarray(cold | black | warm, dtype=np.bool_)


def _densities(overview: Overview) -> tuple[Density, float]:
    """Return (h, w, RGB) float32 optical densities against full white, averaged over about 16 um, and um per pixel."""
    factor = _factor(overview)
    height, width = overview.rgb.shape[:2]
    margin = -height % factor, -width % factor
    whole = cv2.copyMakeBorder(overview.rgb, 0, margin[0], 0, margin[1], cv2.BORDER_REPLICATE)
    size = (width + margin[1]) // factor, (height + margin[0]) // factor
    small = cv2.GaussianBlur(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), (3, 3), 0)
    table = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
    return np.asarray(table[small], dtype=np.float32), overview.mpp * factor


def _factor(overview: Overview) -> int:
    return max(1, round(_MPP / overview.mpp))


def _enlarged(mask: Mask, overview: Overview) -> Mask:
    """Return the mask on the overview's own pixels."""
    factor, (height, width) = _factor(overview), overview.rgb.shape[:2]
    return np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)[:height, :width]


def _length(density: Density) -> NDArray[np.float32]:
    return np.asarray(np.sqrt((density**2).sum(axis=2)), dtype=np.float32)


def _mean_within(density: Density, mask: Mask, side_px: float) -> Density:
    """Return the mean density of the mask's pixels in the square around each pixel; 0 where there are none."""
    side = (2 * round(side_px / 2) + 1,) * 2
    weight = mask.astype(np.float32)
    total = cv2.boxFilter(density * weight[..., None], -1, side, borderType=cv2.BORDER_CONSTANT)
    share = cv2.boxFilter(weight, -1, side, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / np.maximum(share, 1e-6)[..., None], dtype=np.float32)


def _long_and_narrow(mask: Mask, mpp: float) -> Mask:
    """Return the pieces that are bands: their length is half their outline, their width their area by that length."""
    kept = np.zeros(mask.shape, dtype=np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        length_um = cv2.arcLength(outline, True) / 2 * mpp
        if length_um < _FOLD_SHORTEST_UM:
            continue
        width_um = (cv2.contourArea(outline) * mpp**2) / length_um + mpp
        if width_um <= _FOLD_WIDEST_UM and length_um >= _LONG_FOR_ITS_WIDTH * width_um:
            cv2.drawContours(kept, [outline], -1, 1, cv2.FILLED)
    return np.asarray((kept > 0) & mask, dtype=np.bool_)


def _disc(radius_px: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius_px)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)
