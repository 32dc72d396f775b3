"""What a GPU does here, in one command: training, embedding, losses, resuming, processes, decoding, memory.

Usage: python benchmarks/gpu.py [--tiny] [--minutes X] [--wheels] [--check]. Takes at most 8 minutes on a machine with
one GPU and no network; `--wheels` prints the packages that must lie there, name==version. Without a GPU it runs on the
processor, where --tiny shows that it works. All patches are drawn; all encoders start from random weights.

- train: an epoch of the package's own trainer on two 224-px views of each patch (bfloat16, channels last), patches read
  from a store on disk; against the same with the patches in memory, against bare forward and backward passes of the
  same network on views that lie ready;
- embed: the stage embed from a store, against the bare forward pass on pixels that lie ready;
- loss: forward and backward of each objective on embeddings of 2,048 numbers, batches of 256 and 1,024;
- resume: a training that SIGTERM stops and that goes on, against one that was not stopped;
- processes: the same training in one process per GPU where there are several, and NCCL's sum in one process;
- decode: 256-px JPEG tiles decoded on the device by torchvision (nvJPEG), against the processor's threads.

Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed, or not measured for want
of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from simplejpeg import decode_jpeg

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import Rates, interleaved, jpeg_tiles, judged, versions
from train_step import SIZE_PX, bare_step, build_network, draw_cohort

from pipeline.embedding.encoder import Encoder
from pipeline.embedding.stage import embed
from pipeline.settings import EmbedSettings, RunSettings
from pipeline.store.patch_store import PatchStore
from pipeline.training import loop
from pipeline.training.augmentation import Augmentation
from pipeline.training.losses import objective_of
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.patches import TrainingPatches
from pipeline.training.precision import autocast, best_device, resolve_precision
from pipeline.training.processes import Processes
from pipeline.training.rows import read_training_rows
from pipeline.training.state import TrainingState
from pipeline.training.views import ViewMaker

REPOSITORY = Path(__file__).resolve().parents[1]
OBJECTIVES = ("vicreg", "barlow-twins", "infonce", "nt-xent")
LARGE_GPU = re.compile(r"H100|H200|B100|B200|GH200")
VIEWS_PER_SECOND = 6000.0
WHEELS = (
    "torch torchvision timm numpy scipy opencv-python-headless h5py zarr imagecodecs simplejpeg safetensors pydantic "
    "pandas pyarrow pillow pyyaml tqdm tifffile google-crc32c matplotlib scikit-learn"
)


@dataclass(frozen=True)
class Sizes:
    """How much is done: on a GPU, or with --tiny on a processor.

    Attributes:
        encoders: timm names, and the patches of a batch for each.
        steps: of an epoch.
        patches: embedded in a turn.
        repeats: turns of each.
        tiles: decoded in a turn.
    """

    encoders: dict[str, int]
    steps: int
    patches: int
    repeats: int
    tiles: int


LARGE = Sizes({"resnet50": 256, "vit_base_patch16_224": 128}, 16, 8192, 3, 2048)
TINY = Sizes({"test_resnet": 4}, 2, 8, 1, 16)


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for a machine without a GPU")
    parser.add_argument("--minutes", type=float, default=8, help="what has not begun after that many is left out")
    parser.add_argument("--wheels", action="store_true", help="print the packages that it needs, name==version")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    if parsed.wheels:
        print("\n".join(pinned()))
        return 0
    sizes, device, end = TINY if parsed.tiny else LARGE, best_device(), time.monotonic() + 60 * parsed.minutes
    about: dict[str, object] = {"benchmark": "gpu", "device": name_of(device)}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for encoder, batch in sizes.encoders.items():
            parts = {"train": train_part, "embed": embed_part}
            for part, run in parts.items():
                title = f"{part}, {encoder}"
                if time.monotonic() > end:
                    missed.append(f"{title}: not measured, out of time")
                    continue
                print(f"\n{title}, batches of {batch}")
                about[title], not_met = run(folder / title.replace(", ", "-"), encoder, batch, sizes, device)
                missed += [f"{title}: {goal}" for goal in not_met]
        for title, task in (("loss", loss_part), ("resume", resume_part), ("decode", decode_part)):
            if time.monotonic() > end:
                missed.append(f"{title}: not measured, out of time")
                continue
            print(f"\n{title}")
            about[title] = task(folder / title, sizes, device)
    if device.type != "cuda":
        missed.append("all goals: not measured on a GPU")
    about |= {"missed": missed, "versions": versions("torch", "torchvision", "timm")}
    print(json.dumps(about))
    return 1 if parsed.check and missed else 0


def pinned() -> list[str]:
    """Return the packages, name==version, as the constraints pin them."""
    lines = (REPOSITORY / "envs" / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    return [f"{name}=={pins[name]}" for name in WHEELS.split()]


def name_of(device: torch.device) -> str:
    """Return the name of the GPU, or that there is none."""
    return torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def train_part(
    folder: Path, encoder: str, batch: int, sizes: Sizes, device: torch.device
) -> tuple[dict[str, object], list[str]]:
    """Time epochs from a store, from memory, and bare; returns what was found and the goals not met."""
    settings = RunSettings(
        branches=("sparse", "sparse"), encoder=encoder, projector=(2048,) * 3, batch_size=batch, epochs=1
    )
    loop.save_state = lambda *_: None
    rows = read_training_rows(*draw_cohort(folder, batch * sizes.steps), branches=settings.branches, batch_size=2)
    network = build_network(settings, device)
    precision = resolve_precision("auto", network, device)
    normalisation = Normalisation(ColourStatistics((0.7, 0.5, 0.7), (0.2,) * 3), (), device)
    recipe = Augmentation(SIZE_PX, settings.crop, settings.colour, settings.blur)
    make_views = ViewMaker(settings.branches, recipe, shared_geometry=True, normalisation=normalisation)

    def epoch(patches: TrainingPatches) -> Callable[[], int]:
        def task() -> int:
            trainer = loop.Trainer(
                "gpu",
                network,
                patches,
                make_views,
                settings,
                precision=precision,
                device=device,
                processes=Processes(),
            )
            trainer.fit(TrainingState(), folder / "state", "none")
            wait(device)
            return 2 * sizes.steps * batch

        return task

    def repeated(step: Callable[[], None]) -> Callable[[], int]:
        def task() -> int:
            for _ in range(sizes.steps):
                step()
            wait(device)
            return 2 * sizes.steps * batch

        return task

    views = [torch.randn(batch, 3, SIZE_PX, SIZE_PX, device=device) for _ in range(2)]
    work = {
        "from the store": epoch(TrainingPatches(rows, dense=False, budget_bytes=0)),
        "from memory": epoch(TrainingPatches(rows, dense=False, budget_bytes=2**40)),
        "bare": repeated(bare_step(network, views, precision, device)),
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for task in work.values():
        task()
    rates = interleaved(work, sizes.repeats)
    measured, missed = judged(rates, [("from the store", "from memory", 0.95)], "views")
    if device.type == "cuda":
        measured["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        missed += fast_enough(rates, encoder)
    return {"batch": batch, "precision": precision, **measured}, missed


def fast_enough(rates: Rates, encoder: str) -> list[str]:
    """Return the goal of views a second where it is missed; it holds for ResNet-50 on a large GPU."""
    best = max(rate.clock for rate in rates["from the store"])
    if encoder != "resnet50" or not LARGE_GPU.search(torch.cuda.get_device_name()) or best >= VIEWS_PER_SECOND:
        return []
    return [f"{best:.0f} views a second, goal {VIEWS_PER_SECOND:.0f}"]


def embed_part(
    folder: Path, encoder: str, batch: int, sizes: Sizes, device: torch.device
) -> tuple[dict[str, object], list[str]]:
    """Time the stage embed against the bare forward pass; returns what was found and the goals not met."""
    draw_cohort(folder, sizes.patches)
    trained = trained_encoder(folder, encoder)
    store, opened = PatchStore.open(folder / "tile" / "s1.zarr"), Encoder.load(trained)
    precision = opened.precision("auto")
    network = opened.network
    pixels = torch.randn(batch, 3, SIZE_PX, SIZE_PX, device=device).contiguous(memory_format=torch.channels_last)

    def whole() -> int:
        settings = EmbedSettings(batch_size=batch, precision=precision)
        embed(store, opened, settings, folder / "features.h5", {})
        return sizes.patches

    def bare() -> int:
        with torch.inference_mode(), autocast(precision, device):
            for _ in range(-(-sizes.patches // batch)):
                network(pixels)
        wait(device)
        return -(-sizes.patches // batch) * batch

    work = {"embed": whole, "bare forward": bare}
    for task in work.values():
        task()
    measured, missed = judged(interleaved(work, sizes.repeats), [("embed", "bare forward", 0.9)], "patches")
    return {"batch": batch, "precision": precision, **measured}, missed


def train_words(folder: Path, out: Path, **changes: object) -> list[str]:
    """Return the words of `python -m pipeline train` on the drawn cohort."""
    settings = {"branches": ["sparse", "sparse"], "projector": [64], "epochs": 1, "batch_size": 4, **changes}
    words = ["train", "--run", "drawn", "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv")]
    words += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "metrics.jsonl")]
    return [*words, "--out-curve", str(out / "curve.png"), "--settings", json.dumps(settings)]


def run_verb(words: list[str]) -> None:
    """Run a verb in a separate process; one that fails ends the benchmark."""
    subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=REPOSITORY, check=True, stderr=subprocess.DEVNULL)


def trained_encoder(folder: Path, encoder: str) -> Path:
    """Return the folder of an encoder with random weights, as train writes it."""
    run_verb(train_words(folder, folder / "run", encoder=encoder, epochs=0))
    return folder / "run" / "encoder"


def loss_part(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, object]:
    """Return milliseconds of forward and backward of each objective, and its peak memory."""
    del folder
    found: dict[str, object] = {}
    for batch in (256, 1024) if sizes is LARGE else (8,):
        branches = [torch.randn(batch, 2048, device=device, requires_grad=True) for _ in range(2)]
        for name in OBJECTIVES:
            objective = objective_of(RunSettings(branches=("sparse", "sparse"), objective=name))
            times = []
            for _ in range(2 + 10 * sizes.repeats):
                start = time.perf_counter()
                torch.stack(list(objective(branches).values())).sum().backward()
                wait(device)
                times.append(time.perf_counter() - start)
            found[f"{name}, {batch}"] = round(1000 * float(np.median(times[2:])), 3)
            print(f"{name:14}{batch:6}{found[f'{name}, {batch}']:10.3f} ms")
    return found


def resume_part(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, object]:
    """Return how far a stopped training's weights are from an undisturbed one's, and so those of several processes."""
    encoder = "resnet18" if sizes is LARGE else "test_resnet"
    draw_cohort(folder, 512 if sizes is LARGE else 16)
    changes = {"encoder": encoder, "epochs": 6 if sizes is LARGE else 2, "batch_size": 32 if sizes is LARGE else 4}
    run_verb(train_words(folder, folder / "whole", **changes))
    words = [sys.executable, "-m", "pipeline", *train_words(folder, folder / "stopped", **changes)]
    process = subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    state = folder / "stopped" / "state"
    while process.poll() is None and not (state.is_dir() and any(state.iterdir())):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    run_verb(train_words(folder, folder / "stopped", **changes))
    found: dict[str, object] = {
        "stopped_with": code,
        "largest_difference": largest_difference(folder / "whole", folder / "stopped"),
    }
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    if count > 1:
        out = folder / "shared"
        run_verb([*train_words(folder, out, **changes), "--processes", str(count), "--threads", str(count)])
        found[f"largest_difference_of_{count}_processes"] = largest_difference(folder / "whole", out)
    if device.type == "cuda":
        found["nccl_sum_of_one_process"] = nccl_sum()
    for key, value in found.items():
        print(f"{key:40}{value:>12}")
    return found


def nccl_sum() -> float:
    """Return the sum of two ones by NCCL in a group of one process: 2 where NCCL works at all."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    values = torch.ones(2, device="cuda")
    torch.distributed.all_reduce(values)
    torch.distributed.destroy_process_group()
    return float(values.sum())


def largest_difference(first: Path, second: Path) -> float:
    """Return the largest difference of two encoders' weights, as a share of the largest weight of the tensor."""
    a, b = (load_file(folder / "encoder" / "model.safetensors") for folder in (first, second))
    scaled = [(a[key] - b[key]).abs().max() / a[key].abs().max().clamp(min=1e-12) for key in a if a[key].numel()]
    return float(f"{max(float(value) for value in scaled):.3g}")


def decode_part(folder: Path, sizes: Sizes, device: torch.device) -> dict[str, object]:
    """Return tiles a second, decoded on the device and by the processor's threads."""
    del folder
    streams = jpeg_tiles()
    streams = [streams[number % len(streams)] for number in range(sizes.tiles)]
    threads = len(os.sched_getaffinity(0))

    def on_processor() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(lambda stream: decode_jpeg(stream, colorspace="RGB"), streams))

    work = {f"processor, {threads} threads": on_processor}
    if device.type == "cuda":
        from torchvision.io import decode_jpeg as on_device

        tensors = [torch.frombuffer(bytearray(stream), dtype=torch.uint8) for stream in streams]

        def by_nvjpeg() -> int:
            done = len(on_device(tensors, device=device))
            wait(device)
            return done

        by_nvjpeg()
        work["device (nvJPEG)"] = by_nvjpeg
    rates = interleaved(work, sizes.repeats)
    measured, _ = judged(rates, [], "tiles")
    return measured


if __name__ == "__main__":
    sys.exit(main())
