"""The stage evaluate on drawn results: what it finds, what it leaves out and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn_results import COHORT, MARKERS, DrawnResults, draw_features, draw_stores

from pipeline.cli import main
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.evidence import verdict_of
from pipeline.evaluation.evidence_row import COLUMNS
from pipeline.splitting.table import HELD_OUT_FOLD

RUNS = ("distilled", "sparse-only", "shuffled", "worse")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> DrawnResults:
    """The distilled run sees the causes clearly, sparse-only through noise, shuffled the same, worse hardly."""
    drawn = draw_stores(tmp_path_factory.mktemp("results"))
    draw_features(drawn, "distilled", 1.0, seed=1)
    draw_features(drawn, "sparse-only", 4.0, seed=2)
    draw_features(drawn, "shuffled", 4.0, seed=3)
    draw_features(drawn, "worse", 15.0, seed=4)
    assert main(["evaluate", *drawn.arguments(*RUNS)]) == 0
    return drawn


@pytest.fixture
def drawn(tmp_path: Path) -> DrawnResults:
    drawn = draw_stores(tmp_path)
    draw_features(drawn, "distilled", 1.0)
    return drawn


def table(drawn: DrawnResults) -> pd.DataFrame:
    return (
        pd.read_csv(drawn.results / "evaluate/summary.tsv", sep="\t").set_index(["run", "probe", "target"]).sort_index()
    )


def error_of(capsys: pytest.CaptureFixture[str], drawn: DrawnResults, *runs: str) -> str:
    assert main(["evaluate", *drawn.arguments(*runs)]) == 1
    assert not (drawn.results / "evaluate").exists() or not any((drawn.results / "evaluate").iterdir())
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("error: ")
    return text


def test_the_table_has_a_row_for_every_run_probe_and_marker_and_their_mean(evaluated: DrawnResults) -> None:
    rows = table(evaluated).reset_index()
    assert tuple(rows.columns[:3]) == COLUMNS[:3]
    assert set(rows.columns) == set(COLUMNS)
    # 30, 100 and 300 labels besides all: of 1000 and more there are not enough patches.
    assert len(rows) == len(RUNS) * (2 + 3) * (len(MARKERS) + 1)


def test_the_better_features_are_found_to_help_and_equal_ones_not(evaluated: DrawnResults) -> None:
    rows = table(evaluated)
    for probe in ("ridge", "knn"):
        assert rows.loc[("distilled", probe, "mean"), "verdict"] == "helped"
        assert rows.loc[("shuffled", probe, "mean"), "verdict"] == "no difference"
        assert rows.loc[("worse", probe, "mean"), "verdict"] == "harmed"
        assert pd.isna(rows.loc[("sparse-only", probe, "mean"), "difference"])
        assert pd.isna(rows.loc[("sparse-only", probe, "mean"), "verdict"])


def test_scores_lie_in_their_intervals_and_the_mean_is_that_of_the_markers(evaluated: DrawnResults) -> None:
    rows = table(evaluated)
    assert ((rows.low <= rows.score) & (rows.score <= rows.high)).all()
    for run in RUNS:
        markers = rows.loc[run, "ridge"].drop("mean")
        assert rows.loc[(run, "ridge", "mean"), "score"] == pytest.approx(markers.score.mean(), abs=2e-4)
    difference = rows.loc[("distilled", "knn", "CD45"), "score"] - rows.loc[("sparse-only", "knn", "CD45"), "score"]
    assert rows.loc[("distilled", "knn", "CD45"), "difference"] == pytest.approx(difference, abs=2e-4)


def test_the_ridge_score_approaches_what_the_noise_allows(evaluated: DrawnResults) -> None:
    assert table(evaluated).loc[("distilled", "ridge", "mean"), "score"] > 0.85


def test_only_held_out_pairs_are_scored_and_a_slide_without_the_marker_is_skipped(evaluated: DrawnResults) -> None:
    rows = table(evaluated).loc["distilled", "ridge"]
    assert (rows.test_patches == 256 - 3).all()
    assert (rows.test_slides == 1).all()
    assert rows.loc["DAPI", "train_patches"] == 3 * (256 - 3)
    assert rows.loc["CD45", "train_patches"] == 2 * (256 - 3)


def test_details_tell_the_choices_and_have_no_nan(evaluated: DrawnResults) -> None:
    text = (evaluated.results / "evaluate/details.json").read_text()
    assert "NaN" not in text
    details = json.loads(text)
    assert details["baseline"] == "sparse-only"
    assert details["held_out"]["a1"]["blocks"] == 16
    assert details["provenance"]["stage"] == "evaluate"
    first = details["rows"][0]
    assert first["penalty"] > 0
    assert set(first["per_slide"]) == {"a1"}
    assert first["spearman"] == pytest.approx(first["score"], abs=0.1)


def test_held_out_truth_reaches_no_prediction(evaluated: DrawnResults, tmp_path: Path) -> None:
    """Other intensities in the held-out slide, another unit: the same scores."""
    slides = (type(COHORT[0])("a1", "A", 0, unit=50000.0), *COHORT[1:])
    drawn = draw_stores(tmp_path, slides)
    draw_features(drawn, "distilled", 1.0, seed=1)
    draw_features(drawn, "sparse-only", 4.0, seed=2)
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only")]) == 0
    ours, theirs = table(drawn).score, table(evaluated).score.loc[["distilled", "sparse-only"]]
    np.testing.assert_allclose(ours.sort_index(), theirs.sort_index(), atol=0.02)


def test_equal_inputs_give_equal_bytes(drawn: DrawnResults) -> None:
    folder = drawn.results / "evaluate"
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_a_cohort_without_the_baseline_run_gets_scores_and_no_comparison(drawn: DrawnResults) -> None:
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    rows = table(drawn)
    assert rows.difference.isna().all()
    assert rows.verdict.isna().all()
    assert rows.score.notna().all()


def test_fewer_patches_to_fit_on_are_drawn_evenly(drawn: DrawnResults) -> None:
    arguments = [*drawn.arguments("distilled"), "--settings", '{"max_train_patches": 90}']
    assert main(["evaluate", *arguments]) == 0
    assert table(drawn).loc[("distilled", "ridge", "DAPI"), "train_patches"] == 90


def test_no_run_to_compare_with_is_said_and_a_misspelt_one_is_refused(
    drawn: DrawnResults, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    assert "no run to compare with (evaluate.baseline), so no verdicts; runs: distilled" in capsys.readouterr().err
    assert main(["evaluate", *drawn.arguments("distilled"), "--settings", '{"baseline": "destilled"}']) == 1
    assert "did you mean distilled?" in capsys.readouterr().err


def test_a_marker_called_mean_shares_no_line_with_the_mean(tmp_path: Path) -> None:
    slides = tuple(
        replace(slide, markers=tuple("Mean" if m == "CD45" else m for m in slide.markers)) for slide in COHORT
    )
    drawn = draw_stores(tmp_path, slides)
    draw_features(drawn, "distilled", 1.0)
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    rows = table(drawn).loc["distilled", "ridge"]
    assert set(rows.index) == {"DAPI", "Pan-CK", "Mean (not the mean)", "mean"}
    assert rows.score["mean"] == pytest.approx(rows.score.drop("mean").mean(), abs=1e-4)


def test_a_marker_that_few_blocks_show_has_a_reason_in_place_of_an_interval(tmp_path: Path) -> None:
    """A second held-out slide of four blocks is the only one there with CD45."""
    slides = (
        replace(COHORT[0], markers=("DAPI", "Pan-CK")),
        replace(COHORT[0], slide="a2", columns=10, rows=10),
        *COHORT[1:],
    )
    drawn = draw_stores(tmp_path, slides)
    for seed, (run, noise) in enumerate((("distilled", 1.0), ("sparse-only", 4.0))):
        draw_features(drawn, run, noise, slides=slides, seed=seed)
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only")]) == 0
    rows = table(drawn).loc["distilled", "ridge"]
    assert rows.blocks[["DAPI", "CD45", "mean"]].tolist() == [20, 4, 20]
    assert rows.loc["CD45", ["low", "difference_low", "verdict"]].isna().all()
    assert rows.loc["CD45", "note"] == "no interval: shown on 4 blocks of tissue, at least 6 are needed"
    assert rows.loc["mean", "verdict"] == "helped"
    assert pd.isna(rows.loc["mean", "note"])
    details = json.loads((drawn.results / "evaluate/details.json").read_text())
    mean = next(row for row in details["rows"] if row["target"] == "mean" and row["run"] == "distilled")
    assert set(mean["per_slide"]) == {"a2"}, "the mean of a slide without CD45 is of other markers"
    assert (mean["test_slides"], mean["test_patches"]) == (2, 253 + 97)


@pytest.mark.parametrize("block_um", [1e6, 800.0])
def test_too_few_blocks_of_tissue_give_no_interval_and_no_verdict(drawn: DrawnResults, block_um: float) -> None:
    """Of the held-out slide, 1600 um wide and high, the upper half: one block, or two."""
    draw_features(drawn, "sparse-only", 4.0)
    path = drawn.results / "split/patches.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.loc[(rows.slide == "a1") & (rows.row >= 128), "pair_quality"] = 0
    rows.to_csv(path, sep="\t", index=False)
    arguments = [*drawn.arguments("distilled", "sparse-only"), "--settings", json.dumps({"block_um": block_um})]
    assert main(["evaluate", *arguments]) == 0
    rows = table(drawn)
    assert rows[["low", "high", "difference_low", "verdict"]].isna().all(axis=None)
    assert rows.score.notna().all()


@pytest.mark.parametrize(
    ("ends", "per_seed", "verdict"),
    [
        ((0.01, 0.2), (0.1,), "helped"),
        ((0.01, 0.2), (0.1, 0.02, 0.3), "helped"),
        ((0.01, 0.2), (0.3, -0.01), "no difference"),
        ((-0.1, 0.2), (0.1, 0.1), "no difference"),
        ((-0.2, -0.01), (-0.1,), "harmed"),
        ((-0.2, -0.01), (-0.3, 0.1), "no difference"),
        ((np.nan, np.nan), (0.1,), ""),
    ],
)
def test_the_verdict_asks_that_the_interval_excludes_zero_and_all_seeds_agree(
    ends: tuple[float, float], per_seed: tuple[float, ...], verdict: str
) -> None:
    assert verdict_of(Interval(*ends), per_seed) == verdict


@pytest.fixture(scope="module")
def with_seeds(tmp_path_factory: pytest.TempPathFactory) -> DrawnResults:
    """Two seeds of a run that is better by much, of a baseline, and of a run that is better in one seed only."""
    drawn = draw_stores(tmp_path_factory.mktemp("seeds"))
    noises = {"distilled": (1.0, 1.5), "sparse-only": (4.0, 4.0), "unsteady": (1.0, 9.0)}
    names = []
    for run, (first, second) in noises.items():
        for name, noise in ((run, first), (f"{run}-seed1", second)):
            draw_features(drawn, name, noise, seed=len(names))
            names.append(name)
    repeats = [f"{name}={name.removesuffix('-seed1')}" for name in names if name.endswith("-seed1")]
    assert main(["evaluate", *drawn.arguments(*names), "--repeats", *repeats]) == 0
    return drawn


def test_the_seeds_of_a_run_make_one_row_with_their_mean_and_spread(with_seeds: DrawnResults, tmp_path: Path) -> None:
    rows = table(with_seeds)
    assert set(rows.index.get_level_values("run")) == {"distilled", "sparse-only", "unsteady"}
    assert (rows.seeds == 2).all()
    alone = draw_stores(tmp_path)
    draw_features(alone, "distilled", 1.0, seed=0)
    draw_features(alone, "distilled-seed1", 1.5, seed=1)
    assert main(["evaluate", *alone.arguments("distilled", "distilled-seed1")]) == 0
    scores = table(alone).score
    for target in (*MARKERS, "mean"):
        each = [scores[name, "ridge", target] for name in ("distilled", "distilled-seed1")]
        row = rows.loc[("distilled", "ridge", target)]
        assert row.score == pytest.approx(np.mean(each), abs=1e-4)
        assert (row.seed_low, row.seed_high) == pytest.approx((min(each), max(each)), abs=1e-4)


def test_a_gain_in_one_seed_and_a_loss_in_the_other_is_no_gain(with_seeds: DrawnResults) -> None:
    rows = table(with_seeds)
    assert rows.loc[("distilled", "ridge", "mean"), "verdict"] == "helped"
    assert rows.loc[("distilled", "ridge", "mean"), "disjoint"] == "yes"
    assert rows.loc[("unsteady", "ridge", "mean"), "verdict"] == "no difference"
    assert rows.loc[("unsteady", "ridge", "mean"), "seed_low"] < rows.loc[("sparse-only", "ridge", "mean"), "seed_low"]
    details = json.loads((with_seeds.results / "evaluate/details.json").read_text())
    row = next(item for item in details["rows"] if (item["run"], item["target"]) == ("unsteady", "mean"))
    assert row["difference_per_seed"][0] > 0 > row["difference_per_seed"][1]
    assert row["difference"] == pytest.approx(np.mean(row["difference_per_seed"]))


@pytest.mark.parametrize("words", ["distilled", "nobody=distilled", "distilled=nobody"])
def test_repetitions_that_name_no_run_are_refused(
    drawn: DrawnResults, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *drawn.arguments("distilled"), "--repeats", words]) == 1
    assert "--repeats" in capsys.readouterr().err


def test_no_held_out_pairs_is_a_stated_error(drawn: DrawnResults, capsys: pytest.CaptureFixture[str]) -> None:
    path = drawn.results / "split/patches.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.loc[rows.fold == HELD_OUT_FOLD, "pair_quality"] = 0
    rows.to_csv(path, sep="\t", index=False)
    assert "held-out" in error_of(capsys, drawn, "distilled")


def test_a_run_without_features_is_a_stated_error(drawn: DrawnResults, capsys: pytest.CaptureFixture[str]) -> None:
    text = error_of(capsys, drawn, "distilled", "sparse-only")
    assert "run sparse-only" in text
    assert "features of distilled" in text


def test_a_slide_without_features_is_a_stated_error(drawn: DrawnResults, capsys: pytest.CaptureFixture[str]) -> None:
    (drawn.results / "embed/distilled/c1.h5").unlink()
    assert "slide c1" in error_of(capsys, drawn, "distilled")


@pytest.mark.parametrize("broken", ["cut", "no features", "no coords", "a number", "a group", "whole numbers"])
def test_a_broken_features_file_is_a_stated_error_that_names_slide_and_file(
    drawn: DrawnResults, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = drawn.results / "embed/distilled/b1.h5"
    if broken == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        with h5py.File(path, "r+") as file:
            features = file["features"][...]
            del file["coords" if broken == "no coords" else "features"]
            made = {"a number": np.float32(3), "whole numbers": features.astype(np.int64)}
            if broken == "a group":
                file.create_group("features")
            elif broken in made:
                file["features"] = made[broken]
    text = error_of(capsys, drawn, "distilled")
    assert text.startswith(
        f"error: slide b1, file {path}: expected an HDF5 file with features (N, D) and coords (N, 2)"
    )


def test_features_of_other_patches_are_a_stated_error(drawn: DrawnResults, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(drawn.results / "embed/distilled/b1.h5", "r+") as file:
        file["coords"][4, 0] += 1
    assert "slide b1" in error_of(capsys, drawn, "distilled")


def test_features_of_another_run_are_a_stated_error(drawn: DrawnResults, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(drawn.results / "embed/distilled/a1.h5", "r+") as file:
        file["coords"].attrs["encoder_run"] = "shuffled"
    text = error_of(capsys, drawn, "distilled")
    assert "encoder of run distilled, found of shuffled" in text


def test_features_of_another_encoder_are_a_stated_error(
    drawn: DrawnResults, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(drawn.results / "embed/distilled/c1.h5", "r+") as file:
        file.attrs["encoder"] = "other"
    text = error_of(capsys, drawn, "distilled")
    assert "slide c1" in text
    assert "one encoder" in text


def test_a_marker_under_two_names_is_one_target_over_the_slides_that_have_it(tmp_path: Path) -> None:
    renamed = {"b1": ("Hoechst", "ptprc", "Pan Cytokeratin"), "b2": ("dna-1", "panck")}
    slides = tuple(replace(slide, markers=renamed.get(slide.slide, slide.markers)) for slide in COHORT)
    drawn = draw_stores(tmp_path, slides)
    draw_features(drawn, "distilled", 1.0)
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    rows = table(drawn).loc["distilled", "ridge"]
    assert set(rows.index) == {*MARKERS, "mean"}
    assert rows.loc["DAPI", "train_patches"] == 3 * (256 - 3)
    assert rows.loc["CD45", "train_patches"] == 2 * (256 - 3)
    arguments = [*drawn.arguments("distilled"), "--panel", '{"known_aliases": false}']
    assert main(["evaluate", *arguments]) == 0
    assert {"dna-1", "ptprc"} < set(table(drawn).loc["distilled", "ridge"].index)
