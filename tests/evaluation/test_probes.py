"""The probes against scikit-learn and against known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.class_probes import Standard
from pipeline.evaluation.probes import fit_knn, fit_ridge, moments


def problem(seed: int = 0, rows: int = 200, width: int = 10, targets: int = 3, noise: float = 0.5):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, width)) * rng.uniform(0.1, 20, width) + rng.normal(size=width) * 50).astype(np.float32)
    standard = (x - x.mean(0)) / x.std(0)
    y = standard @ rng.normal(size=(width, targets)) + noise * rng.normal(size=(rows, targets)) + 3
    return x, y, rng.integers(0, 4, rows)


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1e4])
def test_ridge_predicts_as_scikit_learn_does(penalty: float) -> None:
    x, y, groups = problem()
    peer = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(x.astype(np.float64), y)
    mine = fit_ridge(x, y, groups, [penalty])
    np.testing.assert_allclose(mine.predict(x), peer.predict(x.astype(np.float64)), atol=1e-4)


def test_the_penalty_is_the_one_that_predicts_left_out_groups_best() -> None:
    penalties = [0.1, 1.0, 10.0, 100.0, 1000.0]
    chosen = set()
    for seed, noise in enumerate((0.1, 5.0, 20.0)):
        x, y, groups = problem(seed, rows=60, width=30, noise=noise)
        errors = []
        for penalty in penalties:
            peer = make_pipeline(StandardScaler(), Ridge(alpha=penalty))
            guess = cross_val_predict(peer, x.astype(np.float64), y, groups=groups, cv=LeaveOneGroupOut())
            errors.append(((guess - y) ** 2).sum(axis=0))
        expected = np.asarray(penalties)[np.argmin(errors, axis=0)]
        np.testing.assert_array_equal(fit_ridge(x, y, groups, penalties).penalty, expected)
        chosen |= set(expected)
    assert len(chosen) > 1, "the problems must need different penalties, or the test says nothing"


def test_ridge_finds_the_truth_and_ignores_a_constant_feature() -> None:
    x, y, groups = problem(noise=0.0)
    x = np.hstack([x, np.full((len(x), 1), 7e6, np.float32)])
    probe = fit_ridge(x, y, groups, [1e-4])
    np.testing.assert_allclose(probe.predict(x), y, atol=1e-2)
    np.testing.assert_array_equal(probe.weights[-1], 0)


def test_ridge_with_more_features_than_rows() -> None:
    x, y, groups = problem(rows=20, width=80)
    peer = make_pipeline(StandardScaler(), Ridge(alpha=5.0)).fit(x.astype(np.float64), y)
    mine = fit_ridge(x, y, groups, [5.0])
    np.testing.assert_allclose(mine.predict(x), peer.predict(x.astype(np.float64)), atol=1e-3)


def test_ridge_takes_the_middle_penalty_where_no_choice_is_possible() -> None:
    x, y, _ = problem()
    assert set(fit_ridge(x, y, np.zeros(len(x), np.int64), [100.0, 1.0, 10.0]).penalty) == {10.0}


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 49), seed=st.integers(0, 99))
def test_moments_of_parts_add_up_to_those_of_the_whole(cut: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(50, 2))
    whole, parts = moments(x, y), moments(x[:cut], y[:cut]) + moments(x[cut:], y[cut:])
    for name in vars(whole):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-9)


@pytest.mark.parametrize("neighbours", [1, 7, 500])
def test_knn_predicts_as_scikit_learn_does(neighbours: int) -> None:
    x, y, _ = problem()
    new = problem(seed=1)[0]
    scaler = StandardScaler().fit(x.astype(np.float64))
    peer = KNeighborsRegressor(min(neighbours, len(x)), metric="cosine", algorithm="brute")
    peer.fit(scaler.transform(x), y)
    mine = fit_knn(x, y, neighbours)
    np.testing.assert_allclose(mine.predict(new), peer.predict(scaler.transform(new)), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e6, 1e12])
def test_no_probe_depends_on_the_unit_of_a_feature(factor: float) -> None:
    x, y, groups = problem()
    wide = x.copy()
    wide[:, 0] *= np.float32(factor)
    penalties = [1.0, 10.0]
    ridge, other = fit_ridge(x, y, groups, penalties), fit_ridge(wide, y, groups, penalties)
    # float32 features are rounded anew by the factor.
    np.testing.assert_allclose(other.predict(wide), ridge.predict(x), atol=1e-3)
    assert np.count_nonzero(other.weights) == other.weights.size
    np.testing.assert_allclose(fit_knn(wide, y, 5).predict(wide), fit_knn(x, y, 5).predict(x), atol=1e-12)
    np.testing.assert_allclose(Standard.of(wide)(wide), Standard.of(x)(x), atol=1e-3)


@pytest.mark.parametrize("constant", [0.1, -7e6, 3e-9])
def test_a_feature_that_is_constant_where_probes_are_fitted_tells_nothing_elsewhere(constant: float) -> None:
    x, y, groups = problem()
    column = np.full((len(x), 1), constant, np.float32)
    with_it, elsewhere = np.hstack([x, column]), np.hstack([x, column + np.float32(1e6)])
    for fitted, plain in (
        (fit_ridge(with_it, y, groups, [1.0]), fit_ridge(x, y, groups, [1.0])),
        (fit_knn(with_it, y, 5), fit_knn(x, y, 5)),
    ):
        np.testing.assert_allclose(fitted.predict(elsewhere), plain.predict(x), atol=1e-6)
    np.testing.assert_array_equal(Standard.of(with_it)(elsewhere)[:, -1], 0)
