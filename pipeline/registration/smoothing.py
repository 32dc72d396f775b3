"""Fit a smooth displacement to scattered, partly wrong shifts: penalised cubic B-splines, robust weights.

Minimises sum_i w_i |f(x_i) - s_i|^2 + lambda |bending of f|^2 over tensor-product cubic B-splines (P-splines, Eilers
and Marx 1996), with the weights w_i of a Cauchy loss set anew in each round (iteratively reweighted least squares).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from pipeline.registration.displacement import Floats

_ROUNDS = 6
_MIN_SCALE_UM = 0.3
_CAUCHY = 2.385
# Far from all data the field should end level, not run off along its last slope.
_LEVEL_FRACTION = 1e-3
# The system is symmetric and positive definite: ordered as such, it is factorised in half of the time.
_SYMMETRIC: dict[str, Any] = {
    "permc_spec": "MMD_AT_PLUS_A",
    "diag_pivot_thresh": 0.0,
    "options": {"SymmetricMode": True},
}


@dataclass(frozen=True, eq=False)
class SplineField:
    """A vector field in um over the sparse frame.

    Attributes:
        low_um: x and y of the lower corner of the domain.
        knot_um: distance of the knots.
        coefficients: (rows, columns, 2).
    """

    low_um: Floats
    knot_um: float
    coefficients: Floats

    def at(self, points_um: NDArray[Any]) -> Floats:
        """Return the field (N, 2) at points (N, 2); points outside take the value at the edge of the domain."""
        rows, columns, _ = self.coefficients.shape
        design = _design(points_um, self.low_um, self.knot_um, columns, rows)
        values: Floats = design @ self.coefficients.reshape(-1, 2)
        return values

    def on_lattice(self, x_um: Floats, y_um: Floats) -> Floats:
        """Return what `at` gives (H*W, 2), row by row, at all points of columns `x_um` (W,) and rows `y_um` (H,)."""
        rows, columns, _ = self.coefficients.shape
        across = _along((x_um - self.low_um[0]) / self.knot_um, columns)
        down = _along((y_um - self.low_um[1]) / self.knot_um, rows)
        values: Floats = np.stack([down @ self.coefficients[..., axis] @ across.T for axis in (0, 1)], axis=-1)
        return values.reshape(-1, 2)


def fit_field(
    points_um: Floats,
    shifts_um: Floats,
    confidence: Floats,
    domain_um: Floats,
    *,
    knot_um: float,
    stiffness: float,
) -> SplineField:
    """Return the field that fits the shifts, outliers set aside.

    Args:
        points_um: (N, 2) where the shifts were measured.
        shifts_um: (N, 2).
        confidence: (N,) prior weights.
        domain_um: (2, 2) corners of the region to cover.
        knot_um: distance of the knots.
        stiffness: lambda; 0 bends freely. Knots that see the weight of one block each balance at about 1.
    """
    columns, rows = (np.ceil((domain_um[1] - domain_um[0]) / knot_um).astype(int) + 3).tolist()
    design = _design(points_um, domain_um[0], knot_um, columns, rows)
    penalty = stiffness * _bending(columns, rows)
    weights = np.ones(len(points_um))
    field = SplineField(domain_um[0], knot_um, np.zeros((rows, columns, 2)))
    for _ in range(_ROUNDS):
        weighted = design.T @ scipy.sparse.diags(weights * confidence)
        system = (weighted @ design + penalty).tocsc()
        factors = scipy.sparse.linalg.splu(system, **_SYMMETRIC)
        solution = factors.solve(np.ascontiguousarray(weighted @ shifts_um))
        field = SplineField(domain_um[0], knot_um, solution.reshape(rows, columns, 2))
        distance = np.linalg.norm(design @ solution - shifts_um, axis=1)
        scale = max(1.4826 / 1.18 * float(np.median(distance)) if len(distance) else 0.0, _MIN_SCALE_UM)
        weights = 1 / (1 + (distance / (_CAUCHY * scale)) ** 2)
    return field


def _design(points_um: NDArray[Any], low: Floats, knot: float, columns: int, rows: int) -> Any:
    """Return sparse (N, rows * columns): the values of all basis functions at the points."""
    position = (np.asarray(points_um, np.float64) - low) / knot
    across = _basis(position[:, 0], columns)
    down = _basis(position[:, 1], rows)
    index = (down[0][:, :, None] * columns + across[0][:, None, :]).reshape(len(position), -1)
    value = (down[1][:, :, None] * across[1][:, None, :]).reshape(len(position), -1)
    pointer = np.arange(0, index.size + 1, 16)
    return scipy.sparse.csr_matrix((value.ravel(), index.ravel(), pointer), shape=(len(position), rows * columns))


def _along(position: Floats, count: int) -> Any:
    """Return sparse (N, count): the values of the basis functions of one axis at positions in knot distances."""
    index, values = _basis(position, count)
    pointer = np.arange(0, index.size + 1, 4)
    return scipy.sparse.csr_matrix((values.ravel(), index.ravel(), pointer), shape=(len(position), count))


def _basis(position: Floats, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Return indices and values (N, 4) of the cubic B-splines that are not zero at positions in knot distances."""
    clipped = np.clip(position, 0, count - 3)
    first = np.minimum(clipped.astype(np.int64), count - 4)
    t = clipped - first
    values = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    return first[:, None] + np.arange(4), values


@lru_cache(maxsize=4)
def _bending(columns: int, rows: int) -> Any:
    """Return penalty on second differences along x, y and across, with a trace of first differences."""
    second_x, second_y = (_differences(n, (1.0, -2.0, 1.0)) for n in (columns, rows))
    first_x, first_y = (_differences(n, (-1.0, 1.0)) for n in (columns, rows))
    one_x, one_y = scipy.sparse.identity(columns), scipy.sparse.identity(rows)
    parts = [
        (1.0, scipy.sparse.kron(one_y, second_x)),
        (1.0, scipy.sparse.kron(second_y, one_x)),
        (2.0, scipy.sparse.kron(first_y, first_x)),
        (_LEVEL_FRACTION, scipy.sparse.kron(one_y, first_x)),
        (_LEVEL_FRACTION, scipy.sparse.kron(first_y, one_x)),
    ]
    total = sum(weight * (part.T @ part) for weight, part in parts)
    return total + 1e-9 * scipy.sparse.identity(columns * rows)


def _differences(count: int, stencil: tuple[float, ...]) -> Any:
    rows = count - len(stencil) + 1
    return scipy.sparse.diags(stencil, range(len(stencil)), shape=(rows, count))
