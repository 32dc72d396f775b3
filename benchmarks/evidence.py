"""Does the dense stain help? Trainings and their controls on real tissue, by the whole workflow.

Usage: python benchmarks/evidence.py --folder DIR [--held-out west|centre] [--encoder NAME] [--epochs N] [--size-px N]
[--colour X] [--dense-colour X] [--crop X] [--seeds N ...] [--runs NAME ...] [--cores N] [--check]. Needs MFL_REAL_DATA
with `orion_crc01`: H&E and 18-channel fluorescence of one section, in two regions.

`--held-out west` uses the region west alone and holds out blocks of it: settings are chosen there. `--held-out
centre` trains on west and probes on centre: one look per claim. All runs have the same patches, batches, seeds and
number of steps; `sparse-only-full-colour` has the colour augmentation that suits two sparse branches better than less
of it; `supervised` learns the markers' values themselves, about the most that such an encoder can reach. The folder is
kept; a run that is there with the same settings is not trained again. `colour-statistics` is no network: mean, spread
and quantiles of each patch's optical density, to tell what stain density alone foretells.
Prints a table of ridge probes per marker, one of linear probes of the tissue classes that come with the images (a
network's predictions on squares of 112 um, not a pathologist's) and whether dense patches are found from H&E; the last
line is JSON. With --check the exit code is 1 where the goal is
missed: distilled above sparse-only with disjoint 95 % intervals on at least half of the markers, and shuffled not
ahead of sparse-only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import yaml

from pipeline.store.patch_store import PatchStore

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS: dict[str, dict[str, object]] = {
    "random": {"branches": ["sparse", "sparse"], "epochs": 0},
    "sparse-only": {"branches": ["sparse", "sparse"]},
    "sparse-only-full-colour": {"branches": ["sparse", "sparse"], "colour": 1.0},
    "distilled": {"branches": ["sparse", "dense"]},
    "three-branch": {"branches": ["sparse", "sparse", "dense"]},
    "supervised": {"branches": ["sparse", "target"]},
    "shuffled": {"branches": ["sparse", "dense"], "pairing": "shuffled"},
}
BASELINE = "sparse-only"
COLOUR = "colour-statistics"
SPLITS: dict[str, dict[str, object]] = {
    "west": {"by": "block", "folds": 4, "block_um": 2000},
    "centre": {"by": "slide", "test": ["centre"]},
}


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where configuration and results go")
    parser.add_argument("--held-out", choices=SPLITS, default="west", help="what is probed")
    parser.add_argument("--encoder", default="test_resnet", help="timm name of the encoder")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the training patches")
    parser.add_argument("--size-px", type=int, default=64, help="side of the patches, at 1.3 um per pixel")
    parser.add_argument("--colour", type=float, default=1.0, help="strength of the colour augmentation of sparse views")
    parser.add_argument("--dense-colour", type=float, help="the same of dense views; default: that of sparse ones")
    parser.add_argument("--crop", type=float, default=0.75, help="smallest side of a window")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training of each run per seed")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="which runs")
    parser.add_argument("--cores", type=int, default=2, help="cores for Snakemake")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    parsed = parser.parse_args()
    training = {
        "encoder": parsed.encoder,
        "epochs": parsed.epochs,
        "batch_size": 128,
        "projector": [512, 512],
        "colour": parsed.colour,
        "dense_colour": parsed.dense_colour,
        "crop": parsed.crop,
        "seeds": parsed.seeds,
    }
    write_cohort(
        parsed.folder, parsed.held_out, parsed.size_px, {name: {**training, **RUNS[name]} for name in parsed.runs}
    )
    command = ["snakemake", "-s", str(REPOSITORY / "Snakefile"), "--directory", str(parsed.folder)]
    command += ["--cores", str(parsed.cores), "evaluate_all", "--quiet", "all"]
    done = subprocess.run([sys.executable, "-m", *command], check=False)
    if done.returncode:
        print(f"snakemake ended with {done.returncode}; why: {parsed.folder}/logs, {parsed.folder}/.snakemake/log")
        return done.returncode
    describe_colour(parsed.folder / "results")
    table = evaluated(parsed.folder / "results", parsed.held_out, parsed.runs, parsed.seeds)
    print_table(table.loc["ridge"], "Pearson r")
    tissue = class_scores(table)
    print_table(tissue, "Tissue class, linear probe: recall, area under the ROC curve where marked auc")
    found = print_retrieval(parsed.folder / "results")
    goals = judged(table.loc["ridge"])
    summary = table.loc["ridge"].xs("mean", level="target")
    result = {
        "benchmark": "evidence",
        "held_out": parsed.held_out,
        "size_px": parsed.size_px,
        "training": training,
        "mean_r": {run: [row.score, row.low, row.high] for run, row in summary.iterrows()},
        "tissue_class": {
            f"{run}, {target}": [row.score, row.low, row.high]
            for (run, target), row in tissue.iterrows()
            if target.startswith("mean")
        },
        "retrieval": found,
        "goals": goals,
    }
    print(json.dumps(result))
    return 1 if parsed.check and not all(goal["met"] for goal in goals) else 0


def write_cohort(folder: Path, held_out: str, size_px: int, runs: dict[str, dict[str, object]]) -> None:
    """Write the sheet and the configuration."""
    source = real_data()
    rows = ["slide\tpatient\tsparse\tdense\ttransform\tclasses"]
    dense = {"west": ("west_mif.ome.tif", "identity"), "centre": ("centre_mif_moved.ome.tif", "")}
    for slide, path in class_tables(held_out).items():
        image, transform = dense[slide]
        rows.append(f"{slide}\tcrc01\t{source}/{slide}_he.tif\t{source}/{image}\t{transform}\t{path}")
    config = {
        "slides": "config/slides.tsv",
        "tile": {"size_px": size_px},
        "split": SPLITS[held_out],
        "runs": runs,
        "embed": {"encoder": next(iter(runs))},
        "evaluate": {"baseline": BASELINE},
    }
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "config" / "slides.tsv").write_text("\n".join(rows) + "\n")
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def real_data() -> Path:
    """Return the folder of the images."""
    return Path(os.environ["MFL_REAL_DATA"]).resolve() / "orion_crc01"


def class_tables(held_out: str) -> dict[str, Path]:
    """Return by slide the table of tissue classes."""
    return {slide: real_data() / f"{slide}_tissue_class.csv" for slide in dict.fromkeys(("west", held_out))}


def describe_colour(results: Path) -> None:
    """Write, for every store, the features of the run `colour-statistics`, (N, 15) of optical density."""
    folder = results / "embed" / COLOUR
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((results / "tile").glob("*.zarr")):
        store = PatchStore.open(path)
        parts = []
        for start in range(0, len(store), 512):
            rgb = store.read_sparse(np.arange(start, min(start + 512, len(store)))).astype(np.float32)
            density = -np.log(np.maximum(rgb, 1) / 255).reshape(len(rgb), -1, 3)
            quantiles = np.quantile(density, (0.1, 0.5, 0.9), axis=1)
            parts.append(np.concatenate([density.mean(1), density.std(1), *quantiles], axis=1))
        with h5py.File(folder / f"{path.stem}.h5", "w") as file:
            file["features"] = np.concatenate(parts).astype(np.float32)
            file["coords"] = store.table.position_px
            file.attrs["encoder"] = COLOUR


def evaluated(results: Path, held_out: str, runs: list[str], seeds: list[int]) -> pd.DataFrame:
    """Return the table of the stage evaluate for the runs, their seeds and the colour statistics."""
    repeats = [f"{run}-seed{seed}={run}" for run in runs for seed in seeds[1:]]
    names = [*runs, COLOUR, *(word.split("=")[0] for word in repeats)]
    out = results / "evidence"
    command = [sys.executable, "-m", "pipeline", "evaluate", "--stores", str(results / "tile")]
    command += ["--split", str(results / "split/patches.tsv"), "--embeddings", str(results / "embed")]
    command += ["--trainings", str(results / "train"), "--classes"]
    command += [f"{slide}={path}" for slide, path in class_tables(held_out).items()]
    command += ["--runs", *names, "--repeats", *repeats, "--settings", json.dumps({"baseline": BASELINE})]
    command += ["--out-summary", str(out / "summary.tsv"), "--out-details", str(out / "details.json")]
    subprocess.run(command, check=True)
    return pd.read_csv(out / "summary.tsv", sep="\t").set_index(["probe", "run", "target"])


def class_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the linear probe of tissue classes: recalls, then areas, by run and class."""
    areas = table.loc["class-linear-auc"].rename(index=lambda name: f"{name}, auc", level="target")
    return pd.concat([table.loc["class-linear"], areas]).sort_index(level="run", sort_remaining=False)


def print_retrieval(results: Path) -> dict[str, dict[str, object]]:
    """Return a line per run with a dense branch; returns what evaluate found."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads(
        (results / "evidence/details.json").read_text(encoding="utf-8")
    )["retrieval"]
    for run, told in found.items():
        recall, rank = told["recall_at_10"], told["median_rank"]
        print(
            f"dense patch found from H&E, {run}: recall at 10 {recall['score']:.3f} [{recall['low']:.3f} "
            f"{recall['high']:.3f}], chance {recall['chance']:.3f}; median rank {rank['score']:.0f} of "
            f"{told['patches']}"
        )
    return dict(found)


def print_table(scores: pd.DataFrame, title: str) -> None:
    """Print one line per target: each run's score, and what the comparison with the baseline says."""
    runs = list(dict.fromkeys(scores.index.get_level_values("run")))
    print(f"{title} [95 % over blocks] (lowest to highest seed); * helped, - harmed, ! intervals disjoint")
    print(f"{'':18}" + "".join(f"{run:>38}" for run in runs))
    for target in dict.fromkeys(scores.index.get_level_values("target")):
        cells = ""
        for run in runs:
            row = scores.loc[(run, target)]
            mark = {"helped": "*", "harmed": "-"}.get(row.verdict, " ") + ("!" if row.disjoint == "yes" else " ")
            spread = f"[{row.low:.3f} {row.high:.3f}] ({row.seed_low:.3f} {row.seed_high:.3f})"
            cells += f"{f'{row.score:.3f} {spread}{mark}':>38}"
        print(f"{target:18}{cells}")


def judged(ridge: pd.DataFrame) -> list[dict[str, object]]:
    """Return the goals, each with what was found; nothing is met by a run that is not there."""
    runs = set(ridge.index.get_level_values("run"))
    goals: list[dict[str, object]] = []
    if "distilled" in runs:
        markers = ridge.loc["distilled"].drop("mean")
        ahead = int(((markers.disjoint == "yes") & (markers.difference > 0)).sum())
        helped = int((markers.verdict == "helped").sum())
        goals.append(
            {
                "goal": "distilled above sparse-only, disjoint intervals, on at least half of the markers",
                "found": f"{ahead} of {len(markers)}; by paired intervals {helped}",
                "met": 2 * ahead >= len(markers),
            }
        )
    if "shuffled" in runs:
        row = ridge.loc[("shuffled", "mean")]
        found = f"{row.difference:+.3f} [{row.difference_low:+.3f} {row.difference_high:+.3f}]"
        goals.append({"goal": "shuffled not ahead of sparse-only", "found": found, "met": row.verdict != "helped"})
    for goal in goals:
        print(f"{goal['goal']}: {goal['found']}  {'met' if goal['met'] else 'MISSED'}")
    return goals


if __name__ == "__main__":
    sys.exit(main())
