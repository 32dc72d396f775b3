"""The overview of a slide with all that is no tissue paled, and what was told from tissue coloured by its reason."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.pictures import Picture, fitted, photograph
from pipeline.tiling.regions import BLUR, EXCLUDED, FOLD, PEN, REGIONS, TISSUE

# The light colours of style.css: f4 to f7.
_COLOURS = {EXCLUDED: (179, 48, 79), PEN: (31, 120, 180), FOLD: (79, 138, 47), BLUR: (141, 138, 148)}
_CODES = max(REGIONS.values()) + 1
_PALE, _TINT = 0.75, 0.65


def regions_picture(overview: Image.Image, regions: NDArray[np.uint8], side_px: int) -> Picture:
    """The picture of one slide, at most `side_px` long, from its overview and the codes of the same size.

    Both are scaled down before they are painted: overviews have millions of pixels, of which few are shown.
    """
    size_px = fitted(overview.size, side_px)
    small = overview.resize(size_px, Image.Resampling.LANCZOS, reducing_gap=2.0)
    codes = Image.fromarray(regions).resize(size_px, Image.Resampling.NEAREST)
    return photograph(painted(np.asarray(small), np.asarray(codes)), side_px)


def painted(overview: NDArray[np.uint8], regions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8: the overview, paled or tinted wherever `regions` (h, w) says that it is no tissue."""
    colour = np.full((_CODES, 3), 255, dtype=np.float32)
    share = np.full(_CODES, _PALE, dtype=np.float32)
    share[TISSUE] = 0
    for region, rgb in _COLOURS.items():
        colour[region], share[region] = rgb, _TINT
    mixed = overview + share[regions][..., None] * (colour[regions] - overview)
    return np.rint(mixed).astype(np.uint8)
