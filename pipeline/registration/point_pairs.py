"""A transform given as pairs of points: what every tool can write, also those that keep their result in a pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats
from pipeline.registration.sampled import affine_through, sampled
from pipeline.registration.transform import GRID_MARGIN_UM, Transform, checked_affine

COLUMNS = ("sparse_x_um", "sparse_y_um", "dense_x_um", "dense_y_um")
MIN_PAIRS = 6
# Pairs that an affine map fits to this need no grid.
_AFFINE_TOLERANCE_UM = 1e-3


def read_point_pairs(path: Path) -> Transform:
    """The map through the pairs of points of a CSV with the columns of `COLUMNS`, in any order, others ignored.

    Between the points the map is smooth (Clough and Tocher's interpolation of what an affine map leaves); beyond
    their hull it keeps the displacement of the nearest point.

    Raises:
        StatedError: if columns are absent, numbers are not finite, points are doubled, too few or on one line.
    """
    expected = f"a CSV with the columns {', '.join(COLUMNS)} and {MIN_PAIRS} rows of finite numbers or more"
    try:
        table = pd.read_csv(path, comment="#")[list(COLUMNS)].to_numpy(np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    if len(table) < MIN_PAIRS or not np.isfinite(table).all():
        raise StatedError(file=path, expected=expected, found=f"{int(np.isfinite(table).all(1).sum())} such rows")
    sparse, dense = table[:, :2], table[:, 2:]
    if len(np.unique(sparse, axis=0)) < len(sparse):
        raise StatedError(file=path, expected="sparse points that all differ", found="the same point twice")
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
