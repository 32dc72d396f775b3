"""Join several maps into one: which piece each node of the grid belongs to, both ways, and where seams run.

Between nodes of different pieces the displacement jumps. What is said of folds and of the way back leaves these cells
out: there the tissue itself is torn, or lies on itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from pipeline.registration.displacement import DisplacementGrid, Floats, solve_inverse
from pipeline.registration.transform import GRID_MARGIN_UM, Transform

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelGrid:
    """Which piece each node of a regular grid belongs to.

    Attributes:
        origin_um: x and y of node (0, 0).
        spacing_um: distance of the nodes.
        labels: int64 (H, W).
    """

    origin_um: tuple[float, float]
    spacing_um: float
    labels: Labels

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Cells (H-1, W-1) whose corners belong to one piece."""
        corners = [self.labels[:-1, :-1], self.labels[1:, :-1], self.labels[:-1, 1:], self.labels[1:, 1:]]
        same: NDArray[np.bool_] = np.all([corner == corners[0] for corner in corners], axis=0)
        return same

    def nearest(self, points_um: Floats) -> Labels:
        """Return the piece (N,) of the node nearest to each point (N, 2)."""
        height, width = self.labels.shape
        node = np.rint((points_um - np.asarray(self.origin_um)) / self.spacing_um).astype(int)
        found: Labels = self.labels[np.clip(node[:, 1], 0, height - 1), np.clip(node[:, 0], 0, width - 1)]
        return found

    def at(self, points_um: Floats) -> Labels:
        """Return the piece (N,) of points (N, 2); -1 in a cell that holds a seam."""
        height, width = self.labels.shape
        cell = np.floor((points_um - np.asarray(self.origin_um)) / self.spacing_um).astype(int)
        column, row = np.clip(cell[:, 0], 0, width - 2), np.clip(cell[:, 1], 0, height - 2)
        found: Labels = np.where(self.whole[row, column], self.labels[row, column], -1)
        return found


@dataclass(frozen=True, eq=False)
class Seams:
    """Where a piecewise map jumps, in both frames."""

    sparse: LabelGrid
    dense: LabelGrid

    def clear_of(self, sparse_um: Floats, dense_um: Floats) -> NDArray[np.bool_]:
        """Return which points (N,), known in both frames, lie within one piece there and back."""
        here, there = self.sparse.at(sparse_um), self.dense.at(dense_um)
        clear: NDArray[np.bool_] = (here >= 0) & (here == there)
        return clear


def filled(labels: Labels, known: NDArray[np.bool_]) -> Labels:
    """Return labels (H, W) in which unknown nodes take the label of the nearest known one."""
    if not known.any():
        return np.zeros_like(labels)
    nearest: Any = distance_transform_edt(~known, return_distances=False, return_indices=True)
    taken: Labels = labels[nearest[0], nearest[1]]
    return taken


def joined(maps: Sequence[Transform], nodes: LabelGrid) -> Transform:
    """Return the map that follows, at each node, the map of its piece; its affine part is that of the first.

    Args:
        maps: of the pieces, forward only.
        nodes: the piece of each node.
    """
    height, width = nodes.labels.shape
    grid = DisplacementGrid(nodes.origin_um, nodes.spacing_um, np.zeros((2, height, width), np.float32))
    points, labels = grid.nodes_um(), nodes.labels.ravel()
    moved = np.empty_like(points)
    for number, transform in enumerate(maps):
        rows = labels == number
        moved[rows] = transform.to_dense(points[rows])
    affine = maps[0].affine
    return Transform(affine, grid.with_values(moved - points @ affine[:, :2].T - affine[:, 2]))


def with_inverse(maps: Sequence[Transform], nodes: LabelGrid, dense_extent_um: Floats) -> tuple[Transform, Seams]:
    """Return the joined map with its way back, and its seams.

    A dense point goes back by the piece that owns the sparse point it comes to; where several do, by the first of
    them, and where none does, as in a gap, by the one that is nearest.
    """
    forward = joined(maps, nodes)
    low, high = dense_extent_um[0] - GRID_MARGIN_UM, dense_extent_um[1] + GRID_MARGIN_UM
    grid = DisplacementGrid.covering((float(low[0]), float(low[1])), (float(high[0]), float(high[1])), nodes.spacing_um)
    points = grid.nodes_um()
    best, owner = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    back = np.zeros_like(points)
    for number, transform in enumerate(maps):
        own = nodes.labels == number
        if not own.any():
            continue
        rows = np.ones(len(points), np.bool_) if number == 0 else _near(transform, own, nodes, points)
        came = _back(transform, points[rows])
        away = _sampled(np.asarray(distance_transform_edt(~own), np.float64), nodes, came)
        nearer = away < best[rows]
        taken = np.flatnonzero(rows)[nearer]
        best[taken], owner[taken], back[taken] = away[nearer], number, came[nearer]
    affine = forward.affine
    without = (points - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    _, height, width = grid.values_um.shape
    dense = LabelGrid(grid.origin_um, grid.spacing_um, owner.reshape(height, width))
    return Transform(affine, forward.forward, grid.with_values(back - without)), Seams(nodes, dense)


def _back(transform: Transform, points_um: Floats) -> Floats:
    if transform.forward is None:
        back: Floats = (points_um - transform.affine[:, 2]) @ np.linalg.inv(transform.affine[:, :2]).T
        return back
    return solve_inverse(transform.affine, transform.forward, points_um)


def _near(transform: Transform, own: NDArray[np.bool_], nodes: LabelGrid, points_um: Floats) -> NDArray[np.bool_]:
    """Return which dense points (N,) lie within the box that a piece covers there, and a margin."""
    row, column = np.nonzero(own)
    points = np.stack([column, row], axis=1) * nodes.spacing_um + np.asarray(nodes.origin_um)
    there = transform.to_dense(points)
    low, high = there.min(0) - GRID_MARGIN_UM, there.max(0) + GRID_MARGIN_UM
    near: NDArray[np.bool_] = ((points_um >= low) & (points_um <= high)).all(1)
    return near


def _sampled(values: Floats, nodes: LabelGrid, points_um: Floats) -> Floats:
    height, width = values.shape
    node = np.rint((points_um - np.asarray(nodes.origin_um)) / nodes.spacing_um).astype(int)
    sampled: Floats = values[np.clip(node[:, 1], 0, height - 1), np.clip(node[:, 0], 0, width - 1)]
    return sampled
