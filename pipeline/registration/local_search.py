"""The search for one part of the tissue that lies elsewhere than the map of the rest has it, by nuclear density.

A part that was torn off has moved a little and turned a little, so the search is local: all shifts within reach and
small turns about where the map puts it. What it finds is a candidate; blocks decide.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import laid_on
from pipeline.registration.transform import Transform

REACH_UM = 1500.0
_MAX_DEGREES = 15.0
_STEP_DEGREES = 1.5
# Fine enough for groups of nuclei; coarser for parts that would not fit into as many pixels.
_MPP = 16.0
_SIDE_PX = 320
_FINE_PX, _WIDE_PX = 1.2, 8.0
_CANDIDATES = 3
_APART_UM = 100.0


def candidates(part: NuclearImage, dense: NuclearImage, transform: Transform) -> list[Floats]:
    """Return affine maps (2, 3) under which the nuclear density of a part matches that of the dense slide, best first.

    Args:
        part: the sparse slide at low resolution, `inside` narrowed to the part.
        dense: the dense slide, likewise.
        transform: the map of the rest, about which is searched.
    """
    rows, columns = np.nonzero(part.inside)
    if not len(rows):
        return []
    points = part.to_um(np.stack([columns, rows], axis=1))
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    mpp = max(_MPP, float((high - low).max()) / _SIDE_PX, part.mpp, dense.mpp)
    rigid = _rigid(transform, middle)
    radius = float(np.linalg.norm(high - low)) / 2
    there = transform.to_dense(middle[None])[0]
    searched = _frame(there, radius + REACH_UM, mpp)
    held = _resampled(dense, Transform(np.eye(2, 3)), searched)
    signal = _detail(held)
    found = []
    for degrees in np.arange(-_MAX_DEGREES, _MAX_DEGREES + 1e-6, _STEP_DEGREES):
        linear = _turn(float(degrees)) @ rigid
        affine = np.column_stack([linear, there - linear @ middle])
        back = np.linalg.inv(linear)
        template = _frame(there, radius, mpp)
        laid = _resampled(part, Transform(np.column_stack([back, middle - back @ there])), template)
        mask = laid.inside.astype(np.float32)
        score = cv2.matchTemplate(signal, _detail(laid) * mask, cv2.TM_CCORR_NORMED, mask=mask)
        score = np.where(np.isfinite(score) & (np.abs(score) <= 1.001), score, -1)
        row, column = np.unravel_index(int(np.argmax(score)), score.shape)
        offset = np.array([column, row]) * mpp + searched.origin_um - np.asarray(template.origin_um)
        found.append((float(score[row, column]), affine + np.column_stack([np.zeros((2, 2)), offset])))
    found.sort(key=lambda item: -item[0])
    return _distinct([affine for _, affine in found], middle)


def _distinct(affines: list[Floats], middle_um: Floats) -> list[Floats]:
    """Return the first of each group of maps that put the middle at about the same place."""
    chosen: list[Floats] = []
    for affine in affines:
        at = affine[:, :2] @ middle_um + affine[:, 2]
        others = (other[:, :2] @ middle_um + other[:, 2] for other in chosen)
        if all(np.linalg.norm(at - other) > _APART_UM for other in others):
            chosen.append(affine)
    return chosen[:_CANDIDATES]


def _rigid(transform: Transform, middle_um: Floats) -> Floats:
    """Return the rotation (and mirror) nearest to the linear part of a map."""
    u, _, v = np.linalg.svd(transform.affine[:, :2])
    rigid: Floats = u @ v
    return rigid


def _turn(degrees: float) -> Floats:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _frame(middle_um: Floats, radius_um: float, mpp: float) -> NuclearImage:
    """Return an empty square of pixels about a point."""
    side = 2 * int(np.ceil(radius_um / mpp)) + 1
    corner = middle_um - (side - 1) / 2 * mpp
    blank = np.zeros((side, side), np.float32)
    return NuclearImage(blank, np.ones((side, side), np.bool_), (float(corner[0]), float(corner[1])), mpp)


def _resampled(image: NuclearImage, transform: Transform, frame: NuclearImage) -> NuclearImage:
    """Return an image, averaged to the pixels of a frame and laid on it; outside it holds its mean."""
    sigma = max(0.0, frame.mpp / image.mpp / 2)
    smooth: Any = cv2.GaussianBlur(image.values, (0, 0), sigma) if sigma > 0.3 else image.values
    held = image.values[image.inside]
    top = float(np.percentile(held, 99.5)) if held.size else 1.0
    filled = np.where(image.inside | (smooth > 0), np.minimum(smooth, top), 0).astype(np.float32)
    return laid_on(NuclearImage(filled, image.inside, image.origin_um, image.mpp), transform, frame)


def _detail(image: NuclearImage) -> NDArray[np.float32]:
    """Return the density at the scale of groups of nuclei, without stain and illumination."""
    fine: Any = cv2.GaussianBlur(image.values, (0, 0), _FINE_PX)
    wide: Any = cv2.GaussianBlur(image.values, (0, 0), _WIDE_PX)
    detail: NDArray[np.float32] = fine - wide
    return detail
