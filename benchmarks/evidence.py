"""Does the dense stain help, and how many labels does it save? Trainings and their controls on real tissue.

Usage: python benchmarks/evidence.py --folder DIR [--held-out west|centre] [--runs NAME ...] [--seeds N ...] [--jobs N]
[--encoder NAME] [--epochs N] [--size-px N] [--target-weight X] [--trainings-only] [--check]. Needs MFL_REAL_DATA with
`orion_crc01`: H&E and 18-channel fluorescence of one section, in two regions.

`--held-out west` uses the region west alone and holds out blocks of it: settings are chosen there. `--held-out centre`
trains on west and probes on centre: one look per claim. All runs have the same patches, batches and number of steps.
Of every training a ridge probe on frozen features is fitted to few labelled patches, drawn several times and the same
for all runs, and scored on held-out patches: Pearson r of each marker, their mean, differences to `sparse-only` with
paired intervals over blocks of tissue, and how many times fewer labels a run needs than `sparse-only` for the latter's
full score. `unseen` leaves six markers out of training; scores of those and of the others are listed separately.

The folder is kept. Each training and each slide's features are separate files: what is there with the same
settings is not made again, so a stopped benchmark goes on where it was; empty the folder after a change of the code.
Prints tables and goals; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from evidence_tables import BASELINE, UNSEEN, judged, print_curves, print_markers, print_ratios, print_unseen
from few_labels import Task, scores_by_labels

from pipeline.evaluation.reading import encoder_of, read_cohort, read_features
from pipeline.evaluation.scores import Scores
from pipeline.provenance import file_digest
from pipeline.settings import EvaluateSettings, RunSettings, build, to_json
from pipeline.store.patch_store import PatchStore

REPOSITORY = Path(__file__).resolve().parents[1]
THREE = ["sparse", "sparse", "dense"]
# In the order in which a seed's trainings are made.
RUNS: dict[str, dict[str, Any]] = {
    "random": {"branches": ["sparse", "sparse"], "epochs": 0},
    BASELINE: {"branches": ["sparse", "sparse"]},
    "distilled": {"branches": ["sparse", "dense"]},
    "three-branch": {"branches": THREE},
    "with-target": {"branches": [*THREE, "target"]},
    "supervised": {"branches": ["sparse", "target"]},
    "unseen": {"branches": THREE},
    "shuffled": {"branches": THREE, "pairing": "shuffled"},
}
SPLITS: dict[str, dict[str, Any]] = {
    "west": {"by": "block", "folds": 4, "block_um": 2000},
    "centre": {"by": "slide", "test": ["centre"]},
}
IMAGES = {"west": ("west_mif.ome.tif", "identity"), "centre": ("centre_mif_moved.ome.tif", "")}


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where configuration and results go")
    parser.add_argument("--held-out", choices=SPLITS, default="west", help="what is probed")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="which runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training of each run per seed")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each on one core")
    parser.add_argument("--encoder", default="test_resnet", help="timm name of the encoder")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training patches")
    parser.add_argument("--size-px", type=int, default=32, help="side of the patches, at 1.3 um per pixel")
    parser.add_argument("--target-weight", type=float, default=5.0, help="weight of the target of with-target")
    parser.add_argument("--trainings-only", action="store_true", help="look at nothing that is held out")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    prepare(parsed.folder, parsed.held_out, parsed.size_px)
    results = parsed.folder.resolve() / "results"
    wanted = settings_of_runs(parsed, results)
    pool = ThreadPoolExecutor(parsed.jobs)
    try:
        list(pool.map(partial(make, results), [item for named in wanted.values() for item in named.items()]))
    finally:
        pool.shutdown(cancel_futures=True)
    if parsed.trainings_only:
        return 0
    return report(results, parsed.held_out, wanted, check=parsed.check)


def settings_of_runs(parsed: argparse.Namespace, results: Path) -> dict[int, dict[str, RunSettings]]:
    """Return by seed, and name of the training, its settings: a stopped benchmark leaves whole seeds."""
    shared = {"encoder": parsed.encoder, "epochs": parsed.epochs, "batch_size": 128, "projector": [512, 512]}
    shared |= {"colour": 1.0, "dense_colour": 0.0}
    markers = PatchStore.open(results / "tile" / "west.zarr").attributes.markers
    found: dict[int, dict[str, RunSettings]] = {}
    for seed in parsed.seeds:
        found[seed] = {}
        for run in parsed.runs:
            values = {**shared, **RUNS[run], "seed": seed}
            if run == "unseen":
                values["markers"] = [name for name in markers if name not in UNSEEN]
            if run == "with-target":
                values["target_weight"] = parsed.target_weight
            found[seed][training_name(run, seed)] = build(RunSettings, values, source=run)
    return found


def training_name(run: str, seed: int) -> str:
    """Return the name of a training, as the key `seeds` of a configuration gives it."""
    return f"{run}-seed{seed}" if seed else run


def prepare(folder: Path, held_out: str, size_px: int) -> None:
    """Register, tile and split by the workflow, unless the split is there.

    Ends the program where the folder holds another cohort.
    """
    source = Path(os.environ["MFL_REAL_DATA"]).resolve() / "orion_crc01"
    rows = ["slide\tpatient\tsparse\tdense\ttransform"]
    for slide in dict.fromkeys(("west", held_out)):
        image, transform = IMAGES[slide]
        rows.append(f"{slide}\tcrc01\t{source}/{slide}_he.tif\t{source}/{image}\t{transform}")
    config = {
        "slides": "config/slides.tsv",
        "tile": {"size_px": size_px},
        "split": SPLITS[held_out],
        "runs": {BASELINE: {"branches": ["sparse", "sparse"]}},
        "embed": {"encoder": BASELINE},
    }
    text = {"slides.tsv": "\n".join(rows) + "\n", "config.yaml": yaml.safe_dump(config, sort_keys=False)}
    split = folder / "results/split/patches.tsv"
    if split.is_file():
        other = [name for name, own in text.items() if (folder / "config" / name).read_text() != own]
        if other:
            sys.exit(f"{folder}/config/{other[0]} is of another cohort: name another folder, or empty this one")
        return
    (folder / "config").mkdir(parents=True, exist_ok=True)
    for name, own in text.items():
        (folder / "config" / name).write_text(own)
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    subprocess.run([*command, "--cores", "2", "--quiet", "all", "results/split/patches.tsv"], check=True)


def make(results: Path, item: tuple[str, RunSettings]) -> None:
    """Train and embed what is not there yet."""
    name, settings = item
    encoder = results / "train" / name / "encoder"
    split = results / "split/patches.tsv"
    if not is_trained(encoder, settings, split):
        words = ["train", "--run", name, "--stores", str(results / "tile"), "--split", str(split)]
        words += ["--out-encoder", str(encoder), "--out-metrics", str(encoder.parent / "metrics.jsonl")]
        words += ["--out-curve", str(encoder.parent / "curve.png"), "--settings", to_json(settings)]
        call(words)
    own = known_of(encoder)["weights_sha256"]
    for store in sorted((results / "tile").glob("*.zarr")):
        features = results / "embed" / name / f"{store.stem}.h5"
        if not features.is_file() or encoder_of(features.parent, [store.stem])[0] != own:
            call(["embed", "--store", str(store), "--encoder", str(encoder), "--out", str(features)])


def call(words: list[str]) -> None:
    """Run a stage on one core; ends the program with what it says where it fails."""
    command = [sys.executable, "-P", "-m", "pipeline", *words, "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:3])} ended with {done.returncode}: {done.stderr[-2000:]}")
    print(" ".join(words[:3]), "done", file=sys.stderr, flush=True)


def known_of(encoder: Path) -> dict[str, Any]:
    """Return what the encoder says of itself."""
    own: dict[str, Any] = json.loads((encoder / "config.json").read_text(encoding="utf-8"))["more_from_less"]
    return own


def is_trained(encoder: Path, settings: RunSettings, split: Path) -> bool:
    """Return whether the encoder is there, of these settings and this split."""
    if not (encoder / "config.json").is_file():
        return False
    own = known_of(encoder)
    same = build(RunSettings, own["settings"], source=str(encoder)) == settings
    return same and own["provenance"]["inputs"]["split"] == file_digest(split)


def report(results: Path, held_out: str, wanted: dict[int, dict[str, RunSettings]], *, check: bool) -> int:
    """Print what the probes say; returns the exit code."""
    settings = EvaluateSettings()
    cohort = read_cohort(results / "split/patches.tsv", results / "tile")
    task = Task.of(cohort, settings)
    scores: dict[str, dict[int, list[Scores]]] = {}
    for run, name in trainings(wanted):
        read = partial(read_features, results / "embed" / name)
        for labels, found in scores_by_labels(task, read, settings.ridge).items():
            scores.setdefault(run, {}).setdefault(labels, []).append(found)
    print(
        f"{held_out}: {len(task.targets)} pairs to label, {sum(task.tested.patches)} probed, "
        f"{task.tested.halves.shape[1]} blocks; seeds {', '.join(map(str, wanted))}; [95 % over blocks]; "
        "* helped, - harmed"
    )
    curves = print_curves(task, scores)
    ratios = print_ratios(task, scores)
    print_markers(task, scores)
    unseen = print_unseen(task, scores)
    goals = judged(task, scores, curves, ratios, unseen)
    result = {
        "benchmark": "evidence",
        "held_out": held_out,
        "seeds": list(wanted),
        "mean_r": {run: {str(labels): row.score for labels, row in rows.items()} for run, rows in curves.items()},
        "label_ratio": {run: [one.ratio, one.low, one.high] for run, one in ratios.items()},
        "goals": goals,
    }
    print(json.dumps(result))
    return 1 if check and not all(goal["met"] for goal in goals) else 0


def trainings(wanted: dict[int, dict[str, RunSettings]]) -> Iterator[tuple[str, str]]:
    """Yield the run and name of every training."""
    for seed, named in wanted.items():
        for name in named:
            yield name.removesuffix(f"-seed{seed}") if seed else name, name


if __name__ == "__main__":
    sys.exit(main())
