"""Scores within slides, resampling of blocks and the coverage of the intervals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import r2_score

from pipeline.evaluation.bootstrap import (
    Parts,
    block_labels,
    block_sums,
    correlation_parts,
    enough_blocks,
    explained,
    intervals,
    pearson,
    resample_counts,
    spearman,
)


def pair(seed: int, rows: int = 90, r: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(rows, 2))
    return y * 40 + 1000, r * y + np.sqrt(1 - r**2) * rng.normal(size=(rows, 2))


def parts_of(slides: list[tuple[np.ndarray, np.ndarray]]) -> Parts:
    return correlation_parts(*zip(*slides, strict=True))


def halves(blocks: int, resamples: int = 1000) -> np.ndarray:
    return resample_counts([blocks], resamples, seed=1)[0]


def test_scores_are_those_of_scipy_and_scikit_learn() -> None:
    y, p = pair(0)
    for column in range(2):
        a, b = y[:, column], p[:, column]
        assert pearson(y, p)[column] == pytest.approx(stats.pearsonr(a, b)[0])
        assert spearman(y, p)[column] == pytest.approx(stats.spearmanr(a, b)[0])
        assert explained(y, p)[column] == pytest.approx(r2_score((a - a.mean()) / a.std(), b))


def test_the_score_is_the_mean_of_the_slides_weighted_by_patches() -> None:
    slides = [pair(0, 90), pair(1, 30, r=0.1)]
    expected = (90 * pearson(*slides[0]) + 30 * pearson(*slides[1])) / 120
    np.testing.assert_allclose(parts_of(slides).score, expected)


def test_the_score_does_not_depend_on_the_units_of_a_slide() -> None:
    slides = [pair(0), pair(1)]
    scaled = [(y * unit + 7, p) for unit, (y, p) in zip((1, 500), slides, strict=True)]
    np.testing.assert_allclose(parts_of(slides).contribution, parts_of(scaled).contribution)


def test_the_influence_of_a_patch_is_the_change_of_the_score_when_it_weighs_a_little_more() -> None:
    """Against the derivative of the weighted correlation of SciPy's covariance, by central differences."""
    slides = [pair(3, 40), pair(4, 25, r=0.1)]
    parts = parts_of(slides)
    np.testing.assert_allclose(parts.influence.sum(axis=0), 0, atol=1e-12)

    def weighted(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> float:
        cov = np.cov(y, p, aweights=weights)
        return float(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))

    y, p = slides[0]
    for row in (0, 7, 39):
        step = np.zeros(40)
        step[row] = 1e-4
        change = (weighted(y[:, 0], p[:, 0], 1 + step) - weighted(y[:, 0], p[:, 0], 1 - step)) / 2e-4
        assert parts.influence[row, 0] == pytest.approx(change * 40 / 65, abs=1e-6)


def test_a_constant_prediction_scores_zero_and_a_constant_truth_is_left_out() -> None:
    y, p = pair(0)
    y[:, 1] = 5.0
    p[:, 0] = 0.25
    parts = parts_of([(y, p)])
    assert parts.score[0] == 0
    assert np.isnan(parts.score[1])
    assert not parts.contribution.any()


def test_a_slide_without_a_marker_is_left_out_of_that_marker_only() -> None:
    (y, p), (other, guess) = pair(0), pair(1)
    other[:, 1] = np.nan
    parts = parts_of([(y, p), (other, guess)])
    assert parts.score[1] == pytest.approx(pearson(y, p)[1])
    assert parts.score[0] == pytest.approx((pearson(y, p)[0] + pearson(other, guess)[0]) / 2)
    np.testing.assert_array_equal(parts.share[90:, 1], 0)
    whole = parts.with_mean()
    assert whole.score[2] == pytest.approx(parts.score.mean())


def test_blocks_are_squares_of_the_given_side() -> None:
    position = np.array([[0.0, 0.0], [499.0, 10.0], [501.0, 10.0], [10.0, 501.0]])
    labels = block_labels(position, 500.0)
    assert labels[0] == labels[1]
    assert len({labels[0], labels[2], labels[3]}) == 3
    assert labels.max() == 2


def test_resamples_are_random_halves_and_repeat_with_their_seed() -> None:
    counts = resample_counts([4, 9], 2000, seed=3)
    assert [c.shape for c in counts] == [(2000, 4), (2000, 9)]
    for drawn in counts:
        assert set(np.unique(drawn)) == {0, 1}
        # Each share is binomial: within five standard errors of one half.
        assert (np.abs(drawn.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(2000)).all()
    again, other = resample_counts([4, 9], 2000, seed=3), resample_counts([4, 9], 2000, seed=4)
    np.testing.assert_array_equal(counts[1], again[1])
    assert (counts[1] != other[1]).any()


@pytest.mark.parametrize(("blocks", "enough"), [((1,), False), ((5,), False), ((6,), True), ((2, 2, 2), True)])
def test_intervals_ask_for_six_blocks(blocks: tuple[int, ...], enough: bool) -> None:
    assert enough_blocks([np.repeat(np.arange(count), 3) for count in blocks]) is enough
    values = np.random.default_rng(0).normal(1, 0.01, size=(sum(blocks), 1))
    shares = np.full_like(values, 1 / len(values))
    (found,) = intervals(values * shares, shares, halves(len(values)))
    assert np.isfinite(found.low) == enough


def test_an_interval_holds_just_what_flips_of_signs_cannot_tell_from_the_score() -> None:
    """Against the permutation test of SciPy on the differences of the blocks to a value inside, and one outside."""
    values = np.random.default_rng(1).normal(0.3, 1, size=9)
    every = np.array(list(product((0, 1), repeat=9)))
    (found,) = intervals(values[:, None] / 9, np.full((9, 1), 1 / 9), every)
    for end, outward in ((found.low, -1), (found.high, 1)):
        for value, told_apart in ((end - outward * 1e-9, False), (end + outward * 1e-9, True)):
            p = stats.permutation_test(
                (values - value,), np.mean, permutation_type="samples", n_resamples=np.inf
            ).pvalue
            # The score itself counts as one more of the 512 flips.
            assert (p * 512 + 1 <= 0.05 * 513) == told_apart


def test_a_target_on_few_blocks_has_no_interval_beside_one_that_all_blocks_show() -> None:
    rng = np.random.default_rng(0)
    shares = np.zeros((12, 2))
    shares[:, 0], shares[:5, 1] = 1 / 12, 1 / 5
    everywhere, rare = intervals(shares * rng.normal(1, 0.1, (12, 2)), shares, halves(12))
    assert np.isfinite(everywhere.low)
    assert np.isnan(rare.low)


def test_a_wider_interval_keeps_its_score() -> None:
    values = np.random.default_rng(0).normal(1, 0.5, (12, 1)) / 12
    shares = np.full((12, 1), 1 / 12)
    (plain,), (wide,) = (intervals(values, shares, halves(12), factor) for factor in (1.0, 2.0))
    assert wide.high - values.sum() == pytest.approx(2 * (plain.high - values.sum()))
    assert wide.low - values.sum() == pytest.approx(2 * (plain.low - values.sum()))


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
        parts = parts_of([(y[:, None], p[:, None])])
        for name, unit in (("blocks", labels), ("patches", np.arange(len(labels)))):
            count = int(unit.max()) + 1
            sums, shares = (block_sums(values, unit, count) for values in (parts.contribution, parts.share))
            (ends,) = intervals(sums, shares, halves(count, 200))
            covered[name] += ends.low <= true_r <= ends.high
    assert covered["blocks"] / repeats > 0.88
    assert covered["patches"] / repeats < 0.7
