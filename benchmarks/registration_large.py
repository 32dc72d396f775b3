"""Seconds and memory of registering a slide of 20 x 20 mm at 0.5 um per pixel.

Usage: python benchmarks/registration_large.py [--side-px N] [--check]. The last line is JSON. The slide is drawn as it
is read: a square millimetre of nuclei again and again under one large outline, the dense side turned by 180 degrees.
Decoding of files is therefore not in it, and no wave bends it; the work of the engine is that of a real slide.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from array_slide import ArraySlide
from synthetic_pair import smooth_noise, synthetic_pair

from pipeline.registration.blocks_engine import align
from pipeline.registration.pair import Pair
from pipeline.settings import RegisterSettings
from pipeline.slides.base import Level, SlideHeader

MPP = 0.5
PERIOD_PX = 2048
DOWNSAMPLES = (1, 2, 4, 8, 16, 32, 64)
MASK_PX = 16
GOAL_SECONDS, GOAL_MB, GOAL_UM = 180.0, 4096, 0.5


class RepeatedSlide:
    """A large slide that repeats a small one under an outline; turned, it is seen from its last pixel backwards."""

    def __init__(self, tile: ArraySlide, outline: NDArray[np.bool_], side_px: int, *, turned: bool) -> None:
        self.tile, self.outline, self.turned = tile, outline, turned
        levels = tuple(Level((side_px // factor,) * 2, float(factor)) for factor in DOWNSAMPLES)
        channels, dtype = tile.header.channels, tile.header.dtype
        self.header = SlideHeader(Path("drawn.tif"), "drawn", MPP, levels, channels, dtype)

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> NDArray[Any]:
        """See `pipeline.slides.base.Slide`."""
        image, factor, side = self.tile.levels[level], DOWNSAMPLES[level], self.header.levels[level].size_xy[0]
        x, y = (corner + np.arange(size) for corner, size in zip(corner_xy, size_xy, strict=True))
        on = ((y >= 0) & (y < side))[:, None] & ((x >= 0) & (x < side))[None, :]
        if self.turned:
            x, y = side - 1 - x, side - 1 - y
        planes = image if channels is None else image[..., list(channels)]
        pixels = planes[np.ix_(y % image.shape[0], x % image.shape[1])]
        row, column = (np.clip(at * factor // MASK_PX, 0, len(self.outline) - 1) for at in (y, x))
        pixels[~(on & self.outline[np.ix_(row, column)])] = 255 if self.header.is_rgb else 100
        return pixels

    def close(self) -> None:
        """Release nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def drawn_pair(side_px: int) -> Pair:
    """Return the pair; dense um = extent - sparse um."""
    rng = np.random.default_rng(0)
    small = synthetic_pair(5, deformation_um=0.0, side_um=int(PERIOD_PX * MPP), mpp=(MPP, MPP), whole_shift=True)
    x, y = np.rint(small.truth(np.zeros((1, 2)))[0] / MPP).astype(int).tolist()
    dense = small.dense.read_region(0, (x, y), (PERIOD_PX, PERIOD_PX))
    rgb = small.sparse.read_region(0, (0, 0), (PERIOD_PX, PERIOD_PX))
    cells = side_px // MASK_PX
    coarse: Any = cv2.resize(smooth_noise(rng, (80, 80), 6), (cells, cells), interpolation=cv2.INTER_CUBIC)
    v, u = np.mgrid[0:cells, 0:cells] / cells - 0.5
    outline = (np.hypot(u, v) + 0.06 * coarse < 0.45) & (coarse < 1.2)
    sparse_side = RepeatedSlide(ArraySlide(rgb, mpp=MPP, downsamples=DOWNSAMPLES), outline, side_px, turned=False)
    dense_tile = ArraySlide(dense, mpp=MPP, downsamples=DOWNSAMPLES, channels=("CD3", "DAPI"))
    return Pair.of(sparse_side, RepeatedSlide(dense_tile, outline, side_px, turned=True), (MPP, MPP), None)


def main() -> int:
    """Register the slide; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side-px", type=int, default=40_960, help="a multiple of 2048")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    pair = drawn_pair(parsed.side_px)
    started, processor = time.perf_counter(), time.process_time()
    transform, quality = align(pair, RegisterSettings())
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - processor
    extent = (parsed.side_px - 1) * MPP
    points = np.random.default_rng(1).uniform(0.25, 0.75, (1000, 2)) * extent
    error_um = float(np.median(np.linalg.norm(transform.to_dense(points) - (extent - points), axis=1)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    met = quality.verdict == "pass" and seconds <= GOAL_SECONDS and peak_mb <= GOAL_MB and error_um <= GOAL_UM
    row = {
        "benchmark": "registration_large",
        "side_px": parsed.side_px,
        "verdict": quality.verdict,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_memory_mb": peak_mb,
        "median_um": round(error_um, 3),
        "blocks": len(quality.block_um),
        "met": met,
    }
    print(json.dumps(row))
    return 1 if parsed.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
