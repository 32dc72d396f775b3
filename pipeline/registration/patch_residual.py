"""Measure the shift left between the two sides of one patch from their nuclei, and its confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.matching import (
    NUCLEAR_COARSE_UM,
    block_shift,
    nuclear_band,
    nuclear_detail,
    peak_confidence,
)
from pipeline.registration.stain import hematoxylin

_PATCH_REACH_UM = 24.0
_PATCH_REACH_FRACTION = 0.3
_PATCH_MPP = 1.0
_PATCH_MIN_CONFIDENCE = 0.1


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

    The middle of the H&E patch is looked for in the dense patch, up to 24 um away or 0.3 of the side.

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
    contrast = float(nuclear_detail(first, step_um)[reach:-reach, reach:-reach].std())
    unknown = PatchResidual(nothing, 0.0, contrast)
    if min(float(first.std()), float(second.std())) < 1e-6:
        return unknown
    template = nuclear_band(first, step_um)[reach:-reach, reach:-reach]
    search = nuclear_band(second, step_um)
    shift, peak, rival = block_shift(np.ascontiguousarray(template), search, 1.5 * NUCLEAR_COARSE_UM / step_um)
    confidence = float(peak_confidence(peak, rival))
    if confidence < _PATCH_MIN_CONFIDENCE or np.abs(shift).max() >= reach:
        return unknown
    return PatchResidual((float(shift[0]) * step_um, float(shift[1]) * step_um), confidence, contrast)


def _shrunk(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    height, width = values.shape
    if factor == 1:
        return values
    cut = values[: height // factor * factor, : width // factor * factor]
    smaller: Any = cv2.resize(cut, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    shrunk: NDArray[np.float32] = smaller
    return shrunk
