"""The tissue mask against scikit-image: the same definition, written twice, on drawn and on real overviews.

Usage: python benchmarks/tissue_mask.py [--side N] [--repeats N] [--check]. Masks are compared first: their IoU must
reach 0.95 on every overview. Then both are timed in turn on a drawn overview of N px a side, and so is all that the
tile stage does with it: mask, ink, folds, outlines. Real slides are taken from the folder that MFL_REAL_DATA names.
Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import versions

from pipeline.slides.opening import open_slide
from pipeline.tiling.outlines import polygons_of
from pipeline.tiling.regions import REGIONS, find_regions
from pipeline.tissue.mask import Overview, read_overview, tissue_mask

SLIDES = (
    "orion_crc01/west_he.tif",
    "orion_crc01/centre_he.tif",
    "formats/CMU-1-Small-Region.svs",
    "formats/TCGA-CR-7395-01A-01-TS1.svs",
    "formats/OS-1-detail.ome.tif",
)
MPP = 8.0
GOAL_S, GOAL_IOU = 0.15, 0.95


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2560, help="side of the drawn overview in pixels")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    cv2.setNumThreads(1)  # as the tile stage does
    drawn = draw(parsed.side)
    overlaps = {name: overlap(overview) for name, overview in {"drawn": drawn, **real()}.items()}
    for name, value in overlaps.items():
        print(f"IoU with scikit-image, {name:40}{value:8.4f}")
    seconds = timed(drawn, parsed.repeats)
    for name, (clock, processor) in seconds.items():
        print(f"{name:40}{clock * 1000:10.0f} ms {processor * 1000:10.0f} ms of processor")
    ours, theirs = seconds["tissue_mask"], seconds["scikit-image"]
    goals = [
        (f"IoU of every overview >= {GOAL_IOU}", min(overlaps.values()), min(overlaps.values()) >= GOAL_IOU),
        (f"tissue_mask <= {GOAL_S} s", ours[0], ours[0] <= GOAL_S),
    ]
    print(f"{'scikit-image / tissue_mask':45}{theirs[0] / ours[0]:10.1f}  by processor {theirs[1] / ours[1]:.1f}")
    for goal, value, met in goals:
        print(f"{goal:45}{value:10.3f}  {'met' if met else 'MISSED'}")
    missed = [goal for goal, _, met in goals if not met]
    result = {
        "benchmark": "tissue_mask",
        "side_px": parsed.side,
        "iou": {name: round(value, 4) for name, value in overlaps.items()},
        "seconds": {name: {"clock": round(a, 4), "cpu": round(b, 4)} for name, (a, b) in seconds.items()},
        "missed": missed,
        "versions": versions("numpy", "opencv-python-headless", "scikit-image"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def reference(overview: Overview) -> np.ndarray:
    """Return (h, w) bool: the mask as its docstring defines it, by scikit-image in floating point."""
    absorption = np.minimum(1 - overview.rgb.min(axis=2) / 255.0, 80 / 255)
    smooth = gaussian(absorption, sigma=10.0 / overview.mpp)
    threshold = np.clip(threshold_otsu(smooth), 25 / 255, 45 / 255) if np.ptp(smooth) else 1.0
    smallest = max(1, int(150**2 / overview.mpp**2))
    return remove_small_holes(remove_small_objects(smooth > threshold, max_size=smallest), max_size=smallest)


def overlap(overview: Overview) -> float:
    """Return intersection over union of the two masks."""
    ours, theirs = tissue_mask(overview), reference(overview)
    return float((ours & theirs).sum() / max(1, (ours | theirs).sum()))


def draw(side: int) -> Overview:
    """Return pieces of tissue with glands, fat and pale stroma on dusty glass, 8 um per pixel."""
    rng = np.random.default_rng(0)

    def field(size_px: float) -> np.ndarray:
        small = rng.normal(size=(max(2, round(side / size_px)),) * 2).astype(np.float32)
        return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)

    tissue = field(side / 6) > 0.25
    holes = field(25) > 1.2
    amount = np.where(tissue & ~holes, np.clip(0.55 + 0.25 * field(60) + 0.2 * field(8), 0.12, 1), 0)[..., None]
    dust = rng.random((side, side, 1)) < 1e-4
    rgb = 243 * np.array([0.55, 0.30, 0.62]) ** amount - 80 * dust + rng.normal(0, 3, (side, side, 3))
    return Overview(np.clip(rgb, 0, 255).astype(np.uint8), MPP)


def real() -> dict[str, Overview]:
    """Return the overviews of the real slides at hand."""
    folder = os.environ.get("MFL_REAL_DATA")
    found = {}
    for name in SLIDES if folder else ():
        with open_slide(Path(folder) / name) as slide:
            found[name] = read_overview(slide, slide.header.mpp or 0.5)
    return found


def timed(overview: Overview, repeats: int) -> dict[str, tuple[float, float]]:
    """Return median seconds of each by the clock and by the processor, taken in turn."""

    def regions_and_outlines() -> None:
        regions = find_regions(overview, ("pen", "fold"))
        for region in REGIONS.values():
            polygons_of(regions == region)

    work: dict[str, Callable[[], object]] = {
        "tissue_mask": lambda: tissue_mask(overview),
        "mask, ink and folds": lambda: find_regions(overview, ("pen", "fold")),
        "mask, ink, folds and outlines": regions_and_outlines,
        "scikit-image": lambda: reference(overview),
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, task in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            task()
            turns[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: (median(a for a, _ in all_), median(b for _, b in all_)) for name, all_ in turns.items()}


if __name__ == "__main__":
    sys.exit(main())
