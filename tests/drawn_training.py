"""Small cohorts to train on: stores of 32-px pairs, and the split that goes with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from drawn_store import write_store

from pipeline.cli import main

SIZE_PX = 32
TINY = {"encoder": "test_resnet", "projector": [32, 32], "epochs": 2, "batch_size": 8, "precision": "fp32"}


def draw_pairs(count: int, markers: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sparse and dense patches of soft blobs; the strength of marker 0 is also how blue the sparse patch is."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX]
    centre = random.uniform(8, 24, (count, 2, 1, 1))
    blob = np.exp(-((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) / 40)
    strength = random.lognormal(0, 0.7, (count, max(1, markers)))
    dense = 50 + 400 * strength[:, :markers, None, None] * blob[:, None]
    dense += random.normal(0, 5, dense.shape)
    sparse = np.full((count, SIZE_PX, SIZE_PX, 3), 230.0)
    sparse -= (blob * np.minimum(strength[:, :1, None], 2.5))[..., None] * np.array([80, 60, 10])
    sparse += random.normal(0, 6, sparse.shape)
    return np.clip(sparse, 0, 255).astype(np.uint8), np.clip(dense, 0, 65535).astype(np.uint16)


def write_cohort(
    folder: Path, *, patches: int = 20, panels: tuple[tuple[str, ...], ...] = (("DAPI", "CD3"), ("DAPI", "CD8"))
) -> tuple[Path, Path]:
    """Stores s0, s1, … with these panels and a held-out slide `test`; returns the stores' folder and the split."""
    stores = folder / "tile"
    lines = ["slide\trow\tpatient\tfold\tpair_quality"]
    named = [(f"s{number}", panel, 1 + number) for number, panel in enumerate(panels)] + [("test", panels[0], 0)]
    for seed, (slide, panel, fold) in enumerate(named):
        sparse, dense = draw_pairs(patches, len(panel), seed)
        write_store(
            stores / f"{slide}.zarr",
            sparse=sparse,
            dense=dense if panel else None,
            slide=slide,
            patient=f"p{seed}",
            markers=panel,
        )
        quality = 1.0 if panel else 0.0
        lines += [f"{slide}\t{row}\tp{seed}\t{fold}\t{quality}" for row in range(patches)]
    split = folder / "patches.tsv"
    split.write_text("\n".join(lines) + "\n")
    return stores, split


def train_tiny(folder: Path, **changes: object) -> Path:
    """Trains for an epoch on a drawn cohort in `folder`; returns the encoder's folder."""
    stores, split = write_cohort(folder)
    settings = json.dumps({**TINY, "epochs": 1, **changes})
    out = folder / "run"
    argv = ["train", "--run", "tiny", "--stores", str(stores), "--split", str(split), "--settings", settings]
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
    assert main(argv) == 0
    return out / "encoder"
