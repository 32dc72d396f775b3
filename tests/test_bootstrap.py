"""Scores within slides, resampling of blocks and the coverage of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from pipeline.evaluation.bootstrap import (
    block_labels,
    block_sums,
    correlations,
    enough_blocks,
    explained,
    interval,
    pearson,
    resample_counts,
    spearman,
)


def pair(seed: int, rows: int = 90, r: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(rows, 2))
    return y * 40 + 1000, r * y + np.sqrt(1 - r**2) * rng.normal(size=(rows, 2))


def test_scores_are_those_of_scipy_and_scikit_learn() -> None:
    y, p = pair(0)
    for column in range(2):
        a, b = y[:, column], p[:, column]
        assert pearson(y, p)[column] == pytest.approx(stats.pearsonr(a, b)[0])
        assert spearman(y, p)[column] == pytest.approx(stats.spearmanr(a, b)[0])
        assert explained(y, p)[column] == pytest.approx(r2_score((a - a.mean()) / a.std(), b))


def test_the_score_is_the_mean_of_the_slides_weighted_by_patches() -> None:
    slides = [pair(0, 90), pair(1, 30, r=0.1)]
    sums = [block_sums(y, p, np.arange(len(y)) // 10) for y, p in slides]
    expected = (90 * pearson(*slides[0]) + 30 * pearson(*slides[1])) / 120
    np.testing.assert_allclose(correlations(sums)[0], expected)


def test_the_score_does_not_depend_on_the_units_of_a_slide() -> None:
    slides = [pair(0), pair(1)]
    blocks = np.arange(90) // 10
    plain = correlations([block_sums(y, p, blocks) for y, p in slides])
    scaled = correlations([block_sums(y * unit + 7, p, blocks) for unit, (y, p) in zip((1, 500), slides, strict=True)])
    np.testing.assert_allclose(plain, scaled)


def test_a_resample_is_the_score_of_the_patches_it_draws() -> None:
    y, p = pair(3)
    blocks = np.arange(len(y)) // 9
    counts = resample_counts([10], 5, seed=0)
    fast = correlations([block_sums(y, p, blocks)], counts)
    for row, drawn in zip(fast, counts[0], strict=True):
        rows = np.repeat(np.arange(len(y)), drawn[blocks])
        np.testing.assert_allclose(row, pearson(y[rows], p[rows]))


def test_a_constant_prediction_scores_zero_and_a_constant_truth_is_left_out() -> None:
    y, p = pair(0)
    y[:, 1] = 5.0
    p[:, 0] = 0.25
    score = correlations([block_sums(y, p, np.arange(len(y)) // 10)])[0]
    assert score[0] == 0
    assert np.isnan(score[1])


def test_a_slide_without_a_marker_is_left_out_of_that_marker_only() -> None:
    (y, p), (other, guess) = pair(0), pair(1)
    other[:, 1] = np.nan
    blocks = np.arange(90) // 10
    score = correlations([block_sums(y, p, blocks), block_sums(other, guess, blocks)])[0]
    assert score[1] == pytest.approx(pearson(y, p)[1])
    assert score[0] == pytest.approx((pearson(y, p)[0] + pearson(other, guess)[0]) / 2)


def test_blocks_are_squares_of_the_given_side() -> None:
    position = np.array([[0.0, 0.0], [499.0, 10.0], [501.0, 10.0], [10.0, 501.0]])
    labels = block_labels(position, 500.0)
    assert labels[0] == labels[1]
    assert len({labels[0], labels[2], labels[3]}) == 3
    assert labels.max() == 2


def test_every_resample_draws_as_many_blocks_as_a_slide_has_and_repeats_with_its_seed() -> None:
    counts = resample_counts([4, 9], 50, seed=3)
    assert [c.shape for c in counts] == [(50, 4), (50, 9)]
    assert all((c.sum(axis=1) == c.shape[1]).all() for c in counts)
    again, other = resample_counts([4, 9], 50, seed=3), resample_counts([4, 9], 50, seed=4)
    np.testing.assert_array_equal(counts[1], again[1])
    assert (counts[1] != other[1]).any()


@pytest.mark.parametrize(
    ("blocks", "enough"), [((1,), False), ((2, 2), False), ((3,), False), ((4,), True), ((2, 2, 2), True)]
)
def test_intervals_ask_for_three_blocks_beyond_the_first_of_each_slide(blocks: tuple[int, ...], enough: bool) -> None:
    assert enough_blocks([np.repeat(np.arange(count), 3) for count in blocks]) is enough


def test_no_interval_where_most_resamples_say_nothing() -> None:
    assert np.isnan(interval(np.array([np.nan, np.nan, 1.0])).low)


def test_intervals_over_blocks_cover_the_truth_where_intervals_over_patches_do_not() -> None:
    """Truth and prediction share a part that is the same in all patches of a block, as tissue does."""
    rng = np.random.default_rng(0)
    covered = {"blocks": 0, "patches": 0}
    repeats, blocks, per_block, within = 150, 40, 9, 0.5
    labels = np.repeat(np.arange(blocks), per_block)
    common = rng.normal(size=(repeats, blocks, 3))
    true_r = 0.5 / (1 + within)  # two parts of variance 0.5 and 0.5, the first shared, and noise inside the block
    for shared, own_y, own_p in common.transpose(0, 2, 1):
        noise = rng.normal(size=(2, len(labels))) * np.sqrt(within)
        y = (np.sqrt(0.5) * shared + np.sqrt(0.5) * own_y)[labels] + noise[0]
        p = (np.sqrt(0.5) * shared + np.sqrt(0.5) * own_p)[labels] + noise[1]
        for name, unit in (("blocks", labels), ("patches", np.arange(len(labels)))):
            counts = resample_counts([int(unit.max()) + 1], 200, seed=1)
            ends = interval(correlations([block_sums(y[:, None], p[:, None], unit)], counts)[:, 0])
            covered[name] += ends.low <= true_r <= ends.high
    assert covered["blocks"] / repeats > 0.88
    assert covered["patches"] / repeats < 0.7
