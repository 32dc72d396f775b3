"""The report of a large cohort: seconds, memory, and size of the page.

Usage: python benchmarks/report_size.py [--slides N] [--profile FILE] [--check]. Draws the results of N slides, all
paired (eight distinct slides, the others links to them): overviews of 2,500 x 1,900 px, four pictures of 1,024 px per
registration, 4,000 patches with 512 features each; then builds the report in a separate process. Prints a table; the
last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image, PngImagePlugin

from pipeline.embedding.pooling import SlideVector, write_slide_vectors
from pipeline.prediction.table import PREFIX
from pipeline.provenance import write_json
from pipeline.registration.overlay_text import CLOSE_UPS_KEY, FIELD_KEY
from pipeline.slides.base import Level
from pipeline.slides.record import SideRecord, SlideRecord, to_mapping
from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter

DISTINCT = 8
OVERVIEW_PX = (2500, 1900)
PICTURE_PX = (1024, 778)
OVERVIEW_MPP, MPP, SIDE_PX = 8.0, 0.5, 8
PATCHES, COLUMNS, FEATURES = 4000, 80, 512
MARKERS = ("DAPI", "CD3", "CD8", "CD20", "CD68", "Ki67", "Pan-CK", "PD-L1")
RUNS = ("distilled", "sparse-only", "shuffled")
GOAL_SECONDS, GOAL_MB, GOAL_PAGE_MB = 60, 2000, 30
CLOSE_UPS_PX = 516, 840
PICTURES = ("overlay", "checkerboard", "residual", "deformation")


def main() -> int:
    """Return draws, builds, judges; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=200, help="slides of the cohort")
    parser.add_argument("--profile", type=Path, help="write the profile of the build to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = draw(folder, parsed.slides)
        found = build(folder, parsed.profile)
    found = {"slides": len(names), **found}
    goals = {"seconds": GOAL_SECONDS, "peak_mb": GOAL_MB, "page_mb": GOAL_PAGE_MB}
    missed = [key for key, goal in goals.items() if found[key] > goal]
    print(f"{'':16}{'found':>10}{'goal':>10}")
    for key, goal in goals.items():
        print(f"{key:16}{found[key]:10.1f}{goal:10d}  {'MISSED' if key in missed else 'met'}")
    print(f"{'cpu_seconds':16}{found['cpu_seconds']:10.1f}")
    print(json.dumps({"benchmark": "report_size", **found, "goals": goals, "missed": missed}))
    return 1 if parsed.check and missed else 0


def build(folder: Path, profile: Path | None) -> dict[str, float]:
    """Return seconds, processor seconds and peak memory of the verb, and the size of the page."""
    words = ["report", "--results", "results", "--sheet", "slides.tsv", "--embedding", RUNS[0], "--out", "index.html"]
    code = (
        "import resource, sys; from pipeline.cli import main; status = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(status)"
    )
    options = ["-m", "cProfile", "-o", str(profile.absolute())] if profile else []
    script = folder / "build.py"
    script.write_text(code)
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, *options, str(script), *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    page_mb = (folder / "index.html").stat().st_size / 1e6
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "peak_mb": int(done.stdout),
        "page_mb": round(page_mb, 1),
    }


def draw(folder: Path, count: int) -> list[str]:
    """Return the sheet and the results of all stages; returns the slides' names."""
    results = folder / "results"
    names = [f"slide{number:03d}" for number in range(count)]
    position_px = draw_distinct(results, names[:DISTINCT])
    for number, name in enumerate(names[DISTINCT:], DISTINCT):
        like = names[number % DISTINCT]
        for path in ("tile/{}.zarr", "register/{}"):
            shutil.copytree(results / path.format(like), results / path.format(name), copy_function=os.link)
        predicted = results / "predict" / RUNS[0]
        shutil.copytree(predicted / like, predicted / name, copy_function=os.link)
        os.link(results / f"embed/{RUNS[0]}/{like}.h5", results / f"embed/{RUNS[0]}/{name}.h5")
    for number, name in enumerate(names):
        draw_record(results / f"inspect/{name}.json", name, number)
    draw_tables(results, names, len(position_px))
    lines = [f"{name}\tp{number // 2}\the.tif\tmif.tif" for number, name in enumerate(names)]
    (folder / "slides.tsv").write_text("\n".join(["slide\tpatient\tsparse\tdense", *lines]) + "\n")
    return names


def draw_distinct(results: Path, names: list[str]) -> np.ndarray:
    """Return stores, registrations and features of these slides; returns the patches' positions."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(PATCHES), COLUMNS)
    position_px = np.stack([column, row], axis=1).astype(np.int64) * 440 + 2000
    for number, name in enumerate(names):
        overview = tissue(OVERVIEW_PX, number)
        path = results / f"tile/{name}.zarr"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = StoreWriter(
            path, patches=PATCHES, size_px=SIDE_PX, dense_channels=len(MARKERS), dense_dtype="uint16", copied=False
        )
        pixels = rng.integers(90, 240, (PATCHES, SIDE_PX, SIDE_PX, 3), np.uint8)
        dense = stains(number)
        for start in range(0, PATCHES, writer.block_rows):
            rows = slice(start, start + writer.block_rows)
            writer.write(start, pixels[rows], dense[rows])
        table = PatchTable(
            position_px,
            position_px * MPP,
            np.ones(PATCHES, np.float32),
            rng.gamma(2, 0.4, PATCHES).astype(np.float32),
            np.ones(PATCHES, np.float32),
            dense.mean(axis=(2, 3)).astype(np.float32),
        )
        width, height = (round(side * OVERVIEW_MPP / MPP) for side in OVERVIEW_PX)
        counts = {"kept": PATCHES, "no_tissue": 3000, "pair_outside": 100, "pair_residual": 50}
        known = StoreAttributes(
            name,
            "p",
            SIDE_PX,
            220 / SIDE_PX,
            MPP,
            (width, height),
            440,
            OVERVIEW_MPP,
            MARKERS,
            0,
            "pass",
            counts,
            {},
            {},
        )
        writer.finish(known, table, overview, np.ones(OVERVIEW_PX[::-1], bool))
        draw_registration(results / f"register/{name}", overview, number)
        draw_features(results / f"embed/{RUNS[0]}/{name}.h5", position_px, number)
        draw_predictions(results / f"predict/{RUNS[0]}/{name}", number)
    return position_px


def draw_predictions(folder: Path, seed: int) -> None:
    """Write what the report reads of the predicted markers of a slide."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(0, 0.5, (PATCHES, len(MARKERS))).astype(np.float32)
    columns = {f"{PREFIX}{marker}": values[:, column] for column, marker in enumerate(MARKERS)}
    parquet.write_table(pa.table(columns), folder / "patches.parquet")
    numbers = {"low": 0.55, "high": 0.65, "penalty": 10.0, "scale_low": -1.2, "scale_high": 1.4}
    counts = {"train_patches": 640000, "test_patches": 160000}
    markers = [
        {"marker": marker, "score": 0.7 - 0.02 * column, **numbers, **counts} for column, marker in enumerate(MARKERS)
    ]
    write_json(folder / "markers.json", {"markers": markers, "left_out": {}, "fitted_on_this_slide": False})


def tissue(size_px: tuple[int, int], seed: int) -> np.ndarray:
    """Return H&E-coloured tissue with structure of several sizes and the noise of a scanner."""
    rng = np.random.default_rng(seed)
    picture = np.full((size_px[1], size_px[0], 3), (222, 182, 208), np.float32)
    for grain, strength in ((3, 25), (12, 30), (80, 30)):
        small = rng.normal(0, strength, (size_px[1] // grain + 1, size_px[0] // grain + 1, 1)).astype(np.float32)
        picture += cv2.resize(small, size_px, interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def stains(seed: int) -> np.ndarray:
    """Return dense patches (N, C, P, P) of tissue in which each marker has its own regions, with cells in them."""
    rng = np.random.default_rng(seed)
    rows, columns = PATCHES // COLUMNS, COLUMNS
    regions = np.stack([cv2.resize(rng.normal(size=(rows // 6, columns // 6)), (columns, rows)) for _ in MARKERS])
    means = 200 * np.exp(1.5 * regions.reshape(len(MARKERS), PATCHES).T)
    cells = rng.gamma(0.5, 2, (PATCHES, len(MARKERS), SIDE_PX, SIDE_PX))
    return np.minimum(means[:, :, None, None] * cells, 65535).astype(np.uint16)


def draw_registration(folder: Path, overview: np.ndarray, seed: int) -> None:
    """Write qc.json and the four pictures."""
    folder.mkdir(parents=True)
    small = cv2.resize(overview, PICTURE_PX, interpolation=cv2.INTER_AREA)
    for number, name in enumerate(PICTURES):
        picture = np.roll(small, number, axis=2) if number != 2 else tissue(PICTURE_PX, 50 + seed) // 2 + 64
        page = np.full((PICTURE_PX[1] + 44, PICTURE_PX[0], 3), 255, np.uint8)
        page[44:] = picture
        about = PngImagePlugin.PngInfo()
        if name == "overlay":
            about.add_text(FIELD_KEY, f"0 44 {PICTURE_PX[0]} {PICTURE_PX[1]}")
            about.add_text(CLOSE_UPS_KEY, f"{PICTURE_PX[0] + 10} 0 {CLOSE_UPS_PX[0]} {CLOSE_UPS_PX[1]}")
            page = np.pad(page, ((0, max(0, CLOSE_UPS_PX[1] - len(page))), (0, CLOSE_UPS_PX[0] + 10), (0, 0)))
            page[: CLOSE_UPS_PX[1], -CLOSE_UPS_PX[0] :] = np.resize(small, (*CLOSE_UPS_PX[::-1], 3))
        Image.fromarray(page).save(folder / f"{name}.png", pnginfo=about)
    steps = [
        {"name": step, "accepted": True, "after_um": {"median": 9.1, "p90": 14.2}, "seconds": 3.2}
        for step in ("initial", "coarse", "affine", "deformable")
    ]
    verdict = ("pass", "pass", "warn", "fail")[seed % 4]
    quality = {"mode": "same-section", "verdict": verdict, "reasons": [], "steps": steps}
    write_json(folder / "qc.json", {**quality, "held_out_residual_um": {"median": 1.1, "p90": 2.4}})


def draw_features(path: Path, position_px: np.ndarray, seed: int) -> None:
    """Write features as embed does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(seed).normal(seed, 1, (PATCHES, FEATURES)).astype(np.float32)
        file.create_dataset("features", data=values, chunks=(512, FEATURES))
        file["coords"] = position_px


def draw_record(path: Path, name: str, number: int) -> None:
    """Write what inspect does."""
    width, height = (round(side * OVERVIEW_MPP / MPP) for side in OVERVIEW_PX)
    level = (Level((width, height), 1.0),)

    def side(kind: str, channels: tuple[str, ...]) -> SideRecord:
        return SideRecord(f"slides/{name}", "openslide", MPP, "file", level, channels, "uint8", "0", kind)

    sparse, dense = side("brightfield", ("R", "G", "B")), side("fluorescence", MARKERS)
    write_json(path, to_mapping(SlideRecord(name, f"p{number // 2}", sparse, dense, "")))


def draw_tables(results: Path, names: list[str], patches: int) -> None:
    """Write what split, train, evaluate and embed-slides leave."""
    rows = ["slide\trow\tpatient\tfold\tpair_quality"]
    rows += [f"{name}\t{row}\tp{n // 2}\t{n // 2 % 5}\t1" for n, name in enumerate(names) for row in range(patches)]
    (results / "split").mkdir()
    (results / "split/patches.tsv").write_text("\n".join(rows) + "\n")
    held_out = [name for number, name in enumerate(names) if number // 2 % 5 == 0]
    folds = {"0": {"slides": held_out, "patients": [f"p{n}" for n in range(0, len(names) // 2, 5)]}}
    write_json(results / "split/split.json", {"by": "patient", "note": "", "folds": folds})
    for run in RUNS:
        lines = [json.dumps({"epoch": e, "step": 100 * e, "loss": 30 / e + 9, "lr": 1e-3}) for e in range(1, 101)]
        (results / "train" / run).mkdir(parents=True)
        (results / "train" / run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    columns = "run probe target score low high difference difference_low difference_high verdict "
    columns += "train_patches test_patches test_slides seeds seed_low seed_high disjoint"
    table = ["\t".join(columns.split())]
    for run in RUNS:
        gain = "\t\t\t" if run == RUNS[1] else "0.05\t0.03\t0.07\thelped"
        apart = "" if run == RUNS[1] else "no"
        for probe in ("ridge", "knn"):
            for target in ("mean", *MARKERS):
                row = f"{run}\t{probe}\t{target}\t0.6\t0.55\t0.65\t{gain}\t640000\t160000\t{len(held_out)}"
                table.append(f"{row}\t3\t0.58\t0.62\t{apart}")
    (results / "evaluate").mkdir()
    (results / "evaluate/summary.tsv").write_text("\n".join(table) + "\n")
    write_json(results / "evaluate/details.json", {"baseline": RUNS[1]})
    means = np.random.default_rng(9).normal(0, 1, (len(names), FEATURES)).astype(np.float32)
    vectors = [
        SlideVector(name, f"p{n // 2}", patches, "r", "e", means[n], np.abs(means[n])) for n, name in enumerate(names)
    ]
    write_slide_vectors(vectors, results / f"embed/{RUNS[0]}/slides.parquet", {})


if __name__ == "__main__":
    sys.exit(main())
