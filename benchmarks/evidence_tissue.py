"""Does the dense stain help to tell tissue classes? A second question to the encoders that evidence.py trained.

Usage: python benchmarks/evidence_tissue.py --folder DIR [--check], DIR being a folder of evidence.py. Needs
MFL_REAL_DATA with `orion_crc01`, whose tables give a class per square of 112 um: a network's prediction from the H&E
itself, not a pathologist's. A patch has the class of the square that its centre lies in.

The probe is the stage evaluate's: multinomial logistic regression on standardised features, every class counting alike,
fitted on 10,000 patches at most. Prints recall per class and their mean, the balanced accuracy; the last line is JSON.
With --check the exit code is 1 unless distilled is ahead of sparse-only in balanced accuracy, by the paired interval
and in every seed, and shuffled is not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from evidence import BASELINE, COLOUR, print_table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.evaluation.class_evidence import class_evidence
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.evaluating import write_summary
from pipeline.evaluation.evidence import HeldOut
from pipeline.evaluation.prediction import TrainingRows, held_out, training_rows
from pipeline.evaluation.reading import Cohort, SlidePairs, read_cohort
from pipeline.settings import EvaluateSettings
from pipeline.tiling.patch_targets import NO_CLASS
from pipeline.tiling.store import PatchStore

PROBE = "class-linear"
SETTINGS = EvaluateSettings(baseline=BASELINE, shots=(), max_train_patches=10_000)


def main() -> int:
    """Probes all runs of the folder; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of a finished evidence.py")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the goal is missed")
    parsed = parser.parse_args()
    results = parsed.folder / "results"
    runs = yaml.safe_load((parsed.folder / "config/config.yaml").read_text())["runs"]
    groups = {run: [run, *(f"{run}-seed{seed}" for seed in known["seeds"][1:])] for run, known in runs.items()}
    groups[COLOUR] = [COLOUR]
    cohort = read_cohort(results / "split/patches.tsv", results / "tile")
    training = training_rows(cohort, SETTINGS)
    task = tissue_task(cohort, training, results / "tile")
    print(json.dumps(task.told()))
    tested = HeldOut.of(cohort, SETTINGS)
    rows = class_evidence(results / "embed", cohort, training, task, groups, tested, SETTINGS)
    summary = results / "evidence" / "tissue.tsv"
    write_summary(summary, rows)
    table = pd.read_csv(summary, sep="\t").set_index(["probe", "run", "target"]).loc[PROBE]
    print_table(table, "Recall of each class")
    means = table.xs("mean", level="target")
    met = means.verdict.get("distilled") == "helped" and means.verdict.get("shuffled") != "helped"
    print(f"distilled ahead of sparse-only in balanced accuracy and shuffled not: {'met' if met else 'MISSED'}")
    result = {run: [row.score, row.low, row.high] for run, row in means.iterrows()}
    print(json.dumps({"benchmark": "evidence_tissue", "balanced_accuracy": result, "met": met}))
    return 1 if parsed.check and not met else 0


def tissue_task(cohort: Cohort, training: TrainingRows, stores: Path) -> ClassTask:
    """The classes that both the patches to fit on and the held-out ones show."""
    named = [tissue_names(slide, PatchStore.open(stores / f"{slide.slide}.zarr")) for slide in cohort.slides]
    fitted = np.concatenate([names[rows] for names, rows in zip(named, training.chosen, strict=True)])
    of_slide = {slide.slide: names for slide, names in zip(cohort.slides, named, strict=True)}
    tested = [of_slide[slide.slide][slide.fold == 0] for slide in held_out(cohort)]
    shared = sorted((set(fitted) & set(np.concatenate(tested))) - {""})
    number = {name: index for index, name in enumerate(shared)}

    def numbered(names: NDArray[np.str_]) -> NDArray[np.int64]:
        return np.array([number.get(str(name), NO_CLASS) for name in names], dtype=np.int64)

    return ClassTask(tuple(shared), numbered(fitted), tuple(map(numbered, tested)))


def tissue_names(slide: SlidePairs, store: PatchStore) -> NDArray[np.str_]:
    """(n,) name of the class of each pair of a slide, empty where its centre lies in no square."""
    table = pd.read_csv(Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01" / f"{slide.slide}_tissue_class.csv")
    half = table["size_um"].to_numpy() / 2
    squares = cKDTree(table[["he_x_um", "he_y_um"]].to_numpy() + half[:, None])
    centre = slide.position_um + (store.attributes.size_px - 1) / 2 * store.attributes.mpp
    distance, nearest = squares.query(centre, p=np.inf)
    return np.where(distance <= half[nearest], table["class"].to_numpy(dtype=str)[nearest], "")


if __name__ == "__main__":
    sys.exit(main())
