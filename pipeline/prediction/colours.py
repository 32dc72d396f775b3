"""Colour predicted values by viridis, which rises evenly in lightness and suits the colour-blind."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probe_file import MarkerProbe

MAP_NAME = "viridis"
TABLE: NDArray[np.uint8] = np.rint(matplotlib.colormaps[MAP_NAME](np.arange(256))[:, :3] * 255).astype(np.uint8)


def shades(values: NDArray[np.float32], marker: MarkerProbe) -> NDArray[np.float64]:
    """Return values (n,) as shares 0 to 1 of the marker's colour scale; what lies outside takes its ends."""
    spread = marker.scale_high - marker.scale_low
    scaled = (values.astype(np.float64) - marker.scale_low) / (spread if spread > 0 else 1.0)
    return np.clip(scaled, 0, 1)


def coloured(values: NDArray[np.float32], marker: MarkerProbe) -> NDArray[np.uint8]:
    """Return colours (n, 3) of values (n,)."""
    return TABLE[np.rint(shades(values, marker) * 255).astype(np.int64)]
