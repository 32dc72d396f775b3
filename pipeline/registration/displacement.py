"""A displacement on a regular grid, and its numerical inverse."""

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
        """A grid of zeros whose nodes reach from `low_um` to at least `high_um`."""
        width, height = (int(np.ceil((high - low) / spacing_um)) + 1 for low, high in zip(low_um, high_um, strict=True))
        return cls(low_um, spacing_um, np.zeros((2, max(height, 2), max(width, 2)), np.float32))

    def nodes_um(self) -> Floats:
        """Positions (H*W, 2) of the nodes, row by row."""
        _, height, width = self.values_um.shape
        y, x = np.mgrid[0:height, 0:width]
        nodes: Floats = np.stack([x.ravel(), y.ravel()], axis=1) * self.spacing_um + np.asarray(self.origin_um)
        return nodes

    def with_values(self, displacements_um: NDArray[Any]) -> DisplacementGrid:
        """The same grid with displacements (H*W, 2), in the order of `nodes_um`."""
        values = np.ascontiguousarray(displacements_um.T.reshape(self.values_um.shape), dtype=np.float32)
        return DisplacementGrid(self.origin_um, self.spacing_um, values)

    def at(self, points_xy_um: NDArray[Any]) -> Floats:
        """Displacements (N, 2) in um at points (N, 2) in um."""
        _, height, width = self.values_um.shape
        position = (np.asarray(points_xy_um, np.float64) - np.asarray(self.origin_um)) / self.spacing_um
        x = np.clip(position[:, 0], 0, width - 1)
        y = np.clip(position[:, 1], 0, height - 1)
        left = np.minimum(x.astype(np.int64), max(width - 2, 0))
        top = np.minimum(y.astype(np.int64), max(height - 2, 0))
        across, down = x - left, y - top
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        values = self.values_um
        upper = values[:, top, left] * (1 - across) + values[:, top, right] * across
        lower = values[:, bottom, left] * (1 - across) + values[:, bottom, right] * across
        interpolated: Floats = (upper * (1 - down) + lower * down).T
        return interpolated


def solve_inverse(affine: Floats, forward: DisplacementGrid, points_dense_um: Floats) -> Floats:
    """Points p (N, 2) with A p + b + D(p) = q, by the fixed-point iteration p <- A^-1 (q - b - D(p)).

    It converges where the displacement changes by less than the affine part scales, that is, without folds.
    """
    back = np.linalg.inv(affine[:, :2])
    target = np.asarray(points_dense_um, np.float64) - affine[:, 2]
    points = target @ back.T
    for _ in range(INVERSE_STEPS):
        moved = (target - forward.at(points)) @ back.T
        change = float(np.abs(moved - points).max(initial=0.0))
        points = moved
        if change < INVERSE_TOLERANCE_UM:
            break
    return points
