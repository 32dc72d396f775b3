"""What the benchmark `evidence` says of few labels, on drawn features of which the truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline.evaluation.reading import Cohort, SlidePairs
from pipeline.evaluation.scores import Scores
from pipeline.settings import EvaluateSettings

PATH = Path(__file__).resolve().parents[2] / "benchmarks/few_labels.py"
SIDE, MARKERS = 24, ("A", "B", "C")


@pytest.fixture(scope="module")
def few_labels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("few_labels", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["few_labels"] = module
    spec.loader.exec_module(module)
    return module


def _slide(name: str, fold: int, seed: int) -> SlidePairs:
    count = SIDE**2
    position = 100.0 * np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2)
    values = np.exp(np.random.default_rng(seed).normal(0, 0.5, (count, len(MARKERS)))) * 100
    return SlidePairs(
        slide=name,
        patient=name,
        rows=np.arange(count),
        fold=np.full(count, fold),
        position_um=position,
        centre_um=position,
        marker_mean=values,
        dense_kind="fluorescence",
        coords_px=position.astype(np.int64),
    )


@pytest.fixture(scope="module")
def task(few_labels: ModuleType) -> object:
    cohort = Cohort(MARKERS, (_slide("fit", 1, 0), _slide("test", 0, 1)))
    return few_labels.Task.of(cohort, EvaluateSettings(bootstrap=200))


def _features(noise: float, seed: int, shown: tuple[int, ...] = (0, 1, 2)) -> object:
    """Twelve features that hold the logarithm of the shown markers, and noise."""

    def features_of(slide: SlidePairs) -> np.ndarray:
        random = np.random.default_rng((seed, len(slide.slide)))
        mixed = np.log(slide.marker_mean)[:, shown] @ np.random.default_rng(seed).normal(size=(len(shown), 12))
        return (mixed + noise * random.normal(size=mixed.shape)).astype(np.float32)

    return features_of


def test_draws_are_of_training_patches_the_same_each_time_and_others_in_each_draw(
    few_labels: ModuleType, task: object
) -> None:
    again = few_labels.Task.of(task.cohort, EvaluateSettings(bootstrap=200))
    assert list(task.draws) == [30, 100, 300]
    for count, draws in task.draws.items():
        assert len(draws) == few_labels.DRAWS[count]
        assert len({draw.chosen.tobytes() for draw in draws}) == len(draws)
        for draw, same in zip(draws, again.draws[count], strict=True):
            np.testing.assert_array_equal(draw.chosen, same.chosen)
            assert len(np.unique(draw.chosen)) == count
            assert draw.chosen.max() < SIDE**2
            x = task.cohort.slides[0].position_um[draw.chosen, 0]
            assert all(x[draw.strip == i].max() <= x[draw.strip == i + 1].min() for i in range(4))


def test_scores_rise_with_labels_and_the_better_features_need_fewer(few_labels: ModuleType, task: object) -> None:
    penalties = EvaluateSettings().ridge
    plain, better = (
        {n: [s] for n, s in few_labels.scores_by_labels(task, _features(noise, 3), penalties).items()}
        for noise in (2.5, 1.0)
    )
    for found in (plain, better):
        means = [found[count][0].point[-1] for count in (30, 100, 300)]
        assert means == sorted(means)
    rows = few_labels.compared(task, {"plain": plain[100], "better": better[100]}, 100, "plain", markers=MARKERS[:2])
    row = rows["better", "mean"]
    assert row.verdict == "helped"
    expected = np.mean([better[100][0].point[i] - plain[100][0].point[i] for i in (0, 1)])
    assert row.difference == pytest.approx(expected)
    ratio = few_labels.label_ratio(task, better, plain[300])
    assert 1 < ratio.low <= ratio.ratio <= ratio.high <= ratio.most == pytest.approx(10)


def test_the_ratio_is_that_of_the_labels_where_scores_are_the_same(few_labels: ModuleType, task: object) -> None:
    found = few_labels.scores_by_labels(task, _features(1.5, 4), EvaluateSettings().ridge)
    own = {count: [scores] for count, scores in found.items()}
    same = few_labels.label_ratio(task, own, [found[100]])
    assert (same.ratio, same.low, same.high) == pytest.approx((3, 3, 3))  # 300 is the most, 100 suffice
    itself = few_labels.label_ratio(task, own, [found[300]])
    assert itself.ratio == pytest.approx(1)
    none: dict[int, list[Scores]] = {
        count: [s] for count, s in few_labels.scores_by_labels(task, _features(40, 5), EvaluateSettings().ridge).items()
    }
    assert few_labels.label_ratio(task, none, [found[300]]).ratio == 1
