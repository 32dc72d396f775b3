"""Draw the points of a table as dots, for the pictures by which a person checks their positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Level, Pixels, SlideHeader
from pipeline.slides.closing import WithoutJpegTiles
from pipeline.slides.kinds.base import PointKind
from pipeline.slides.record import SideRecord

_SIDE_PX = 2048
# Radius of a dot, as a share of the mean distance between points.
_DOT = 0.3
_LARGEST_DOT_PX = 64


class PointMap(WithoutJpegTiles):
    """A slide of one channel, 1 in a dot about each point and 0 elsewhere; `read_region` as of any slide.

    Args:
        side: the table of points, as inspected. Points left of or above the frame's origin are not drawn.
        kind: what it is.
    """

    def __init__(self, side: SideRecord, kind: PointKind) -> None:
        position_um = kind.read_points(Path(side.path)).position * side.mpp
        extent_um = float(np.maximum(position_um.max(axis=0), 1.0).max())
        mpp = extent_um / _SIDE_PX
        position = position_um / mpp
        ends = np.maximum(position.max(axis=0), 1.0)
        spacing = float(np.sqrt(ends.prod() / len(position)))
        radius = min(max(1, round(_DOT * spacing)), _LARGEST_DOT_PX)
        width, height = (int(end) + radius + 1 for end in ends)
        self._labels = np.zeros((height, width), dtype=np.uint8)
        for x, y in np.rint(position[(position >= 0).all(axis=1)]).astype(int).tolist():
            cv2.circle(self._labels, (x, y), radius, 1, -1)
        self.header = SlideHeader(
            Path(side.path), side.reader, mpp, (Level((width, height), 1.0),), (kind.point,), "uint8"
        )

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """See `pipeline.slides.base.Slide`; there is one level and one channel."""
        found: NDArray[Any] = np.zeros((size_xy[1], size_xy[0], 1), dtype=np.uint8)
        (height, width), (x, y) = self._labels.shape, corner_xy
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + size_xy[0], width), min(y + size_xy[1], height)
        if right > left and bottom > top:
            found[top - y : bottom - y, left - x : right - x, 0] = self._labels[top:bottom, left:right]
        return found

    def close(self) -> None:
        """Release nothing: no file is held open."""
