"""A slide in memory: known pixels behind the reader interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Level, SlideHeader
from pipeline.slides.closing import WithoutJpegTiles


class ArraySlide(WithoutJpegTiles):
    """Serves a pyramid of arrays (H, W, C), each level the exact mean of squares of the one before."""

    def __init__(
        self,
        base: NDArray[Any],
        *,
        mpp: float = 0.5,
        downsamples: Sequence[int] = (1,),
        channels: tuple[str, ...] = ("R", "G", "B"),
    ) -> None:
        self.levels = [_mean(base, factor) for factor in downsamples]
        self.reads: list[tuple[int, tuple[int, int]]] = []
        self.header = SlideHeader(
            path=Path("memory.tif"),
            reader="memory",
            mpp=mpp,
            levels=tuple(
                Level((a.shape[1], a.shape[0]), float(f)) for a, f in zip(self.levels, downsamples, strict=True)
            ),
            channels=channels,
            dtype=base.dtype.name,
        )

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> NDArray[Any]:
        self.reads.append((level, size_xy))
        image = self.levels[level]
        out = np.full((size_xy[1], size_xy[0], image.shape[2]), 255 if self.header.is_rgb else 0, dtype=image.dtype)
        (x, y), (w, h) = corner_xy, size_xy
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
        if x1 > x0 and y1 > y0:
            out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
        return out if channels is None else out[..., list(channels)]

    def close(self) -> None:
        """Nothing to release."""


def _mean(image: NDArray[Any], factor: int) -> NDArray[Any]:
    if factor == 1:
        return image
    h, w = (side // factor * factor for side in image.shape[:2])
    mean = image[:h, :w].reshape(h // factor, factor, w // factor, factor, -1).mean(axis=(1, 3), dtype=np.float64)
    return (np.rint(mean) if image.dtype.kind == "u" else mean).astype(image.dtype)
