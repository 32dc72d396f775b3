"""Correlation across tissue and intervals: unequal blocks count as fewer, targets lend each other certainty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.bootstrap import Parts, block_labels, resample_counts
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.tissue_correlation import Correlation, effective_blocks, not_below_usual

inflations = st.lists(st.floats(1, 50), min_size=1, max_size=12)


def test_blocks_of_one_size_count_in_full_and_unequal_ones_as_fewer() -> None:
    shares = np.array([[0.25, 0.7, 0.0], [0.25, 0.1, 0.0], [0.25, 0.1, 0.0], [0.25, 0.1, 0.0]])
    np.testing.assert_allclose(effective_blocks(shares), [4, 1 / 0.52, 0])


@given(inflations)
def test_no_target_loses_inflation_and_none_passes_the_usual(values: list[float]) -> None:
    found = [Correlation(100.0, value) for value in values]
    taken = [one.inflation for one in not_below_usual(found)]
    usual = stats.gmean(values)
    for before, after in zip(values, taken, strict=True):
        assert after == pytest.approx(before) if before >= usual else before <= after <= usual * (1 + 1e-9)


def test_a_target_is_taken_two_thirds_of_the_way_to_what_is_usual() -> None:
    low, high = not_below_usual([Correlation(0.0, 1.0), Correlation(300.0, 4.0)])
    assert low == Correlation(0.0, pytest.approx(2 ** (2 / 3)))
    assert high == Correlation(300.0, pytest.approx(4.0))


def test_the_half_width_grows_by_student_s_t_of_the_blocks_that_are_left() -> None:
    expected = np.sqrt(2.5) * stats.t.ppf(0.975, 20 / 2.5 - 1) / stats.t.ppf(0.975, 19)
    assert Correlation(500.0, 2.5).widening(20) == pytest.approx(expected)
    assert Correlation(0.0, 1.0).widening(20) == 1


def test_the_mean_of_the_targets_keeps_its_own_correlation() -> None:
    """Two targets, one alike over blocks and one not: only the interval of the latter is widened, not the mean's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:30, :30]
    position = np.stack([x.ravel(), y.ravel()], axis=1) * 100.0
    smooth = np.sin(x / 8) * np.cos(y / 7) + 0.1 * rng.normal(size=x.shape)
    values = np.stack([smooth.ravel(), rng.normal(size=x.size)], axis=1) / x.size
    share = np.full_like(values, 1 / x.size)
    parts = Parts(values, values - values.mean(axis=0), share).with_mean()
    labels = block_labels(position, 500.0)
    halves = tuple(resample_counts([int(labels.max()) + 1], 500, 0))
    held = HeldOut(("s",), (x.size,), (labels,), halves, True, (position,), 500.0)
    alone = HeldOut(("s",), (x.size,), (labels,), halves, True)

    def widths(tested: HeldOut) -> np.ndarray:
        return np.array([one.ends.high - one.ends.low for one in tested.around(parts, whole=True)])

    own = [one.inflation for one in held.correlations(parts)]
    assert own[0] > 2 > 1.2 > own[1]
    ratio = widths(held) / widths(alone)
    usual = own[0] ** (1 / 3) * own[1] ** (2 / 3)
    assert ratio[1] == pytest.approx(Correlation(0.0, usual).widening(36), rel=1e-6)
    assert ratio[2] == pytest.approx(Correlation(0.0, own[2]).widening(36), rel=1e-6)
