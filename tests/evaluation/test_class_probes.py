"""Class probes of a cohort of masks: against scikit-learn, against known truth, and what the table says of them."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn_store import write_store
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from pipeline.cli import main
from pipeline.evaluation.bootstrap import resample_counts
from pipeline.evaluation.class_probes import Standard, fit_logistic
from pipeline.evaluation.class_scores import area_parts, areas, block_weights, recall_parts, recalls, resampled
from pipeline.evaluation.mlp_probe import fit_mlp, predict_mlp

CLASSES = ("tumour", "stroma", "glass", "never")
ALIKE = (0.5, 0.3, 0.2)


def _problem(seed: int, rows: int = 300, width: int = 8, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, rows, p=ALIKE)
    centres = np.random.default_rng(7).normal(size=(3, width))
    features = gap * centres[labels] + rng.normal(size=(rows, width))
    return (features * 5 + 100).astype(np.float32), labels


def test_the_linear_probe_is_scikit_learns_balanced_logistic_regression() -> None:
    x, labels = _problem(0)
    standard = Standard.of(x)(x)
    peer = LogisticRegression(C=8 * 3 / 100, class_weight="balanced", tol=1e-8, max_iter=10_000).fit(standard, labels)
    mine = fit_logistic(standard, labels, 3)
    np.testing.assert_allclose(mine.predict(standard), peer.predict_proba(standard), atol=2e-3)


def test_the_mlp_tells_apart_what_no_line_does_and_is_the_same_with_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(2 * 128 + 1, 4)), rng.normal(size=(400, 4))  # the last batch is of one row
    labels, truth = (((values[:, 0] > 0) ^ (values[:, 1] > 0)).astype(np.int64) for values in (x, asked))
    found = predict_mlp(fit_mlp(x, labels, 2, 60, seed=3), asked)
    assert found.sum(axis=1) == pytest.approx(np.ones(400))
    assert (found.argmax(axis=1) == truth).mean() > 0.85
    line = fit_logistic(x, labels, 2).predict(asked)
    assert (line.argmax(axis=1) == truth).mean() < 0.65
    np.testing.assert_array_equal(found, predict_mlp(fit_mlp(x, labels, 2, 60, seed=3), asked))
    assert not np.array_equal(found, predict_mlp(fit_mlp(x, labels, 2, 60, seed=4), asked))


def test_scores_are_those_of_scikit_learn_and_weights_count_as_copies() -> None:
    _, truth = _problem(1)
    rng = np.random.default_rng(0)
    scores = np.round(rng.dirichlet((1, 1, 1), 300) + 0.3 * np.eye(3)[truth], 1)  # many ties
    copies = rng.integers(0, 4, 300)
    again = np.repeat(np.arange(300), copies)
    weights = np.stack([np.ones(300), copies])
    for row, rows in enumerate((np.arange(300), again)):
        expected = [roc_auc_score(truth[rows] == index, scores[rows, index]) for index in range(3)]
        np.testing.assert_allclose(areas(truth, scores, weights)[row], expected, rtol=1e-10)
        guess = scores.argmax(axis=1)
        found = recalls(truth, (guess == truth).astype(float), 3, weights)[row]
        np.testing.assert_allclose(found, recall_score(truth[rows], guess[rows], average=None), rtol=1e-10)
        assert found.mean() == pytest.approx(balanced_accuracy_score(truth[rows], guess[rows]))


def test_a_resample_draws_whole_blocks_of_each_slide() -> None:
    blocks = [np.array([0, 0, 1]), np.array([0, 1, 2, 2])]
    counts = resample_counts([2, 3], 200, seed=3)
    weights = block_weights(blocks, counts, slice(None))
    assert weights.shape == (200, 7)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, 5], weights[:, 6])
    assert set(np.unique(weights)) == {0, 1}
    np.testing.assert_array_equal(resampled(lambda part: part[:, :2], blocks, counts), weights[:, :2])


def test_what_patches_contribute_sums_to_the_scores_and_tells_how_they_change() -> None:
    """The influence of a patch is the derivative of the score by its weight, here by central differences."""
    _, truth = _problem(1, rows=60)
    scores = np.round(np.random.default_rng(0).dirichlet((1, 1, 1), 60) + 0.3 * np.eye(3)[truth], 1)
    hits = (scores.argmax(axis=1) == truth).astype(float)

    def measured(weights: np.ndarray) -> np.ndarray:
        return np.stack([recalls(truth, hits, 3, weights), areas(truth, scores, weights)])

    step = 1e-5 * np.eye(60)
    change = (measured(1 + step) - measured(1 - step)) / 2e-5
    alike = measured(np.ones((1, 60)))[:, 0]
    for parts, expected, score in zip(
        (recall_parts(truth, hits, 3), area_parts(truth, scores)), change, alike, strict=True
    ):
        np.testing.assert_allclose(parts.score, score, rtol=1e-10)
        np.testing.assert_allclose(parts.influence, expected, atol=1e-7)
        np.testing.assert_allclose(parts.share.sum(axis=0), 1)


def test_the_linear_probe_of_two_classes_is_penalised_as_that_of_more() -> None:
    """Softmax with a penalty on both classes' weights, by an optimiser of its own."""
    x, labels = _problem(0)
    standard, two = Standard.of(x)(x), np.minimum(labels, 1)
    weight = len(two) / (2 * np.bincount(two)[two])

    def loss(flat: np.ndarray) -> float:
        weights, intercept = flat[:16].reshape(8, 2), flat[16:]
        chance = log_softmax(standard @ weights + intercept, axis=1)[np.arange(len(two)), two]
        return float(-(weight * chance).sum() + 100 / (8 * 2) / 2 * (weights**2).sum())

    best = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-4}).x
    expected = softmax(standard @ best[:16].reshape(8, 2) + best[16:], axis=1)
    np.testing.assert_allclose(fit_logistic(standard, two, 2).predict(standard), expected, atol=2e-3)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of masks; in `clear` the class is plain in the features, in `sparse-only` it is not."""
    folder = tmp_path_factory.mktemp("classes")
    table = []
    for number, slide in enumerate(("test", "one", "two")):
        clear, labels = _problem(number, rows=256, gap=3.0)
        faint, _ = _problem(number, rows=256, gap=0.5)
        shares = np.zeros((256, len(CLASSES)))
        shares[np.arange(256), labels] = 0.9
        shares[:20] = 0.25  # no class covers more than half
        y, x = np.divmod(np.arange(256), 16)
        position = np.stack([x, y], axis=1) * 100
        write_store(
            folder / f"tile/{slide}.zarr",
            sparse=np.zeros((256, 16, 16, 3), np.uint8),
            dense=np.zeros((256, 1, 16, 16), np.uint8),
            slide=slide,
            markers=CLASSES,
            position_px=position,
            dense_kind="mask",
            marker_mean=shares,
        )
        for run, features in (("clear", clear), ("sparse-only", faint)):
            path = folder / f"embed/{run}/{slide}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["features"], file["coords"] = features, position
                file.attrs["encoder"] = run
        table += [(slide, row, slide, number, 1.0) for row in range(256)]
    columns = ["slide", "row", "patient", "fold", "pair_quality"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "patches.tsv", sep="\t", index=False)
    argv = ["evaluate", "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv")]
    argv += ["--embeddings", str(folder / "embed"), "--runs", "clear", "sparse-only"]
    argv += ["--out-summary", str(folder / "summary.tsv"), "--out-details", str(folder / "details.json")]
    settings = {"bootstrap": 100, "labels": [3, 15, 5000], "label_draws": 4, "mlp_epochs": 5}
    assert main([*argv, "--settings", json.dumps(settings)]) == 0
    return folder


def test_the_table_has_class_probes_beside_the_shares_and_says_what_the_scores_are(results: Path) -> None:
    rows = pd.read_csv(results / "summary.tsv", sep="\t").set_index(["run", "probe", "target"]).sort_index()
    probes = {
        "class-mlp",
        "class-mlp-auc",
        "class-linear",
        "class-linear-auc",
        "class-knn",
        "class-knn-auc",
        "class-linear-3-labels",
        "class-linear-15-labels",
    }
    markers = {"ridge", "knn", "ridge-3-labels", "ridge-15-labels"}
    assert set(rows.loc["clear"].index.get_level_values("probe")) == markers | probes
    for probe in probes:
        own = rows.loc["clear", probe]
        assert set(own.index) == {*CLASSES[:3], "mean"}
        assert own.score["mean"] == pytest.approx(own.score[list(CLASSES[:3])].mean(), abs=2e-4)
        assert ((own.low <= own.score) & (own.score <= own.high)).all()
        assert own.verdict["mean"] == "helped"
    assert rows.loc[("clear", "class-linear", "mean"), "metric"] == "balanced_accuracy"
    assert rows.loc[("clear", "class-linear", "mean"), "score"] > 0.95
    assert rows.loc[("clear", "class-knn-auc", "stroma"), "metric"] == "auc"
    assert (
        rows.loc[("clear", "class-linear-3-labels", "mean"), "score"]
        < rows.loc[("clear", "class-linear-15-labels", "mean"), "score"]
    )
    assert rows.loc[("clear", "class-linear-15-labels", "mean"), "train_patches"] == 15
    assert rows.loc[("clear", "class-linear", "mean"), "train_patches"] == 2 * 236
    assert rows.loc[("clear", "class-linear", "mean"), "test_patches"] == 236


def test_the_linear_row_is_what_scikit_learn_makes_of_the_same_patches(results: Path) -> None:
    features, labels = {}, {}
    for number, slide in enumerate(("test", "one", "two")):
        with h5py.File(results / f"embed/sparse-only/{slide}.h5") as file:
            features[slide] = np.asarray(file["features"])
        labels[slide] = _problem(number, rows=256)[1][20:]
    fit = np.concatenate([features["one"], features["two"]])
    mean, std = fit.mean(axis=0), fit.std(axis=0)
    standard = {slide: (values[20:] - mean) / std for slide, values in features.items()}
    peer = LogisticRegression(C=8 * 3 / 100, class_weight="balanced", tol=1e-8, max_iter=10_000)
    peer.fit(np.concatenate([standard["one"], standard["two"]]), np.concatenate([labels["one"], labels["two"]]))
    rows = pd.read_csv(results / "summary.tsv", sep="\t").set_index(["run", "probe", "target"]).score
    expected = balanced_accuracy_score(labels["test"], peer.predict(standard["test"]))
    assert rows["sparse-only", "class-linear", "mean"] == pytest.approx(expected, abs=0.01)
    area = roc_auc_score(labels["test"], peer.predict_proba(standard["test"]), multi_class="ovr")
    assert rows["sparse-only", "class-linear-auc", "mean"] == pytest.approx(area, abs=2e-3)


def test_details_tell_the_patches_of_each_class_and_the_spread_of_the_draws(results: Path) -> None:
    details = json.loads((results / "details.json").read_text())
    assert set(details["classes"]) == set(CLASSES[:3])
    assert sum(item["test_patches"] for item in details["classes"].values()) == 236
    spread = {row["probe"]: row["draw_std"] for row in details["rows"] if row["target"] == "mean"}
    assert spread["class-linear"] is None
    assert spread["ridge"] is None
    assert min(spread["class-linear-3-labels"], spread["class-linear-15-labels"]) > 0
