"""Define scalar fields over the sparse frame: a coarse grid, interpolated anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# float32 throughout; numpy's stubs widen mixed arithmetic, so the type does not say so.
Plane = NDArray[Any]


@dataclass(frozen=True)
class Field:
    """Values on a square grid whose node (0, 0) lies at the origin of the sparse frame.

    Attributes:
        values: (rows, columns) float32.
        spacing_um: distance between nodes.
    """

    values: Plane
    spacing_um: float

    def at(self, x_um: NDArray[np.floating], y_um: NDArray[np.floating]) -> Plane:
        """Return bilinear values at positions of any one shape, clamped at the edge."""
        columns = np.clip(np.asarray(x_um, np.float32) / self.spacing_um, 0, self.values.shape[1] - 1.001)
        rows = np.clip(np.asarray(y_um, np.float32) / self.spacing_um, 0, self.values.shape[0] - 1.001)
        if columns.ndim == 2:
            return np.asarray(cv2.remap(self.values, columns, rows, cv2.INTER_LINEAR), np.float32)
        left, top = columns.astype(np.intp), rows.astype(np.intp)
        u, v = columns - left, rows - top
        upper = self.values[top, left] * (1 - u) + self.values[top, left + 1] * u
        lower = self.values[top + 1, left] * (1 - u) + self.values[top + 1, left + 1] * u
        return np.asarray(upper * (1 - v) + lower * v, np.float32)


@dataclass(frozen=True)
class Frame:
    """The grid that all fields of a slide share.

    Attributes:
        shape: rows and columns.
        spacing_um: distance between nodes.
    """

    shape: tuple[int, int]
    spacing_um: float

    def positions_um(self) -> tuple[Plane, Plane]:
        """Return columns x and y of every node, each (rows, columns)."""
        rows, columns = np.indices(self.shape, dtype=np.float32)
        return columns * np.float32(self.spacing_um), rows * np.float32(self.spacing_um)

    def field(self, values: NDArray[np.floating]) -> Field:
        """Return the field with these values at the nodes."""
        return Field(np.ascontiguousarray(values, np.float32), self.spacing_um)

    def noise(self, rng: np.random.Generator, sigma_um: float) -> Plane:
        """Smooth Gaussian noise of mean 0 and variance 1 (over many draws); `sigma_um` is the width of its kernel."""
        # Drawn on a grid just fine enough for the kernel: white noise of the full grid would be blurred for nothing.
        step = max(1.0, sigma_um / self.spacing_um / 3)
        sigma = sigma_um / self.spacing_um / step
        rows, columns = (int(np.ceil(length / step)) + 3 for length in self.shape)
        pad = int(np.ceil(4 * sigma))
        white = rng.standard_normal((rows + 2 * pad, columns + 2 * pad), dtype=np.float32)
        smooth = cv2.GaussianBlur(white, (2 * pad + 1, 2 * pad + 1), sigma)[pad : pad + rows, pad : pad + columns]
        x, y = self.positions_um()
        scale = np.float32(1 / (self.spacing_um * step))
        fine = cv2.remap(smooth, x * scale + 1, y * scale + 1, cv2.INTER_CUBIC)
        return np.asarray(fine * (2 * np.sqrt(np.pi) * sigma), np.float32)


def smooth_step(values: Plane, width: float) -> Plane:
    """Return a rise from 0 to 1 around 0 over about `width`, in the unit of the values."""
    return np.clip(values / np.float32(width) + np.float32(0.5), 0, 1)
