"""Find what is out of focus on a slide by the fineness of its texture at about 1 um per pixel."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.base import Slide, level_for
from pipeline.slides.window import clip_window
from pipeline.tissue.artefacts import large_pieces
from pipeline.tissue.mask import Overview

Mask = NDArray[np.bool_]
Energy = NDArray[np.float32]

# Texture is looked at in pixels of this size, or of the slide's where they are a little larger.
_MPP = 1.0
_COARSEST_MPP = 1.4
# Detail below the first sigma, as a share of that between both, is a slope of the spectrum: neither the amount of
# stain nor that of tissue changes it. Sharp H&E of four real slides stays above 0.12 in 99 % of places; blurred by a
# Gaussian of 2 um it falls below 0.08 in 99 %, also where the blurred pixels were stored as JPEG of quality 70.
_FINE_UM, _COARSE_UM = 1.0, 4.0
_SHARPEST = 0.08
# Optical density squared; without any texture, as on a blank field, nothing can be said.
_LEAST_ENERGY = 1e-5
_WINDOW_UM = 64.0
_SMALLEST_UM2 = 250.0**2
_BLOCK_PX = 128


def blur_mask(slide: Slide, mpp_level0: float, overview: Overview, tissue: Mask) -> Mask:
    """Return (h, w) bool: tissue as blurred as by a Gaussian of 2 um or more, in pieces of at least 250 um by 250 um.

    Reads tissue at the level nearest 1 um per pixel, block by block: seconds per square centimetre,
    and memory for one block.

    Args:
        slide: open.
        mpp_level0: its um per pixel.
        overview: of the slide.
        tissue: (h, w) where the overview shows tissue.

    Raises:
        StatedError: if the slide is coarser than 1.4 um per pixel, where focus cannot be judged.
    """
    if mpp_level0 > _COARSEST_MPP:
        raise StatedError(
            file=slide.header.path,
            expected=f"{_COARSEST_MPP:g} um/px or finer, to judge focus (take blur out of tile.drop)",
            found=f"{mpp_level0:g} um/px",
        )
    fine, coarse = (np.zeros(tissue.shape, dtype=np.float32) for _ in range(2))
    for rows, columns, green in _blocks(slide, mpp_level0, overview, tissue):
        margin = _margin_px(overview)
        inner = slice(margin, margin + rows.stop - rows.start), slice(margin, margin + columns.stop - columns.start)
        for energy, found in zip((fine, coarse), _energies(green, overview), strict=True):
            energy[rows, columns] = found[inner]
    side = (2 * round(_WINDOW_UM / overview.mpp / 2) + 1,) * 2
    fine_around, coarse_around = (cv2.boxFilter(energy * tissue, -1, side) for energy in (fine, coarse))
    share = cv2.boxFilter(tissue.astype(np.float32), -1, side)
    textured = coarse_around > _LEAST_ENERGY * share
    blurred = np.asarray(tissue & textured & (fine_around < _SHARPEST * coarse_around), dtype=np.bool_)
    return large_pieces(blurred, _SMALLEST_UM2 / overview.mpp**2)


def _blocks(
    slide: Slide, mpp_level0: float, overview: Overview, tissue: Mask
) -> Iterator[tuple[slice, slice, NDArray[np.uint8]]]:
    """Yield rows and columns of the overview that hold tissue, with green over them and a margin."""
    levels = slide.header.levels
    index = level_for(levels, max(_MPP / mpp_level0, 1.0))
    step = overview.mpp / (mpp_level0 * levels[index].downsample)
    margin, scale = _margin_px(overview), _scale(overview)
    height, width = tissue.shape
    for top in range(0, height, _BLOCK_PX):
        for left in range(0, width, _BLOCK_PX):
            rows, columns = slice(top, min(top + _BLOCK_PX, height)), slice(left, min(left + _BLOCK_PX, width))
            if not tissue[rows, columns].any():
                continue
            corner = round((left - margin) * step), round((top - margin) * step)
            count = columns.stop - left + 2 * margin, rows.stop - top + 2 * margin
            size = max(1, round(count[0] * step)), max(1, round(count[1] * step))
            green = _green(slide, index, corner, size)
            shape = count[0] * scale, count[1] * scale
            method = cv2.INTER_AREA if step >= scale else cv2.INTER_CUBIC
            yield rows, columns, np.asarray(cv2.resize(green, shape, interpolation=method), dtype=np.uint8)


def _green(slide: Slide, index: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> NDArray[np.uint8]:
    """Return (h, w) green of a window.

    Its own edge goes on beyond the slide's, for white there would look like an edge.
    """
    part = clip_window(corner_xy, size_xy, slide.header.levels[index].size_xy)
    (left, top), (right, bottom) = part.start_xy, part.stop_xy
    pixels = slide.read_region(index, (corner_xy[0] + left, corner_xy[1] + top), (right - left, bottom - top), (1,))
    outside = top, size_xy[1] - bottom, left, size_xy[0] - right
    return np.asarray(cv2.copyMakeBorder(pixels[..., 0], *outside, cv2.BORDER_REPLICATE), dtype=np.uint8)


def _energies(green: NDArray[np.uint8], overview: Overview) -> tuple[Energy, Energy]:
    """Return mean square of the detail finer than 1 um, and of that from there to 4 um, per pixel of the overview."""
    scale = _scale(overview)
    table = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
    density = table[green]
    sigmas = (sigma * scale / overview.mpp for sigma in (_FINE_UM, _COARSE_UM))
    smooth, smoother = (cv2.GaussianBlur(density, (0, 0), sigma) for sigma in sigmas)
    size = green.shape[1] // scale, green.shape[0] // scale
    fine, coarse = (
        cv2.resize(detail**2, size, interpolation=cv2.INTER_AREA) for detail in (density - smooth, smooth - smoother)
    )
    return np.asarray(fine, dtype=np.float32), np.asarray(coarse, dtype=np.float32)


def _scale(overview: Overview) -> int:
    """Return pixels of about 1 um along a pixel of the overview."""
    return max(1, round(overview.mpp / _MPP))


def _margin_px(overview: Overview) -> int:
    """Return pixels of the overview that the wider Gaussian reaches over the edge of a block."""
    return max(1, round(4 * _COARSE_UM / overview.mpp))
