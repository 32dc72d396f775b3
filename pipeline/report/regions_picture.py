"""The overview of a slide with all that is not tissue paled, and what was told from tissue coloured by its reason."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.pictures import Picture, photograph
from pipeline.tiling.regions import BLUR, EXCLUDED, FOLD, PEN, REGIONS, TISSUE

# The light colours of style.css: f4 to f7.
_COLOURS = {EXCLUDED: (179, 48, 79), PEN: (31, 120, 180), FOLD: (79, 138, 47), BLUR: (141, 138, 148)}
_CODES = max(REGIONS.values()) + 1
_PALE, _TINT = 0.75, 0.65


def regions_picture(slide: Image.Image, regions: NDArray[np.uint8]) -> Picture:
    """Return the whole slide as a picture, with the codes of its overview, of whatever size, painted over it."""
    codes = Image.fromarray(regions).resize(slide.size, Image.Resampling.NEAREST)
    return photograph(painted(np.asarray(slide), np.asarray(codes)), max(slide.size))


def painted(slide: NDArray[np.uint8], regions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8: the slide, paled or tinted wherever `regions` (h, w) says that it is not tissue."""
    colour = np.full((_CODES, 3), 255, dtype=np.float32)
    share = np.full(_CODES, _PALE, dtype=np.float32)
    share[TISSUE] = 0
    for region, rgb in _COLOURS.items():
        colour[region], share[region] = rgb, _TINT
    mixed = slide + share[regions][..., None] * (colour[regions] - slide)
    return np.rint(mixed).astype(np.uint8)
