"""Define the true map from the sparse to the dense frame, exact in both directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.tools.demo.cohort import DensePlan

Points = NDArray[np.float64]

_WAVES = 5
_WAVELENGTH_UM = (900.0, 2200.0)
_INVERSION_TOLERANCE_UM = 1e-9


@dataclass(frozen=True)
class TrueMap:
    """q = matrix p + offset + sum over waves of amplitude * sin(wave . p + phase), all in um.

    Attributes:
        matrix: (2, 2) rotation, mirror and scale.
        offset_um: (2,).
        amplitude_um: (K, 2) displacement vector of each wave, in the dense frame.
        wave_per_um: (K, 2) wave vector of each wave, in the sparse frame, radians per um.
        phase: (K,) radians.
    """

    matrix: Points
    offset_um: Points
    amplitude_um: Points
    wave_per_um: Points
    phase: Points

    def to_dense(self, points_xy_um: Points) -> Points:
        """Return positions (N, 2) in the dense frame of positions (N, 2) in the sparse frame."""
        return points_xy_um @ self.matrix.T + self.offset_um + self.displacement_um(points_xy_um)

    def displacement_um(self, points_xy_um: Points) -> Points:
        """Return the smooth part of the map (N, 2), in the dense frame, at positions (N, 2) in the sparse frame."""
        displaced: Points = np.sin(points_xy_um @ self.wave_per_um.T + self.phase) @ self.amplitude_um
        return displaced

    def jacobian(self, points_xy_um: Points) -> Points:
        """Return derivative (N, 2, 2) of `to_dense` at positions in the sparse frame, rows are dense x and y."""
        slope = np.cos(points_xy_um @ self.wave_per_um.T + self.phase)
        strain = np.einsum("nk,ki,kj->nij", slope, self.amplitude_um, self.wave_per_um)
        return np.asarray(self.matrix + strain, np.float64)

    def to_sparse(self, points_xy_um: Points) -> Points:
        """Return positions (N, 2) in the sparse frame of positions (N, 2) in the dense frame, by Newton's method."""
        found: Points = (points_xy_um - self.offset_um) @ np.linalg.inv(self.matrix).T
        for _ in range(20):
            error = self.to_dense(found) - points_xy_um
            if np.abs(error).max(initial=0.0) < _INVERSION_TOLERANCE_UM:
                break
            found -= np.linalg.solve(self.jacobian(found), error[..., None])[..., 0]
        return found


def draw_map(
    plan: DensePlan, rng: np.random.Generator, tissue_xy_um: Points, margin_um: float
) -> tuple[TrueMap, tuple[float, float]]:
    """Return a map for one slide, and the extent (width, height) in um of the dense field that holds the tissue.

    Args:
        plan: rotation, mirror, scale and largest displacement.
        rng: draws the deformation.
        tissue_xy_um: (N, 2) points that cover the tissue, in the sparse frame.
        margin_um: distance between the tissue and the edges of the dense field.
    """
    angle = math.radians(plan.rotation_deg)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = plan.scale * turn @ np.diag([-1.0 if plan.mirrored else 1.0, 1.0])
    heading = rng.uniform(0, 2 * math.pi, _WAVES)
    number = 2 * math.pi / rng.uniform(*_WAVELENGTH_UM, _WAVES)
    wave = number[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    # Long waves may move the tissue further than short ones, so that the strain stays alike.
    amplitude = rng.normal(size=(_WAVES, 2)) / number[:, None]
    unscaled = TrueMap(matrix, np.zeros(2), amplitude, wave, rng.uniform(0, 2 * math.pi, _WAVES))
    largest = np.linalg.norm(unscaled.displacement_um(tissue_xy_um), axis=1).max()
    amplitude = amplitude * (plan.deformation_um / largest)
    centred = TrueMap(matrix, np.zeros(2), amplitude, wave, unscaled.phase)
    mapped = centred.to_dense(tissue_xy_um)
    offset = margin_um - mapped.min(axis=0)
    width_um, height_um = mapped.max(axis=0) - mapped.min(axis=0) + 2 * margin_um
    return TrueMap(matrix, offset, amplitude, wave, unscaled.phase), (float(width_um), float(height_um))
