"""How long evaluate takes on the features of a large cohort: markers, classes, and few labels.

Usage: python benchmarks/probes.py [--runs N] [--patches N] [--width N] [--folder DIR] [--before CHECKOUT] [--check].

Draws five slides (55,000 patches of 18 markers and 9 classes in all, one slide held out) with smooth hidden causes, and
features of so many runs, which show the causes through noise; then runs `python -m pipeline evaluate` on them as the
workflow does, in a separate process. `--before` names a checkout of another version, which is timed on the same files
for a ratio. Prints a table; the last line is JSON. With --check the exit code is 1 where the goal is missed: at most
180 s for 6 runs of the size that stands there by default; smaller ones do not meet it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter

REPOSITORY = Path(__file__).resolve().parents[1]
SLIDES, MARKERS, CLASSES = 5, 18, 9
SIDE_UM, SIDE_PX, MPP = 40.0, 16, 0.5
GOAL_S = 180.0

Floats = NDArray[np.float64]


def main() -> int:
    """Draw, time, and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=6, help="runs to evaluate")
    parser.add_argument("--patches", type=int, default=55_000, help="patches of all slides")
    parser.add_argument("--width", type=int, default=512, help="features of a patch")
    parser.add_argument("--folder", type=Path, help="where the drawn cohort is kept; default: a temporary folder")
    parser.add_argument("--before", type=Path, help="checkout of another version, to be timed too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = parsed.folder or Path(temporary)
        runs = [f"run{number}" for number in range(parsed.runs)]
        if not (folder / "split").is_dir():
            draw(folder, runs, parsed.patches, parsed.width)
        now = timed(REPOSITORY, folder, runs)
        before = timed(parsed.before, folder, runs) if parsed.before else None
    print(f"{'':8} {'wall s':>8} {'cpu s':>8}   {len(runs)} runs x {parsed.patches} patches x {parsed.width} features")
    for name, found in (("now", now), ("before", before)):
        if found:
            print(f"{name:8} {found['wall_s']:8.1f} {found['cpu_s']:8.1f}")
    whole = parsed.runs >= 6 and parsed.patches >= 55_000 and parsed.width >= 512
    result = {"benchmark": "probes", "runs": len(runs), "patches": parsed.patches, "now": now, "before": before}
    result["goal_s"], result["met"] = GOAL_S, whole and now["wall_s"] <= GOAL_S
    print(json.dumps(result))
    return 1 if parsed.check and not result["met"] else 0


def timed(checkout: Path, folder: Path, runs: list[str]) -> dict[str, float]:
    """Return wall and processor seconds of the verb evaluate of a checkout."""
    tables = [f"s{number}={folder}/classes/s{number}.csv" for number in range(SLIDES)]
    settings = {"baseline": runs[0], "retrieval_patches": 0}
    command = [sys.executable, "-m", "pipeline", "evaluate", "--stores", f"{folder}/tile"]
    command += ["--split", f"{folder}/split/patches.tsv", "--embeddings", f"{folder}/embed", "--runs", *runs]
    command += ["--classes", *tables, "--out-summary", f"{folder}/{checkout.name}.tsv"]
    command += ["--out-details", f"{folder}/{checkout.name}.json", "--settings", json.dumps(settings)]
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout.resolve())})
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": wall, "cpu_s": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime}


def draw(folder: Path, runs: list[str], patches: int, width: int) -> None:
    """Write stores, split, tables of classes, and features of every run."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(MARKERS, width))
    table = []
    for number in range(SLIDES):
        name, side = f"s{number}", round((patches / SLIDES) ** 0.5)
        causes, count = hidden_causes(side, rng), side * side
        write_store(folder / f"tile/{name}.zarr", name, causes, side)
        table += [(name, row, f"p{number}", number, 1) for row in range(count)]
        (folder / "classes").mkdir(exist_ok=True)
        labels = (causes[:, :CLASSES] + np.linspace(0, 1.5, CLASSES)).argmax(axis=1)
        rows = pd.DataFrame({"row": np.arange(count), "class": [f"class{label}" for label in labels]})
        rows.to_csv(folder / f"classes/{name}.csv", index=False)
        for index, run in enumerate(runs):
            noise = rng.normal(size=(count, width)).astype(np.float32) * (3 + index)
            write_features(folder / f"embed/{run}/{name}.h5", causes @ mixing + noise, positions_px(side), run)
    (folder / "split").mkdir()
    columns = ["slide", "row", "patient", "fold", "pair_quality"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "split/patches.tsv", sep="\t", index=False)


def hidden_causes(side: int, rng: np.random.Generator) -> Floats:
    """Return (side², MARKERS) values that vary smoothly over a square of patches, each of unit spread."""
    fields = [gaussian_filter(rng.normal(size=(side, side)), 3) for _ in range(MARKERS)]
    return np.stack([field.ravel() / field.std() for field in fields], axis=1)


def positions_px(side: int) -> NDArray[np.int64]:
    """Return (side², 2) xy of the patches at level 0."""
    y, x = np.divmod(np.arange(side * side), side)
    return (np.stack([x, y], axis=1) * round(SIDE_UM / MPP)).astype(np.int64)


def write_store(path: Path, name: str, causes: Floats, side: int) -> None:
    """Write a store of blank patches whose table holds the causes as intensities."""
    count, extent_px = len(causes), round(side * SIDE_UM / MPP)
    writer = StoreWriter(path, patches=count, size_px=SIDE_PX, dense_channels=MARKERS, dense_dtype="uint8")
    for first in range(0, count, writer.block_rows):
        rows = min(writer.block_rows, count - first)
        sparse = np.full((rows, SIDE_PX, SIDE_PX, 3), 200, np.uint8)
        writer.write(first, sparse, np.zeros((rows, MARKERS, SIDE_PX, SIDE_PX), np.uint8))
    attributes = StoreAttributes(
        slide=name,
        patient=name.replace("s", "p"),
        size_px=SIDE_PX,
        mpp=SIDE_UM / SIDE_PX,
        mpp_level0=MPP,
        size_level0_px=(extent_px, extent_px),
        patch_size_level0=round(SIDE_UM / MPP),
        overview_mpp=SIDE_UM,
        markers=tuple(f"marker{index}" for index in range(MARKERS)),
        nuclear_channel=0,
        verdict="pass",
        counts={"kept": count},
        recipe={"size_px": SIDE_PX},
        provenance={"stage": "tile"},
        dense_kind="fluorescence",
    )
    ones = np.ones(count, np.float32)
    position = positions_px(side)
    means = np.exp(causes + 4).astype(np.float32)
    patch_table = PatchTable(position, (position * MPP).astype(np.float64), ones, ones, ones, means)
    writer.finish(attributes, patch_table, np.full((side, side, 3), 200, np.uint8), np.ones((side, side), np.bool_))


def write_features(path: Path, features: Floats, coords: NDArray[np.int64], run: str) -> None:
    """Write what embed would of these features (n, D)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features.astype(np.float32), coords
        file["coords"].attrs.update({"name": path.stem, "patch_size": SIDE_PX, "encoder": run})
        file["coords"].attrs["patch_size_level0"] = round(SIDE_UM / MPP)
        file.attrs["encoder"] = run


if __name__ == "__main__":
    sys.exit(main())
