"""Subtract autofluorescence from dense patches, by the factors that the stage panel measured over the slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.panel.panel_file import PanelCheck


@dataclass(frozen=True)
class BackgroundSubtraction:
    """What to take from each channel.

    Attributes:
        channel: index of the autofluorescence channel.
        level: its background, in its own units.
        factors: by channel, 0 for the autofluorescence channel itself.
    """

    channel: int
    level: float
    factors: tuple[float, ...]

    @classmethod
    def of(cls, check: PanelCheck, channels: Sequence[str], slide: str) -> Self:
        """Return what a check says for a slide of these channels.

        Raises:
            StatedError: if the slide has no autofluorescence channel, or the check is of other channels.
        """
        names = tuple(marker.marker for marker in check.markers)
        if names != tuple(channels):
            expected = f"a check by panel of the channels {', '.join(channels)}"
            raise StatedError(slide=slide, expected=expected, found=", ".join(names) or "a check of no channel")
        if not check.autofluorescence:
            expected = "a channel of autofluorescence to subtract (panel.autofluorescence)"
            raise StatedError(slide=slide, expected=expected, found=f"{', '.join(channels)}")
        channel = names.index(check.autofluorescence)
        factors = tuple(
            0.0 if index == channel else marker.background_factor for index, marker in enumerate(check.markers)
        )
        return cls(channel, check.markers[channel].background, factors)

    def subtracted(self, planes_cyx: NDArray[Any]) -> NDArray[Any]:
        """Return (C, P, P) in the same type: x - f max(0, a - b), and 0 where that is below 0.

        x is a channel, f its factor, a the autofluorescence channel, b its background.
        """
        above = np.maximum(planes_cyx[self.channel].astype(np.float32) - np.float32(self.level), 0)
        factors = np.array(self.factors, np.float32)[:, None, None]
        left = np.maximum(planes_cyx.astype(np.float32) - factors * above, 0)
        if planes_cyx.dtype.kind != "f":
            left = np.rint(left)
        # Float32 is exact for all values of uint16, so that a channel with the factor 0 stays as it is.
        return np.asarray(left, dtype=planes_cyx.dtype)
