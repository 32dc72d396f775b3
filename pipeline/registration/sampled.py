"""Convert maps known by their values to our transform: the closest affine, the rest on the 16-um grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.registration.displacement import DisplacementGrid, Floats
from pipeline.registration.transform import GRID_SPACING_UM, Transform

Map = Callable[[Floats], Floats]

_FIT_POINTS = 21


def fitted_affine(mapped: Map, low: Floats, high: Floats) -> Floats:
    """Return the affine map (2, 3) closest to a map over a rectangle, by least squares."""
    across = np.linspace(0, 1, _FIT_POINTS)
    points: Floats = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2) * (high - low) + low
    return affine_through(points, mapped(points))


def affine_through(points_um: Floats, targets_um: Floats) -> Floats:
    """Return the affine map (2, 3) that carries points (N, 2) closest to their targets (N, 2), by least squares."""
    design = np.column_stack([points_um, np.ones(len(points_um))])
    return np.asarray(np.linalg.lstsq(design, targets_um, rcond=None)[0].T, np.float64)


def sampled(
    mapped: Map, domain_um: Floats, affine: Floats, *, margin_um: float = 0.0, dense_extent_um: Floats | None = None
) -> Transform:
    """Return a map as affine part plus displacement grid, both ways.

    Args:
        mapped: sparse points (N, 2) in um to dense points (N, 2), asked for within the domain only.
        domain_um: (2, 2), lower and upper corner of where the map is known.
        affine: (2, 3), the affine part.
        margin_um: how far the grid reaches beyond the domain; nodes there take the displacement of its edge.
        dense_extent_um: (2, 2), the part of the dense frame to solve the inverse on; None is the domain's image.
    """
    low, high = domain_um
    first, last = low - margin_um, high + margin_um
    grid = DisplacementGrid.covering(
        (float(first[0]), float(first[1])), (float(last[0]), float(last[1])), GRID_SPACING_UM
    )
    nodes = grid.nodes_um()
    inside = np.clip(nodes, low, high)
    forward = grid.with_values(mapped(inside) - inside @ affine[:, :2].T - affine[:, 2])
    if dense_extent_um is None:
        corners = Transform(affine, forward).to_dense(nodes)
        dense_extent_um = np.stack([corners.min(0), corners.max(0)])
    return Transform.with_inverse(affine, forward, dense_extent_um)
