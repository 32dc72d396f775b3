"""Draw the streaks of connective tissue: noise smeared along the direction of the fibres."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.tools.demo.architecture import Architecture
from pipeline.tools.demo.fields import Field, Frame, Plane

_SPACING_UM = 1.0
_STEPS = 9
_STEP_UM = 2.5


def draw_fibres(tissue: Architecture, rng: np.random.Generator) -> Field:
    """Return mean 0, variance about 1; line integral convolution (Cabral and Leedom, 1993) at 1 um."""
    coarse = tissue.frame
    ratio = round(coarse.spacing_um / _SPACING_UM)
    fine = Frame(((coarse.shape[0] - 1) * ratio + 1, (coarse.shape[1] - 1) * ratio + 1), _SPACING_UM)
    x, y = fine.positions_um()
    # Directions without sign are read as vectors of the doubled angle.
    cosine = coarse.field(np.cos(2 * tissue.fibre_rad)).at(x, y)
    sine = coarse.field(np.sin(2 * tissue.fibre_rad)).at(x, y)
    angle = 0.5 * np.arctan2(sine, cosine)
    along_x = np.cos(angle) * np.float32(_STEP_UM / _SPACING_UM)
    along_y = np.sin(angle) * np.float32(_STEP_UM / _SPACING_UM)
    white = cv2.GaussianBlur(rng.standard_normal(fine.shape, dtype=np.float32), (0, 0), 0.9)
    total = _smeared(white, along_x, along_y)
    broad = cv2.GaussianBlur(rng.standard_normal(fine.shape, dtype=np.float32), (0, 0), 2.6)
    total_broad = _smeared(broad, along_x, along_y)
    mixed = total / total.std() + 0.8 * total_broad / total_broad.std()
    return fine.field(mixed / mixed.std())


def _smeared(plane: Plane, along_x: Plane, along_y: Plane) -> Plane:
    """Return the mean over short straight runs, repeated: twice a straight run follows a slow curve."""
    rows, columns = np.indices(plane.shape, dtype=np.float32)
    for _ in range(2):
        total = plane.copy()
        for step in range(1, _STEPS // 2 + 1):
            for sign in (-step, step):
                total += cv2.remap(
                    plane, columns + sign * along_x, rows + sign * along_y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
                )
        plane = total / np.float32(_STEPS)
    return plane
