"""What the dense side tells by itself: the same probes on the dense encoder's features, marked, without a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from drawn_store import write_store
from drawn_training import TINY, draw_pairs, train_tiny, write_cohort

from pipeline.cli import main
from pipeline.evaluation.probes import fit_ridge
from pipeline.settings import EvaluateSettings
from pipeline.store.patch_store import PatchStore
from pipeline.store.targets import comparable, standardised
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.dense_description import DenseDescription

RUNS = {
    "distilled": {"branches": ["sparse", "dense"], "seed": 0},
    "distilled-seed1": {"branches": ["sparse", "dense"], "seed": 1},
    "blank": {"branches": ["sparse", "dense"], "pairing": "blank", "epochs": 1},
    "sparse-only": {"branches": ["sparse", "sparse"], "epochs": 1},
}
PATCHES = 160
SLIDES = ("s0", "s1", "test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on pairs of which the dense side shows CD3 and the H&E does not, with their features."""
    folder = tmp_path_factory.mktemp("dense-side")
    stores, split = write_cohort(folder, patches=PATCHES, panels=(("DAPI", "CD3"), ("DAPI", "CD3")))
    for run, changes in RUNS.items():
        out = folder / "train" / run
        argv = ["train", "--run", run, "--stores", str(stores), "--split", str(split)]
        argv += ["--settings", json.dumps({**TINY, "batch_size": 32, "lr": 0.003, "crop": 1.0, **changes})]
        argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
        assert main(argv) == 0
        for slide in SLIDES:
            argv = ["embed", "--store", str(stores / f"{slide}.zarr"), "--encoder", str(out / "encoder")]
            assert main([*argv, "--out", str(folder / f"embed/{run}/{slide}.h5")]) == 0
    return folder


def _evaluate(folder: Path, out: Path, *more: str, **settings: object) -> int:
    argv = ["evaluate", "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv"), "--runs", *RUNS]
    argv += ["--embeddings", str(folder / "embed"), "--repeats", "distilled-seed1=distilled"]
    argv += ["--out-summary", str(out / "summary.tsv"), "--out-details", str(out / "details.json"), *more]
    known = {"bootstrap": 50, "block_um": 160, "retrieval_patches": 0, "labels": [15], "dense_side": True, **settings}
    return main([*argv, "--settings", json.dumps(known)])


def _table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.tsv", sep="\t", keep_default_na=False).set_index(["run", "probe", "target"])


@pytest.fixture(scope="module")
def classes(trained: Path) -> list[str]:
    """Tables of the classes that CD3 makes, high or low."""
    argv = ["--classes"]
    for slide in SLIDES:
        value = PatchStore.open(trained / f"tile/{slide}.zarr").table.marker_mean[:, 1]
        names = np.where(value > np.median(value), "high", "low")
        pd.DataFrame({"row": np.arange(PATCHES), "class": names}).to_csv(trained / f"{slide}.csv", index=False)
        argv.append(f"{slide}={trained / slide}.csv")
    return argv


@pytest.fixture(scope="module")
def evaluated(trained: Path, classes: list[str]) -> Path:
    assert _evaluate(trained, trained, "--trainings", str(trained / "train"), *classes) == 0
    return trained


def test_rows_of_the_dense_side_are_marked_and_have_no_verdict(evaluated: Path) -> None:
    table = _table(evaluated)
    marked = table[table.index.get_level_values("probe").str.startswith("dense-")]
    assert set(marked.index.get_level_values("run")) == {"distilled"}  # the blank branch saw nothing
    own = {probe.removeprefix("dense-") for probe in marked.index.get_level_values("probe")}
    assert own == set(table.loc["sparse-only"].index.get_level_values("probe"))
    assert own >= {"ridge", "knn", "class-linear", "class-knn-auc", "class-linear-15-labels"}
    for column in ("verdict", "difference", "difference_low", "difference_high", "disjoint"):
        assert (marked[column] == "").all()
    assert (marked["seeds"] == 2).all()
    scores = pd.to_numeric(table["score"])
    # CD3 is in the dense side only, so that no H&E encoder can tell it.
    for probe in ("ridge", "class-linear"):
        target = "CD3" if probe == "ridge" else "mean"
        assert scores["distilled", f"dense-{probe}", target] > scores["distilled", probe, target] + 0.3
    assert (pd.to_numeric(marked["low"]) <= scores[marked.index]).all()
    assert list(table.loc["distilled"].index.get_level_values("probe").unique())[:2] == ["ridge", "knn"]
    inputs = json.loads((evaluated / "details.json").read_text())["provenance"]["inputs"]
    assert {name for name in inputs if name.startswith("train/")} == {
        f"train/{run}/{BRANCHES_NAME}" for run in ("distilled", "distilled-seed1")
    }


def test_other_rows_are_what_they_are_without_it(evaluated: Path, classes: list[str], tmp_path: Path) -> None:
    argv = ["--trainings", str(evaluated / "train"), *classes]
    assert _evaluate(evaluated, tmp_path, *argv, dense_side=False) == 0
    table = _table(evaluated)
    others = table[~table.index.get_level_values("probe").str.startswith("dense-")]
    pd.testing.assert_frame_equal(others, _table(tmp_path))


def test_the_ridge_row_is_that_of_the_dense_encoder_on_the_same_patches(evaluated: Path) -> None:
    found = []
    for run in ("distilled", "distilled-seed1"):
        folder = evaluated / "train" / run
        described = DenseDescription.read(folder / "encoder")
        assert described is not None
        kept = KeptBranches.load(folder / BRANCHES_NAME, described, torch.device("cpu"))
        features, values = {}, {}
        for slide in SLIDES:
            store = PatchStore.open(evaluated / f"tile/{slide}.zarr")
            pixels = store.read_dense(slice(0, PATCHES)).astype(np.float32)
            features[slide] = kept.dense_features(pixels, np.ones((PATCHES, 2), bool))
            values[slide] = comparable(store.table.marker_mean[:].astype(np.float64), "fluorescence")
        x = np.concatenate([features["s0"], features["s1"]])
        y = np.concatenate([standardised(values["s0"]), standardised(values["s1"])])
        probe = fit_ridge(x, y, np.repeat([1, 2], PATCHES), EvaluateSettings().ridge)
        found.append(np.corrcoef(probe.predict(features["test"])[:, 1], values["test"][:, 1])[0, 1])
    row = _table(evaluated).loc[("distilled", "dense-ridge", "CD3")]
    assert float(row.score) == pytest.approx(np.mean(found), abs=2e-3)
    assert sorted((float(row.seed_low), float(row.seed_high))) == pytest.approx(sorted(found), abs=2e-3)


def test_a_dense_side_that_the_branch_cannot_read_is_not_asked_and_that_is_said(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("patches.tsv", "embed", "train"):
        (tmp_path / name).symlink_to(evaluated / name)
    for slide in ("s0", "s1"):
        (tmp_path / "tile").mkdir(exist_ok=True)
        (tmp_path / f"tile/{slide}.zarr").symlink_to(evaluated / f"tile/{slide}.zarr")
    sparse, dense = draw_pairs(PATCHES, 2, 2)
    path = tmp_path / "tile/test.zarr"
    write_store(path, sparse=sparse, dense=dense, slide="test", patient="p2", markers=("CD99", "CD56"))
    assert _evaluate(tmp_path, tmp_path, "--trainings", str(tmp_path / "train")) == 0
    assert "the dense branch of distilled cannot read the dense side of every slide" in capsys.readouterr().err
    assert not any(probe.startswith("dense-") for probe in _table(tmp_path).index.get_level_values("probe"))


def test_the_features_of_several_dense_encoders_stand_side_by_side(tmp_path: Path) -> None:
    nuclei = {"modality": "dense", "markers": ["DAPI"], "encoder": "nuclei"}
    both = {"modality": "dense", "markers": ["DAPI", "CD3"], "encoder": "both"}
    folder = train_tiny(tmp_path, branches=["sparse", nuclei, both], alignment="parts", markers=["DAPI", "CD3"])
    described = DenseDescription.read(folder)
    assert described is not None
    kept = KeptBranches.load(folder.parent / BRANCHES_NAME, described, torch.device("cpu"))
    pixels = np.random.default_rng(0).uniform(10, 500, (3, 2, 32, 32)).astype(np.float32)
    present = np.ones((3, 2), bool)
    whole = kept.dense_features(pixels.copy(), present)
    width = described.feature_dim
    assert whole.shape == (3, 2 * width)
    for marker, seen_by in ((0, [True, True]), (1, [False, True])):
        changed = pixels.copy()
        changed[:, marker] += 300
        differs = np.abs(kept.dense_features(changed, present) - whole).max(axis=0) > 1e-6
        assert [bool(part.any()) for part in np.split(differs, 2)] == seen_by


def test_without_the_trainings_it_is_refused_in_a_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(trained, tmp_path) == 1
    assert "--trainings: expected the folder of the trainings" in capsys.readouterr().err.strip().splitlines()[-1]
