"""Fit a transform to pairs of points: every tool can write these, also those that keep results in a pickle."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator
from scipy.spatial import cKDTree

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats
from pipeline.registration.given_table import LandmarkTable
from pipeline.registration.sampled import affine_through, sampled
from pipeline.registration.transform import GRID_MARGIN_UM, Transform, checked_affine

MIN_PAIRS = 6
# Pairs that an affine map fits to this need no grid.
_AFFINE_TOLERANCE_UM = 1e-3
# A pair contradicts the others where it lies this far from where they put it, and this many times further than usual.
_CONTRADICTION_UM = 10.0
_CONTRADICTION_TIMES = 8.0
_NEIGHBOURS = 5
_NEIGHBOURS_OF_PLANE = 8
# More than this share is no slip of a hand but a map that bends.
_MOST_CONTRADICTIONS = 0.25
_MOST_CONTRADICTING = 20
_MOST_NAMED = 4


def through_points(table: LandmarkTable, path: Path) -> Transform:
    """Return the map through pairs of points.

    Between the points the map is smooth (Clough and Tocher's interpolation of what an affine map leaves); beyond
    their hull it keeps the displacement of the nearest point.

    Args:
        table: the pairs.
        path: of their file, for errors.

    Raises:
        StatedError: if points are doubled, fewer than six, or on one line.
    """
    sparse, dense = table.sparse_um, table.dense_um
    if len(sparse) < MIN_PAIRS:
        raise StatedError(file=path, expected=f"{MIN_PAIRS} pairs of points or more", found=str(len(sparse)))
    points, times = np.unique(sparse, axis=0, return_counts=True)
    if len(points) < len(sparse):
        found = f"{tuple(points[times > 1][0].tolist())} um {times.max()} times"
        raise StatedError(file=path, expected="sparse points that all differ", found=found)
    spread = np.linalg.svd(sparse - sparse.mean(0), compute_uv=False)
    if spread[1] < 1e-3 * spread[0]:
        raise StatedError(file=path, expected="points that span a plane", found="points on one line")
    affine = checked_affine(affine_through(sparse, dense), path)
    left = dense - sparse @ affine[:, :2].T - affine[:, 2]
    if np.abs(left).max() <= _AFFINE_TOLERANCE_UM:
        return Transform(affine)
    smooth, nearest = CloughTocher2DInterpolator(sparse, left), NearestNDInterpolator(sparse, left)

    def mapped(points: Floats) -> Floats:
        displacement = smooth(points)
        outside = np.isnan(displacement).any(1)
        displacement[outside] = nearest(points[outside])
        moved: Floats = points @ affine[:, :2].T + affine[:, 2] + displacement
        return moved

    return sampled(mapped, np.stack([sparse.min(0), sparse.max(0)]), affine, margin_um=GRID_MARGIN_UM)


def contradictions(table: LandmarkTable) -> tuple[str, ...]:
    """Return a sentence that names the pairs which the others contradict; empty where none or too many do.

    A pair is compared with its neighbours, after a robust affine map (least median of squares) is taken away, so that a
    smooth deformation contradicts nothing.
    """
    off_um, spread_um = _distance_from_neighbours_um(table)
    usual_um = np.maximum(float(np.median(off_um)), spread_um)
    limit_um = np.maximum(_CONTRADICTION_UM, _CONTRADICTION_TIMES * usual_um)
    bad = np.flatnonzero(off_um > limit_um)
    if not 0 < len(bad) <= max(1, min(_MOST_CONTRADICTIONS * len(off_um), _MOST_CONTRADICTING)):
        return ()
    worst = bad[np.argsort(-off_um[bad], kind="stable")]
    named = ", ".join(f"line {table.lines[index]} ({off_um[index]:.0f} um)" for index in worst[:_MOST_NAMED])
    more = f" and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    verb = "contradicts" if len(bad) == 1 else "contradict"
    return (f"{len(bad)} of the {len(off_um)} pairs of points {verb} the others: {named}{more}",)


def covered_share(table: LandmarkTable, extent_um: Floats) -> float:
    """Return which share of a rectangle (2, 2), lower and upper corner, lies within the hull of the sparse points."""
    size = extent_um[1] - extent_um[0]
    hull = cv2.convexHull(np.clip(table.sparse_um, *extent_um).astype(np.float32))
    return float(cv2.contourArea(hull) / np.prod(size))


def _distance_from_neighbours_um(table: LandmarkTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N,) how far each pair's displacement is from what its neighbours foretell, and how far theirs are.

    Neighbours foretell it by their median and by the plane through them; the nearer of the two counts. A wrong
    neighbour pulls the plane, and at the edge of the points, where all lie on one side, a bend pulls the median.
    """
    sparse, dense = table.sparse_um, table.dense_um
    # OpenCV asks for contiguous points.
    robust, _ = cv2.estimateAffine2D(np.array(sparse), np.array(dense), method=cv2.LMEDS, confidence=0.999)
    affine = affine_through(sparse, dense) if robust is None else np.asarray(robust, np.float64)
    left = dense - sparse @ affine[:, :2].T - affine[:, 2]
    _, near = cKDTree(sparse).query(sparse, k=min(_NEIGHBOURS_OF_PLANE, len(sparse) - 1) + 1)
    around = left[near[:, 1 : _NEIGHBOURS + 1]]
    typical = np.median(around, axis=1)
    spread = np.median(np.linalg.norm(around - typical[:, None], axis=2), axis=1)
    offset = sparse[near[:, 1:]] - sparse[:, None]
    design = np.concatenate([offset, np.ones((*offset.shape[:2], 1))], axis=2)
    planes = np.linalg.pinv(design) @ left[near[:, 1:]]
    foretold = np.stack([typical, planes[:, 2]])
    return np.linalg.norm(left - foretold, axis=2).min(0), spread
