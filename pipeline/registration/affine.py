"""Refine a pose to an affine map by enhanced correlation (Evangelidis and Psarakis 2008), coarse to fine."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pipeline.registration.coarse import Pose, density, masked_ncc
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage

_SIDE_PX = 1024
_ITERATIONS = 60
_TOLERANCE = 1e-5
_MAX_STRETCH = 1.25


def refined(poses: list[Pose], sparse: NuclearImage, dense: NuclearImage) -> list[Pose]:
    """Return the poses, each moved to the affine map of highest correlation near it, best first.

    Their `ncc` is measured anew, for all at the resolution of the last step.
    """
    finest = max(8.0, max(sparse.inside.shape) * sparse.mpp / _SIDE_PX, sparse.mpp, dense.mpp)
    pyramid = [(density(sparse, mpp), density(dense, mpp)) for mpp in (4 * finest, 2 * finest, finest)]
    better = []
    for pose in poses:
        affine = pose.affine
        for fixed, moving in pyramid[:2]:
            affine = _climbed(affine, fixed, moving)
        better.append(_pose(affine, *pyramid[1]))
    better.sort(key=lambda pose: -pose.ncc)
    if better:
        best = better[0]
        better[0] = Pose(best.mirrored, best.degrees, best.ncc, _climbed(best.affine, *pyramid[2]))
    return better


def _pose(affine: Floats, fixed: NuclearImage, moving: NuclearImage) -> Pose:
    """Return the pose that an affine map is, with its correlation."""
    mirrored = bool(np.linalg.det(affine[:, :2]) < 0)
    turn = affine[:, :2] @ np.diag([-1.0, 1.0]) if mirrored else affine[:, :2]
    degrees = float(np.rad2deg(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1])))
    return Pose(mirrored, degrees, masked_ncc(fixed, moving, affine), affine)


def _climbed(affine: Floats, fixed: NuclearImage, moving: NuclearImage) -> Floats:
    """Return the affine map after one run of ECC; the one that went in where ECC finds none or leaves the plausible."""
    start = _to_pixels(affine, fixed, moving).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _TOLERANCE)
    # OpenCV's mask is that of the moving image; the fixed one, read whole, has no pixel outside.
    mask: Any = (moving.inside * np.uint8(255)).astype(np.uint8)
    try:
        _, found = cv2.findTransformECC(fixed.values, moving.values, start.copy(), cv2.MOTION_AFFINE, criteria, mask, 5)
    except cv2.error as error:
        if error.code != cv2.Error.StsNoConv:
            raise
        return affine
    result = _to_um(found.astype(np.float64), fixed, moving)
    scales = np.linalg.svd(result[:, :2], compute_uv=False)
    plausible = scales.max() < _MAX_STRETCH and scales.min() > 1 / _MAX_STRETCH
    before, after = (masked_ncc(fixed, moving, candidate) for candidate in (affine, result))
    return result if plausible and after >= before else affine


def _to_pixels(affine: Floats, fixed: NuclearImage, moving: NuclearImage) -> Floats:
    matrix = affine[:, :2] * fixed.mpp / moving.mpp
    origin = affine[:, :2] @ np.asarray(fixed.origin_um) + affine[:, 2] - np.asarray(moving.origin_um)
    return np.column_stack([matrix, origin / moving.mpp])


def _to_um(pixels: Floats, fixed: NuclearImage, moving: NuclearImage) -> Floats:
    matrix = pixels[:, :2] * moving.mpp / fixed.mpp
    offset = pixels[:, 2] * moving.mpp + np.asarray(moving.origin_um) - matrix @ np.asarray(fixed.origin_um)
    return np.column_stack([matrix, offset])
