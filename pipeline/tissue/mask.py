"""Find the tissue of a sparse slide on a small overview."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Slide, level_for

OVERVIEW_MPP = 8.0
_LARGEST_SIDE_PX = 4096
_STRIP_PX = 2048

# Absorption is 255 less the darkest of R, G, B. Clean to dusty glass stays under 25, pale mucin and stroma lie above
# 45: between them Otsu decides; outside it has split tissue from tissue, or noise from noise. What absorbs more than
# 80 is surely tissue, and counting it as 80 keeps dark and pale tissue from becoming Otsu's two classes.
_ABSORPTION_RANGE = (25.0, 45.0)
_SURE_ABSORPTION = 80
_SMALLEST_UM2 = 150.0**2


@dataclass(frozen=True)
class Overview:
    """A slide at low resolution.

    Attributes:
        rgb: (h, w, 3) uint8; each pixel is the mean of a square of level-0 pixels, the first starting at (0, 0).
        mpp: um per pixel.
    """

    rgb: NDArray[np.uint8]
    mpp: float


def read_overview(slide: Slide, mpp_level0: float) -> Overview:
    """Return the overview at about 8 um per pixel, coarser for slides that would exceed 4096 pixels a side.

    Read in strips, so that a slide without a pyramid takes no more memory than one with.
    """
    longest_um = max(slide.header.size_xy) * mpp_level0
    target = max(OVERVIEW_MPP, longest_um / _LARGEST_SIDE_PX)
    index = level_for(slide.header.levels, target / mpp_level0)
    level = slide.header.levels[index]
    factor = max(1, round(target / (mpp_level0 * level.downsample)))
    width, height = (-(-side // factor) for side in level.size_xy)
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, _STRIP_PX // factor)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        strip = slide.read_region(index, (0, top * factor), (width * factor, count * factor))
        rgb[top : top + count] = cv2.resize(strip, (width, count), interpolation=cv2.INTER_AREA)
    return Overview(rgb, mpp_level0 * level.downsample * factor)


def tissue_mask(overview: Overview) -> NDArray[np.bool_]:
    """Return (h, w) bool: where the overview shows stained tissue.

    Stain darkens at least one colour, in grey mucin as in pink stroma; the darkest colour, smoothed over about 20 um,
    is cut at Otsu's threshold, kept within the range where it can part tissue from glass. Pieces and holes below 150 um
    by 150 um, or a tenth of a slide that is hardly larger, are removed and filled.
    """
    red, green, blue = cv2.split(overview.rgb)
    absorption = np.minimum(255 - np.minimum(np.minimum(red, green), blue), np.uint8(_SURE_ABSORPTION))
    smooth = np.asarray(cv2.GaussianBlur(absorption, (0, 0), 10.0 / overview.mpp))
    otsu, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    mask = smooth > np.clip(otsu, *_ABSORPTION_RANGE)
    return _without_small(mask, min(_SMALLEST_UM2 / overview.mpp**2, mask.size / 10))


def _without_small(mask: NDArray[np.bool_], smallest_px: float) -> NDArray[np.bool_]:
    """Return the mask without pieces, and then without holes, of `smallest_px` pixels or fewer.

    Outlines are many times fewer than pixels. By Pick's theorem an outline through b pixel centres that encloses the
    area a covers a + b / 2 + 1 pixels, its own and its holes' included; the outline of a hole runs through the pixels
    around it, so that a - b / 2 + 1 are inside.
    """
    cleaned = mask.astype(np.uint8)
    outlines, hierarchy = cv2.findContours(cleaned, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parents = hierarchy[0][:, 3].tolist() if outlines else []
    sizes = [
        cv2.contourArea(outline) + (0.5 if parent < 0 else -0.5) * len(outline) + 1
        for outline, parent in zip(outlines, parents, strict=True)
    ]
    small = [size <= smallest_px for size in sizes]
    pieces = [outline for outline, parent, gone in zip(outlines, parents, small, strict=True) if gone and parent < 0]
    holes = [
        outline
        for outline, parent, gone in zip(outlines, parents, small, strict=True)
        if gone and parent >= 0 and not small[parent]
    ]
    cv2.drawContours(cleaned, pieces, -1, 0, cv2.FILLED)
    cv2.drawContours(cleaned, holes, -1, 1, cv2.FILLED)
    return cleaned > 0
