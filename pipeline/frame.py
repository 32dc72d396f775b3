"""Define the frame that every stage shares: micrometres, pixel-centre origin, x to the right, y down.

The centre of level-0 pixel (0, 0) is the point (0, 0). A pixel of a coarser level covers `downsample`
level-0 pixels, so its centre lies between theirs; forgetting that half pixel shifts coarse levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pixel_to_um(index_px: float | Floats, *, downsample: float, mpp: float) -> float | Floats:
    """Return position in um of the centre of pixel `index_px` of a level (fractions allowed)."""
    return ((index_px + 0.5) * downsample - 0.5) * mpp


def um_to_pixel(position_um: float | Floats, *, downsample: float, mpp: float) -> float | Floats:
    """Return fractional pixel index of a level whose centre lies at `position_um`; inverts `pixel_to_um`."""
    return (position_um / mpp + 0.5) / downsample - 0.5
