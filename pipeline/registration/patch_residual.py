"""Measure the shift left between the two sides of one patch from their nuclei, and its confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.matching import (
    NUCLEAR_COARSE_UM,
    nuclear_band,
    nuclear_detail,
    peak_confidence,
    peak_of,
)
from pipeline.registration.stain import hematoxylin

_PATCH_REACH_UM = 24.0
_PATCH_REACH_FRACTION = 0.3
_PATCH_MPP = 1.0
_PATCH_MIN_CONFIDENCE = 0.1
# Least correlation of the middle, as a share of that of the whole patch: where tissue was torn off, one side of a patch
# may match alone. Where the middle shows no nuclei, the neighbours of the patch decide.
_MIDDLE_SHARE = 0.5
_NO_POWER = 1e-6


@dataclass(frozen=True)
class PatchResidual:
    """What is left between an H&E patch and its dense partner.

    Attributes:
        shift_um: x and y of the shift; nan where nothing can be said.
        confidence: in [0, 1], how far the correlation peak stands above its best rival; 0 where nothing can be said.
        contrast: how strongly nuclei stand out on the H&E: standard deviation of its hematoxylin at their scale, in
            optical density; nan for a patch too small to be measured.
    """

    shift_um: tuple[float, float]
    confidence: float
    contrast: float

    @property
    def residual_um(self) -> float:
        """Length of the shift; nan where nothing can be said."""
        return float(np.hypot(*self.shift_um))


def patch_residual(sparse_rgb: NDArray[np.uint8], dense_nuclei: NDArray[Any], mpp: float) -> PatchResidual:
    """Return the shift that is left between an H&E patch and the dense nuclear patch already resampled onto it.

    The two are compared up to 24 um or 0.3 of the side apart, at each shift by all that they then share: the middle of
    the H&E patch alone would leave out most of its nuclei. The middle has to agree as well.

    Args:
        sparse_rgb: uint8 (P, P, 3).
        dense_nuclei: (P, P), any real dtype, linear intensity.
        mpp: um per pixel of both.
    """
    factor = max(1, round(_PATCH_MPP / mpp))
    first = _shrunk(hematoxylin(sparse_rgb), factor)
    second = _shrunk(np.sqrt(np.maximum(dense_nuclei, 0)).astype(np.float32), factor)
    step_um = mpp * factor
    side = min(first.shape)
    reach = min(round(_PATCH_REACH_UM / step_um), int(_PATCH_REACH_FRACTION * side))
    nothing = (float("nan"), float("nan"))
    if reach < 2 or side - 2 * reach < 8:
        return PatchResidual(nothing, 0.0, float("nan"))
    contrast = float(nuclear_detail(first, step_um).std())
    unknown = PatchResidual(nothing, 0.0, contrast)
    if min(float(first.std()), float(second.std())) < 1e-6:
        return unknown
    first, second = nuclear_band(first, step_um), nuclear_band(second, step_um)
    scores = overlap_correlation(first, second, reach)
    shift, peak, rival = peak_of(scores, 1.5 * NUCLEAR_COARSE_UM / step_um)
    confidence = float(peak_confidence(peak, rival))
    if confidence < _PATCH_MIN_CONFIDENCE or np.abs(shift).max() >= reach:
        return unknown
    if not _middle_agrees(first, second, shift, reach, peak):
        return unknown
    return PatchResidual((float(shift[0]) * step_um, float(shift[1]) * step_um), confidence, contrast)


def _middle_agrees(
    first: NDArray[np.float32], second: NDArray[np.float32], shift: NDArray[np.float64], reach: int, peak: float
) -> bool:
    """Return whether the middle of the first image correlates with what lies at a shift from it on the second."""
    right, down = (round(float(value)) for value in shift)
    middle = first[reach:-reach, reach:-reach]
    height, width = middle.shape
    there = second[reach + down : reach + down + height, reach + right : reach + right + width]
    power = float(np.square(middle).sum()) * float(np.square(there).sum())
    return power > _NO_POWER and float((middle * there).sum()) >= _MIDDLE_SHARE * peak * float(np.sqrt(power))


def overlap_correlation(first: NDArray[np.float32], second: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return the correlation (2 * reach + 1, 2 * reach + 1) of two images at each shift, over what they then share.

    Row and column `reach` are no shift; larger ones mean that `second` lies further down and right. 0 where what is
    shared shows nothing.

    Args:
        first: float32 (H, W) with a local mean of 0, as a band-pass leaves it.
        second: likewise.
        reach: largest shift along rows and columns, in pixels.
    """
    padded = cv2.copyMakeBorder(second, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    cross: Any = cv2.matchTemplate(padded, first, cv2.TM_CCORR)
    steps = np.arange(-reach, reach + 1)
    power = _power(first, -steps) * _power(second, steps)
    scores: NDArray[np.float32] = np.where(power > _NO_POWER, cross / np.sqrt(np.maximum(power, _NO_POWER)), 0)
    return scores


def _power(image: NDArray[np.float32], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sum of squares of what is left of an image that is cut by steps along rows and columns."""
    total = cv2.integral(np.square(image), sdepth=cv2.CV_64F)
    (top, bottom), (left, right) = ((np.maximum(steps, 0), np.minimum(side, side + steps)) for side in image.shape)
    power: NDArray[np.float64] = (
        total[np.ix_(bottom, right)]
        - total[np.ix_(top, right)]
        - total[np.ix_(bottom, left)]
        + total[np.ix_(top, left)]
    )
    return power


def _shrunk(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    height, width = values.shape
    if factor == 1:
        return values
    cut = values[: height // factor * factor, : width // factor * factor]
    smaller: Any = cv2.resize(cut, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    shrunk: NDArray[np.float32] = smaller
    return shrunk
