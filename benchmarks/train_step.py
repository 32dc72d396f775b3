"""One training step, whole, on this machine: against lightly's and against bare forward and backward passes.

Usage: python benchmarks/train_step.py [--encoder NAME] [--batch N] [--steps N] [--repeats N] [--threads N] [--check].
Needs lightly (pip install lightly). All train two branches of one encoder with a projector of three layers on 224-px
patches:

- ours: an epoch of the package's own trainer from a store on disk, in the precision that it chooses here: reading,
  decoding, two augmented views, forward, VICReg, backward, clipping, AdamW. The checkpoint at an epoch's end is left
  out, for an epoch is a few steps here;
- bare: forward and backward of the same network in the same precision on views that lie ready, from a gradient that
  lies ready, too;
- lightly: the head and loss of its VICReg example on the same encoder, in float32 and torch's default layout, with
  AdamW, on views that lie ready: neither reading nor augmentation is counted against it.

Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from drawn_slide import interleaved, judged, versions
from drawn_store import write_store

from pipeline.settings import RunSettings
from pipeline.training import loop
from pipeline.training.augmentation import Augmentation
from pipeline.training.branches import BranchNetwork
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.patches import TrainingPatches
from pipeline.training.precision import Precision, autocast, best_device, resolve_precision
from pipeline.training.processes import Processes
from pipeline.training.rows import read_training_rows
from pipeline.training.state import TrainingState
from pipeline.training.views import ViewMaker

SIZE_PX = 224
PROJECTOR = (2048, 2048, 2048)
GOALS = [("ours", "lightly", 2.5), ("ours", "bare", 0.85)]


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet50", help="timm name")
    parser.add_argument("--batch", type=int, default=32, help="patches per step; each gives two views")
    parser.add_argument("--steps", type=int, default=2, help="steps per turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    device = best_device()
    loop.save_state = lambda *_: None
    settings = RunSettings(
        branches=("sparse", "sparse"),
        encoder=parsed.encoder,
        projector=PROJECTOR,
        batch_size=parsed.batch,
        epochs=1,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = draw_cohort(folder, parsed.batch * parsed.steps)
        network = build_network(settings, device)
        precision = resolve_precision("auto", network, device)
        colour = ColourStatistics((0.7, 0.5, 0.7), (0.2, 0.2, 0.2))
        make_views = ViewMaker(
            settings.branches,
            Augmentation(SIZE_PX, settings.crop, settings.colour, settings.blur),
            shared_geometry=True,
            normalisation=Normalisation(colour, (), device),
        )
        patches = TrainingPatches(read_training_rows(*rows, branches=settings.branches, batch_size=2), dense=False)
        views = [torch.randn(parsed.batch, 3, SIZE_PX, SIZE_PX, device=device) for _ in range(2)]
        lightly = lightly_step(settings, views)

        def ours() -> int:
            trainer = loop.Trainer(
                "step",
                network,
                patches,
                make_views,
                settings,
                precision=precision,
                device=device,
                processes=Processes(),
            )
            trainer.fit(TrainingState(), folder / "state", "none")
            return parsed.steps * parsed.batch

        def repeated(step: Callable[[], None]) -> Callable[[], int]:
            def task() -> int:
                for _ in range(parsed.steps):
                    step()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                return parsed.steps * parsed.batch

            return task

        bare = bare_step(network, views, precision, device)
        for once in (bare, lightly):
            once()
        work = {"ours": ours, "bare": repeated(bare), "lightly": repeated(lightly)}
        measured, missed = judged(interleaved(work, parsed.repeats), GOALS, "patches")
    result = {
        "benchmark": "train_step",
        "encoder": parsed.encoder,
        "batch": parsed.batch,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {parsed.threads} threads",
        "precision": precision,
        **measured,
        "missed": missed,
        "versions": versions("lightly", "timm", "torch"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def draw_cohort(folder: Path, count: int) -> tuple[Path, Path]:
    """Return a store of coloured noise in which every patch is a pair, and its split.

    Returns split and folder of stores.
    """
    random = np.random.default_rng(0)
    coarse = random.integers(80, 240, (count, SIZE_PX // 8, SIZE_PX // 8, 3), dtype=np.uint8)
    sparse = coarse.repeat(8, axis=1).repeat(8, axis=2)
    write_store(folder / "tile/s1.zarr", sparse=sparse, pair_quality=np.ones(count, np.float32))
    split = folder / "patches.tsv"
    lines = [f"s1\t{row}\tp1\t1\t1.0" for row in range(count)]
    split.write_text("\n".join(["slide\trow\tpatient\tfold\tpair_quality", *lines]) + "\n")
    return split, folder / "tile"


def build_network(settings: RunSettings, device: torch.device) -> BranchNetwork:
    """Return the network of a run as the stage train builds it."""
    network = BranchNetwork(
        settings.branches,
        encoder=settings.encoder,
        channels={"sparse": 3},
        size_px=SIZE_PX,
        projector=settings.projector,
        seed=settings.seed,
    )
    return network.to(memory_format=torch.channels_last).to(device).train()


def bare_step(
    network: BranchNetwork, views: list[Tensor], precision: Precision, device: torch.device
) -> Callable[[], None]:
    """Return forward and backward of our network, and nothing else."""
    ready = [view.contiguous(memory_format=torch.channels_last) for view in views]
    # Of different values for each patch: one and the same would vanish in the first batch normalisation, and what is
    # left of it, numbers near the smallest there are, takes a processor many times as long.
    gradients = [torch.randn(len(view), PROJECTOR[-1], device=device) / len(view) for view in views]

    def step() -> None:
        with autocast(precision, device):
            outputs = network(ready)
        network.zero_grad(set_to_none=True)
        torch.autograd.backward([item.embedding.float() for item in outputs], gradients)

    return step


def lightly_step(settings: RunSettings, views: list[Tensor]) -> Callable[[], None]:
    """Return a step as in lightly's VICReg example: encoder, head, loss, optimiser."""
    from lightly.loss import VICRegLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    encoder = timm.create_model(settings.encoder, num_classes=0)
    head = BarlowTwinsProjectionHead(encoder.num_features, 2048, 2048)
    model = nn.Sequential(encoder, head).to(views[0].device).train()
    criterion = VICRegLoss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr)

    def step() -> None:
        loss = criterion(*(model(view) for view in views))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


if __name__ == "__main__":
    sys.exit(main())
