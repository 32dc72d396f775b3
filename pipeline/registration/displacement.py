"""Evaluate a displacement on a regular grid, and invert it numerically."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INVERSE_STEPS = 60
INVERSE_TOLERANCE_UM = 1e-4


@dataclass(frozen=True, eq=False)
class DisplacementGrid:
    """Displacements in um at the nodes of a regular grid; bilinear between them, clamped at the edge.

    Attributes:
        origin_um: x and y of node (0, 0).
        spacing_um: distance between neighbouring nodes, the same in x and y.
        values_um: float32 (2, H, W); component 0 is x, component 1 is y; rows run along y.
    """

    origin_um: tuple[float, float]
    spacing_um: float
    values_um: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.values_um.shape
        if len(shape) != 3 or shape[0] != 2 or min(shape[1:]) < 1 or not self.spacing_um > 0:
            raise ValueError(f"a displacement grid needs values (2, H, W) and a spacing above 0, not {shape}")

    @classmethod
    def covering(cls, low_um: tuple[float, float], high_um: tuple[float, float], spacing_um: float) -> DisplacementGrid:
        """Return a grid of zeros whose nodes reach from `low_um` to at least `high_um`."""
        width, height = (int(np.ceil((high - low) / spacing_um)) + 1 for low, high in zip(low_um, high_um, strict=True))
        return cls(low_um, spacing_um, np.zeros((2, max(height, 2), max(width, 2)), np.float32))

    def axes_um(self) -> tuple[Floats, Floats]:
        """Return the x (W,) and the y (H,) of the nodes."""
        _, height, width = self.values_um.shape
        x, y = (
            np.arange(count) * self.spacing_um + start
            for count, start in zip((width, height), self.origin_um, strict=True)
        )
        return x, y

    def nodes_um(self) -> Floats:
        """Return positions (H*W, 2) of the nodes, row by row."""
        _, height, width = self.values_um.shape
        y, x = np.mgrid[0:height, 0:width]
        nodes: Floats = np.stack([x.ravel(), y.ravel()], axis=1) * self.spacing_um + np.asarray(self.origin_um)
        return nodes

    def with_values(self, displacements_um: NDArray[Any]) -> DisplacementGrid:
        """Return the same grid with displacements (H*W, 2), in the order of `nodes_um`."""
        values = np.ascontiguousarray(displacements_um.T.reshape(self.values_um.shape), dtype=np.float32)
        return DisplacementGrid(self.origin_um, self.spacing_um, values)

    def at(self, points_xy_um: NDArray[Any]) -> Floats:
        """Return displacements (N, 2) in um at points (N, 2) in um."""
        _, height, width = self.values_um.shape
        position = (np.asarray(points_xy_um, np.float64) - np.asarray(self.origin_um)) / self.spacing_um
        left, right, across = _neighbours(position[:, 0], width)
        top, bottom, down = _neighbours(position[:, 1], height)
        values = self.values_um
        upper = values[:, top, left] * (1 - across) + values[:, top, right] * across
        lower = values[:, bottom, left] * (1 - across) + values[:, bottom, right] * across
        interpolated: Floats = (upper * (1 - down) + lower * down).T
        return interpolated

    def on_lattice(self, x_um: NDArray[Any], y_um: NDArray[Any]) -> Floats:
        """Return displacements (2, H, W) in um, x before y, at all points of columns `x_um` (W,) and rows `y_um` (H,).

        What `at` gives; bilinear interpolation goes along x and then along y, so few nodes are met per pixel.
        """
        _, height, width = self.values_um.shape
        left, right, across = _neighbours((np.asarray(x_um, np.float64) - self.origin_um[0]) / self.spacing_um, width)
        top, bottom, down = _neighbours((np.asarray(y_um, np.float64) - self.origin_um[1]) / self.spacing_um, height)
        first, last = int(top.min()), int(bottom.max())
        nodes = self.values_um[:, first : last + 1]
        # `take`, because indexing would lay the two components side by side, which is slow to go through later.
        rows = nodes.take(left, axis=2) * (1 - across) + nodes.take(right, axis=2) * across
        upper, lower = rows.take(top - first, axis=1), rows.take(bottom - first, axis=1)
        interpolated: Floats = upper * (1 - down)[:, None] + lower * down[:, None]
        return interpolated


def _neighbours(position: Floats, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the nodes before and after positions in node spacings, and how far between them each lies."""
    clamped = np.clip(position, 0, count - 1)
    before = np.minimum(clamped.astype(np.int64), max(count - 2, 0))
    return before, np.minimum(before + 1, count - 1), clamped - before


def solve_inverse(affine: Floats, forward: DisplacementGrid, points_dense_um: Floats) -> Floats:
    """Return points p (N, 2) with A p + b + D(p) = q, by the fixed-point iteration p <- A^-1 (q - b - D(p)).

    It converges where the displacement changes by less than the affine part scales, that is, without folds.
    """
    back = np.linalg.inv(affine[:, :2])
    target = np.asarray(points_dense_um, np.float64) - affine[:, 2]
    points: Floats = target @ back.T
    # A point that stands still has arrived; most do at once, those on a steep slope of the field take many steps.
    moving = np.arange(len(points))
    for _ in range(INVERSE_STEPS):
        moved = (target[moving] - forward.at(points[moving])) @ back.T
        change = np.abs(moved - points[moving]).max(axis=1)
        points[moving] = moved
        moving = moving[change >= INVERSE_TOLERANCE_UM]
        if not len(moving):
            break
    return points
