"""What converters fill a sparse slide with where the scanner took nothing: one grey, from black to white."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from pipeline.slides.imaged import void_of
from pipeline.tissue.mask import Overview

_WHITE = 255
# Pixels of the overview at the edge of the fill are part fill.
_EDGE = np.ones((3, 3), dtype=np.uint8)


def with_white_fill(overview: Overview) -> Overview:
    """Return the overview with exact white, which is never tissue, wherever large squares hold one grey only.

    Stain is not grey, and no camera gives one value throughout. Unchanged where there is no such fill.
    """
    rgb = overview.rgb
    found = void_of(rgb, is_rgb=True)
    if found is None:
        return overview
    least = rgb.min(axis=2)
    filled = found.mask & (least == rgb.max(axis=2)) & (least < _WHITE)
    if not filled.any():
        return overview
    white = rgb.copy()
    white[cv2.dilate(filled.view(np.uint8), _EDGE) > 0] = _WHITE
    return replace(overview, rgb=white)
