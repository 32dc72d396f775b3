"""A pair of slides so small that every stage takes a second or two: registered already, nuclei plain on both sides."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import cv2
import numpy as np
from cohort import write_cohort
from slide_files import halved, write_ome, write_rgb

from pipeline.cli import main

SIDE_PX = 768
MPP = 0.5
SETTINGS = {
    "panel": "{}",
    "register": "{}",
    "tile": '{"size_px": 64, "mpp": 0.5}',
    "split": '{"by": "block", "folds": 2, "block_um": 64}',
    "train": '{"encoder": "test_resnet", "projector": [32, 32], "epochs": 3, "batch_size": 16, "size_px": 32, '
    '"precision": "fp32"}',
    "embed": '{"batch_size": 32}',
    "evaluate": '{"bootstrap": 20, "baseline": "distilled"}',
    "evaluate-probe": '{"bootstrap": 20}',
    "predict": '{"min_score": -1, "max_outside": 1}',
    "report": '{"picture_px": 200}',
}


def draw_pair(folder: Path, name: str, seed: int) -> dict[str, str]:
    """Writes `{name}.tif` and `{name}.ome.tif`; returns the row of the sheet."""
    rng = np.random.default_rng(seed)
    rgb = np.full((SIDE_PX, SIDE_PX, 3), (232, 190, 214), np.uint8)
    planes = np.full((2, SIDE_PX, SIDE_PX), 40, np.uint16)
    for x, y in rng.uniform(8, SIDE_PX - 8, (1400, 2)):
        centre, radius = (round(x), round(y)), int(rng.integers(5, 8))
        cv2.circle(rgb, centre, radius, (96, 60, 140), -1, cv2.LINE_AA)
        cv2.circle(planes[0], centre, radius, 3000, -1)
        cv2.circle(planes[1], centre, radius + 2, int(rng.integers(100, 3000)), 2)
    write_rgb(folder / f"{name}.tif", [rgb, halved(rgb)], mpp=MPP)
    metadata = {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    write_ome(folder / f"{name}.ome.tif", [planes], ["DAPI", "CD3"], metadata=metadata)
    return {
        "slide": name,
        "patient": f"p-{name}",
        "sparse": f"{name}.tif",
        "dense": f"{name}.ome.tif",
        "transform": "identity",
    }


def run_all(folder: Path, slides: Path | None = None) -> Path:
    """Draws two pairs in `folder`, or takes those of the folder `slides`, and runs every stage; returns the folder."""
    rows = draw_cohort(folder)
    for path in slides.glob("*.tif") if slides else ():
        shutil.copy(path, folder)
    with contextlib.chdir(folder):
        for argv in commands(rows).values():
            assert main(argv) == 0, argv
    return folder


def draw_cohort(folder: Path) -> list[dict[str, str]]:
    """Two pairs and their sheet; returns its rows."""
    rows = [draw_pair(folder, name, seed) for seed, name in enumerate("ab")]
    write_cohort(folder, rows, {})
    return rows


def commands(rows: list[dict[str, str]], results: str = "results") -> dict[str, list[str]]:
    """The command line of every stage for these slides, by stage and slide, in the order in which they run."""
    found: dict[str, list[str]] = {}
    slides = [row["slide"] for row in rows]
    for row in rows:
        slide = row["slide"]
        record, folder, store = (
            f"{results}/inspect/{slide}.json",
            f"{results}/register/{slide}",
            f"{results}/tile/{slide}.zarr",
        )
        named = [word for key, value in row.items() for word in (f"--{key}", value)]
        found[f"inspect {slide}"] = ["inspect", *named, "--out", record]
        out = [
            word
            for name in ("transform.zarr", "qc.json")
            for word in (f"--out-{name.split('.')[0]}", f"{folder}/{name}")
        ]
        out += ["--out-itk", f"{folder}/transform.h5"]
        for picture in ("overlay", "checkerboard", "residual", "deformation"):
            out += [f"--out-{picture}", f"{folder}/{picture}.png"]
        found[f"panel {slide}"] = ["panel", "--record", record, "--out", f"{results}/panel/{slide}.json"]
        found[f"register {slide}"] = ["register", "--record", record, *out]
        pair = ["--transform", f"{folder}/transform.zarr", "--qc", f"{folder}/qc.json"]
        found[f"tile {slide}"] = ["tile", "--record", record, *pair, "--out", store]
    stores, table = ["--stores", f"{results}/tile"], f"{results}/split/patches.tsv"
    found["split"] = [
        "split",
        *stores,
        "--slides",
        *slides,
        "--out",
        table,
        "--out-summary",
        f"{results}/split/split.json",
    ]
    run = f"{results}/train/distilled"
    out = [
        "--out-encoder",
        f"{run}/encoder",
        "--out-metrics",
        f"{run}/metrics.jsonl",
        "--out-curve",
        f"{run}/curve.png",
    ]
    found["train"] = ["train", "--run", "distilled", *stores, "--split", table, *out]
    for slide in slides:
        store, out = f"{results}/tile/{slide}.zarr", ["--out", f"{results}/embed/distilled/{slide}.h5"]
        found[f"embed {slide}"] = ["embed", "--store", store, "--encoder", f"{run}/encoder", *out]
    vectors = ["--features", f"{results}/embed/distilled", "--out", f"{results}/embed/distilled/slides.parquet"]
    found["embed-slides"] = ["embed-slides", *vectors, "--slides", *slides, "--split", table]
    evidence = ["--out-summary", f"{results}/evaluate/summary.tsv", "--out-details", f"{results}/evaluate/details.json"]
    features = ["--embeddings", f"{results}/embed", "--trainings", f"{results}/train", "--runs", "distilled"]
    found["evaluate"] = ["evaluate", *stores, "--split", table, *features, *evidence]
    found["evaluate-probe"] = ["evaluate-probe", *stores, "--split", table, "--embeddings", f"{results}/embed"]
    found["evaluate-probe"] += ["--run", "distilled", "--out", f"{results}/evaluate/probes/distilled"]
    for slide in slides:
        store, out = f"{results}/tile/{slide}.zarr", ["--out", f"{results}/predict/distilled/{slide}"]
        found[f"predict {slide}"] = ["predict", "--features", f"{results}/embed/distilled/{slide}.h5", *out]
        found[f"predict {slide}"] += ["--store", store, "--probe", f"{results}/evaluate/probes/distilled"]
    page = ["--sheet", "config/slides.tsv", "--embedding", "distilled", "--out", f"{results}/report/index.html"]
    found["report"] = ["report", "--results", results, *page]
    for argv in found.values():
        if argv[0] in SETTINGS:
            argv += ["--settings", SETTINGS[argv[0]]]
    return found
