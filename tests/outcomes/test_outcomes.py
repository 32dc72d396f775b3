from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from benchmarks.drawn_patients import DrawnPatients, draw_patients, draw_run, write_run, write_table
from pipeline.cli import main
from pipeline.embedding.pooling import SlideVector, mean_and_std, write_slide_vectors
from pipeline.outcomes.bags import Bags
from pipeline.outcomes.concordance import concordance_parts
from pipeline.outcomes.cox import fit_cox, partial_likelihood
from pipeline.outcomes.folds import stratified_folds
from pipeline.outcomes.linear import cross_validated
from pipeline.outcomes.row import read_outcome_rows
from pipeline.outcomes.task import OutcomeTask
from pipeline.outcomes.vectors import read_slide_vectors

RUNS = {"sparse-only": 50.0, "distilled": 0.1, "shuffled": 50.0}
SETTINGS = {"numbers": ["number"], "survival": {"overall": ["months", "death"]}, "repeats": 1}


def asked(folder: Path, *, table: Path, **settings: object) -> int:
    outs = [f"--out-{name}={folder / name}" for name in ("summary", "details", "predictions")]
    words = ["outcomes", "--embeddings", str(folder / "embed"), "--runs", *RUNS, "--baseline", "sparse-only"]
    return main([*words, "--table", str(table), *outs, "--settings", json.dumps(SETTINGS | settings)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DrawnPatients]:
    folder, rng = tmp_path_factory.mktemp("patients"), default_rng(3)
    patients = draw_patients(50, 4.0, rng)
    for run, mistaken in RUNS.items():
        write_run(folder / "embed" / run, patients, draw_run(patients, mistaken, 80, 16, rng))
    write_table(folder / "patients.csv", patients)
    return folder, patients


def test_a_run_that_sees_more_helps_and_one_that_does_not_has_no_verdict_for_it(
    drawn: tuple[Path, DrawnPatients],
) -> None:
    folder, _ = drawn
    assert asked(folder, table=folder / "patients.csv", attention_epochs=0) == 0
    rows = {(row.outcome, row.run, row.probe): row for row in read_outcome_rows(folder / "summary")}
    for outcome in ("label", "number", "overall"):
        assert rows[outcome, "distilled", "mean"].verdict == "helped"
        assert rows[outcome, "shuffled", "mean"].verdict == "no difference"
        assert rows[outcome, "sparse-only", "mean"].verdict == ""
        better = rows[outcome, "distilled", "mean"]
        assert better.within.low < better.score < better.within.high
        assert math.isclose(better.difference, better.score - rows[outcome, "sparse-only", "mean"].score, abs_tol=2e-4)


def test_scores_are_those_of_the_predictions_of_patients_not_fitted_on(drawn: tuple[Path, DrawnPatients]) -> None:
    folder, patients = drawn
    assert asked(folder, table=folder / "patients.csv", attention_epochs=0) == 0
    with (folder / "predictions").open() as stream:
        lines = [line for line in csv.DictReader(stream, delimiter="\t") if line["run"] == "distilled"]
    ours = [line for line in lines if (line["outcome"], line["probe"], line["class"]) == ("label", "mean", "high")]
    assert [line["patient"] for line in ours] == list(patients.names)
    area = roc_auc_score([line["known"] == "high" for line in ours], [float(line["predicted"]) for line in ours])
    rows = {(row.outcome, row.run, row.probe): row for row in read_outcome_rows(folder / "summary")}
    assert rows["label", "distilled", "mean"].score == pytest.approx(area, abs=2e-3)  # ties of four decimals


def test_the_same_inputs_give_the_same_bytes(drawn: tuple[Path, DrawnPatients]) -> None:
    folder, _ = drawn
    found = []
    for _ in range(2):
        assert asked(folder, table=folder / "patients.csv", attention_epochs=1, numbers=[], survival={}) == 0
        found.append([(folder / name).read_bytes() for name in ("summary", "details", "predictions")])
    assert found[0] == found[1]


def test_under_20_patients_there_is_no_score(drawn: tuple[Path, DrawnPatients], tmp_path: Path) -> None:
    folder, patients = drawn
    lines = (folder / "patients.csv").read_text().splitlines()
    few = [lines[0], *lines[1:20], *(f"{name},,,," for name in patients.names[19:])]
    path = tmp_path / "few.csv"
    path.write_text("\n".join(few) + "\n")
    for features in (folder / "embed/distilled").glob("*.h5"):
        assert features.exists()
    assert asked(folder, table=path) == 0  # in no time, for nothing is fitted
    rows = read_outcome_rows(folder / "summary")
    assert {row.patients for row in rows} == {19}
    assert all(math.isnan(row.score) and row.note.startswith("too few") for row in rows)
    assert len(rows) == 3 * len(RUNS)


def test_attention_finds_what_a_few_patches_show() -> None:
    rng = default_rng(0)
    patients = draw_patients(60, 4.0, rng)
    from pipeline.outcomes.attention import predict_from

    task = OutcomeTask.of(patients.outcomes["class"])
    bags = {}
    for name, label in zip(patients.names, task.labels, strict=True):
        features = rng.normal(size=(100, 8)).astype(np.float32)
        features[:8, 0] += 6  # patches that matter, in everyone
        features[:8, 1] += 3 * (2 * label - 1)
        features[8:, 1] -= 0.26 * (2 * label - 1)  # so that the mean over all patches shows nothing
        bags[name] = features
    folds = stratified_folds(task.strata(), 3, default_rng(0))
    found = predict_from(bags, bags.__getitem__, task, 30, folds, 0, "cpu")
    assert task.parts(found).score[0] > 0.9
    means = np.stack([mean_and_std(bags[name])[0] for name in patients.names])
    assert task.parts(cross_validated(means, task, [1.0], folds, 0)).score[0] < 0.75


def test_cox_finds_what_scikit_survival_finds() -> None:
    rng = default_rng(1)
    features = rng.normal(size=(50, 6))
    time = rng.exponential(np.exp(-features[:, 0])).round(1)
    event = rng.random(50) < 0.7
    # CoxPHSurvivalAnalysis(alpha=2.5, ties="breslow", tol=1e-12) of scikit-survival 0.28.0.
    peer = [1.20703926, -0.1748201, -0.21891851, -0.37548944, -0.29215853, 0.0653477]
    np.testing.assert_allclose(fit_cox(features, time, event, 2.5), peer, atol=1e-4)


def test_the_partial_likelihood_is_that_of_the_definition_and_its_gradient_too() -> None:
    rng = default_rng(2)
    risk, time, event = rng.normal(size=30) * 3, rng.exponential(size=30).round(1), rng.random(30) < 0.6
    expected = -sum(risk[i] - np.log(np.exp(risk[time >= time[i]]).sum()) for i in np.flatnonzero(event))
    loss, gradient = partial_likelihood(risk, time, event)
    assert loss == pytest.approx(expected, rel=1e-12)
    step = 1e-6 * np.eye(30)
    slopes = [
        (partial_likelihood(risk + d, time, event)[0] - partial_likelihood(risk - d, time, event)[0]) / 2e-6
        for d in step
    ]
    np.testing.assert_allclose(gradient, slopes, atol=1e-6)


def test_concordance_counts_pairs_and_its_parts_are_what_leaving_a_patient_out_takes() -> None:
    rng = default_rng(4)
    time, event, risk = rng.exponential(size=40).round(1), rng.random(40) < 0.7, rng.normal(size=40).round(1)
    right = pairs = 0.0
    for i in range(40):
        for j in range(40):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    parts = concordance_parts(risk, time, event)
    assert parts.score[0] == pytest.approx(right / pairs)
    assert parts.share.sum() == pytest.approx(1)
    assert parts.influence.sum() == pytest.approx(0, abs=1e-12)
    without = [
        concordance_parts(np.delete(risk, i), np.delete(time, i), np.delete(event, i)).score[0] for i in range(40)
    ]
    assert spearmanr(parts.influence[:, 0], parts.score[0] - np.array(without)).statistic > 0.99


def test_folds_share_out_patients_and_strata_evenly() -> None:
    strata = np.repeat([0, 1, 2], [23, 9, 2])
    folds = stratified_folds(strata, 5, default_rng(0))
    assert np.ptp(np.bincount(folds)) <= 1
    for stratum in range(3):
        assert np.ptp(np.bincount(folds[strata == stratum], minlength=5)) <= 1


def test_a_patient_s_vector_is_that_of_all_its_patches(tmp_path: Path) -> None:
    rng = default_rng(5)
    features = {name: rng.normal(size=(count, 3)).astype(np.float32) for name, count in (("a", 5), ("b", 40), ("c", 7))}
    owner = {"a": "P", "b": "P", "c": "Q"}
    vectors = [
        SlideVector(name, owner[name], len(own), "recipe", "encoder", *mean_and_std(own))
        for name, own in features.items()
    ]
    write_slide_vectors(vectors, tmp_path / "slides.parquet", {})
    found = read_slide_vectors(tmp_path / "slides.parquet").of_patients(["Q", "P"])
    whole = np.concatenate([features["a"], features["b"]])
    np.testing.assert_allclose(found["mean"][1], whole.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found["mean_std"][1], [*whole.mean(axis=0), *whole.std(axis=0)], atol=1e-6)
    np.testing.assert_allclose(found["mean"][0], features["c"].mean(axis=0), atol=1e-6)


def test_features_of_another_encoder_are_refused(tmp_path: Path, drawn: tuple[Path, DrawnPatients]) -> None:
    _, patients = drawn
    slide = f"s-{patients.names[0]}"
    with h5py.File(tmp_path / f"{slide}.h5", "w") as file:
        file["features"] = np.zeros((3, 2), np.float32)
        file.attrs["encoder"] = "other"
    from pipeline.errors import StatedError

    with pytest.raises(StatedError, match="of encoder other"):
        Bags(tmp_path, {"P": [slide]}, "distilled").all_of("P")
