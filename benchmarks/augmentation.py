"""Two augmented views of a patch on the CPU, by ours and by lightly's VICReg transform.

Usage: python benchmarks/augmentation.py [--patches N] [--repeats N] [--threads N] [--check]. Needs lightly (pip install
lightly). Both start from the same 256-px RGB patches in memory (ours a uint8 batch, lightly's PIL images, each the form
that it is fed in training) and end with normalised float32 tensors of 224 px. The recipes differ: both crop, resample,
mirror, change colours and blur half of the views; ours also turns and tilts, in one resampling, and has its colours in
one matrix per patch; lightly's also drops colour and solarises. "by torch" is ours as a GPU runs it; its views are
checked equal to ours before anything is timed. "mfl" are the published views. Prints a table; the last line is JSON.
With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from lightly.transforms.vicreg_transform import VICRegTransform
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import interleaved, judged, versions

from pipeline.training import augmentation, views
from pipeline.training.augmentation import Augmentation
from pipeline.training.draws import Draws
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.published_views import PublishedViewMaker
from pipeline.training.views import Batch, MakeViews, ViewMaker

PATCH_PX, VIEW_PX = 256, 224
GOAL = 6.0
TOLERANCE = 1e-3
BRANCHES = ("sparse", "sparse")


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=64, help="patches of a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each")
    parser.add_argument("--threads", type=int, default=1, help="threads of ours; lightly's has one per worker")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    cv2.setNumThreads(1)
    patches = draw_patches(parsed.patches)
    normalisation = Normalisation(ColourStatistics((0.7, 0.5, 0.7), (0.2,) * 3), (), torch.device("cpu"))
    recipe = Augmentation(VIEW_PX, 0.75, 1.0, 0.5)
    standard = ViewMaker(BRANCHES, recipe, shared_geometry=True, normalisation=normalisation)
    published = PublishedViewMaker(BRANCHES, VIEW_PX, normalisation=normalisation)
    transform = VICRegTransform(input_size=VIEW_PX)
    pictures = [Image.fromarray(patch) for patch in patches.numpy()]
    difference = check_equal(standard, patches)

    def lightly() -> int:
        made = [transform(picture) for picture in pictures]
        return 2 * len(made)

    def by_torch() -> int:
        with without_opencv():
            return turn(standard, patches)

    work: dict[str, Callable[[], int]] = {
        "ours": lambda: turn(standard, patches),
        "ours, by torch": by_torch,
        "ours, mfl": lambda: turn(published, patches),
        "lightly": lightly,
    }
    for task in work.values():
        task()
    measured, missed = judged(interleaved(work, parsed.repeats), [("ours", "lightly", GOAL)], "views")
    result = {
        "benchmark": "augmentation",
        "threads": parsed.threads,
        "largest_difference_to_torch": difference,
        **measured,
        "missed": missed,
        "versions": versions("lightly", "opencv-python-headless", "torch", "torchvision"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def draw_patches(count: int) -> Tensor:
    """Return (n, P, P, 3) uint8 with structure of some ten pixels, as tissue has it."""
    rng = np.random.default_rng(0)
    small = rng.integers(60, 250, (count, 32, 32, 3), dtype=np.uint8)
    return torch.from_numpy(
        np.stack([cv2.resize(patch, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_CUBIC) for patch in small])
    )


def turn(make_views: MakeViews, patches: Tensor) -> int:
    """Return the views of all patches; returns how many."""
    made = make_views(Batch(patches, None, None), draws_of(patches))
    return sum(len(view) for view in made)


def draws_of(patches: Tensor) -> Draws:
    """Return the random numbers of one step."""
    return Draws(torch.Generator().manual_seed(0), len(patches))


@contextmanager
def without_opencv() -> Iterator[None]:
    """Make views by torch within the block, as on a GPU."""
    usual = augmentation.by_opencv
    augmentation.by_opencv = views.by_opencv = lambda images: False
    try:
        yield
    finally:
        augmentation.by_opencv = views.by_opencv = usual


def check_equal(make_views: MakeViews, patches: Tensor) -> float:
    """Return the largest difference between views by OpenCV and by torch; too large a one ends the benchmark."""
    batch = Batch(patches, None, None)
    found = make_views(batch, draws_of(patches))
    with without_opencv():
        expected = make_views(batch, draws_of(patches))
    worst = max(float((view - other).abs().max()) for view, other in zip(found, expected, strict=True))
    if worst > TOLERANCE:
        raise SystemExit(f"views by OpenCV and by torch differ by {worst:.1e}, more than {TOLERANCE:g}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
