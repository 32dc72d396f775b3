"""Few labels: which patches are labelled, and how many labels a run saves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_results import draw_features, draw_stores
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.evaluation.bootstrap import block_labels, enough_blocks, resample_counts
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.label_draws import LabelDraws, even_shares
from pipeline.evaluation.label_efficiency import CurvePoint, fewer_labels, labels_needed
from pipeline.settings import EvaluateSettings

SETTINGS = EvaluateSettings(labels=(5, 20, "all"), label_draws=3)


@given(available=st.lists(st.integers(1, 50), min_size=1, max_size=9), count=st.integers(1, 300))
def test_labels_are_spread_as_evenly_as_classes_allow(available: list[int], count: int) -> None:
    shares = even_shares(available, count)
    assert sum(shares) == min(count, sum(available))
    assert all(0 <= share <= own for share, own in zip(shares, available, strict=True))
    most = max(shares)
    assert all(share >= most - 1 for share, own in zip(shares, available, strict=True) if share < own)


def test_draws_of_more_labels_hold_those_of_fewer_and_are_the_same_for_every_run() -> None:
    draws, again = (LabelDraws.of(SETTINGS, 100) for _ in range(2))
    rows = np.arange(0, 100, 2)
    for draw in range(3):
        few, many = draws.among(draw, rows, 5), draws.among(draw, rows, 20)
        assert len(set(few)) == 5
        assert set(few) < set(many) < set(rows)
        assert np.array_equal(few, again.among(draw, rows, 5))
    assert not np.array_equal(draws.among(0, rows, 20), draws.among(1, rows, 20))


def test_labels_of_classes_are_of_every_class_and_of_no_patch_without_one() -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 4 + [-1] * 20)
    rows = LabelDraws.of(SETTINGS, len(labels)).evenly(1, labels, 30)
    assert len(set(rows)) == 30
    assert np.bincount(labels[rows]).tolist() == [13, 13, 4]


def test_numbers_of_labels_that_cannot_be_drawn_are_left_out_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert LabelDraws.of(SETTINGS, 20).counts == (5,)
    assert "labels 20 are left out: 20 training patches have one" in capsys.readouterr().err
    assert LabelDraws.of(SETTINGS, 50, 40, 9, "classes").counts == (20,)
    assert "classes: labels 5 are left out: there are 9 classes" in capsys.readouterr().err


def test_the_labels_needed_are_interpolated_on_the_logarithm() -> None:
    labels = np.array([10.0, 100.0, 1000.0])
    scores = np.array([[0.2, 0.4, 0.6], [0.5, 0.6, 0.7], [0.1, 0.2, 0.3], [0.1, np.nan, 0.9]])
    found = labels_needed(labels, scores, np.array([0.5, 0.4, 0.4, 0.4]))
    assert found[:3] == pytest.approx([10**2.5, 10.0, np.inf])
    assert np.isnan(found[3])


def _held(blocks: int) -> HeldOut:
    position = np.stack([np.arange(blocks) * 10.0, np.zeros(blocks)], axis=1)
    own = [block_labels(position, 10.0)]
    return HeldOut(("s",), (blocks,), tuple(own), tuple(resample_counts([blocks], 999, 0)), enough_blocks(own))


def _point(labels: int, score: float, held: HeldOut, noise: float = 0.0, draws: int = 4, seed: int = 0) -> CurvePoint:
    count = len(held.blocks[0])
    share = np.full((count, 1), 1 / count)
    rng = np.random.default_rng(seed)
    tissue = noise * rng.normal(size=(count, 1))
    per_draw = [(score + tissue + noise * rng.normal()) * share for _ in range(draws)]
    return CurvePoint.of(np.array([labels]), per_draw, share, held)


def test_the_ratio_is_that_of_known_curves() -> None:
    held = _held(40)
    curve = [_point(10, 0.2, held), _point(100, 0.4, held), _point(1000, 0.6, held, draws=1)]
    full = _point(1000, 0.3, held, draws=1)
    found = fewer_labels(curve, full, 0, held, 0)
    assert found.ratio == pytest.approx(1000 / 10**1.5)
    assert found.within.low == pytest.approx(found.ratio)
    assert found.within.high == pytest.approx(found.ratio)
    never = fewer_labels(curve, _point(1000, 0.7, held, draws=1), 0, held, 0)
    assert never.ratio == 0
    at_once = fewer_labels(curve, _point(1000, 0.1, held, draws=1), 0, held, 0)
    assert at_once.ratio == 100


def test_the_interval_covers_what_tissue_and_draws_leave_open() -> None:
    held, inside, wide = _held(60), 0, []
    truth = 1000 / 10**1.5
    for seed in range(40):
        curve = [_point(n, s, held, 0.02, seed=100 * seed + n) for n, s in ((10, 0.2), (100, 0.4))]
        curve.append(_point(1000, 0.6, held, 0.02, draws=1, seed=seed))
        found = fewer_labels(curve, replace(_point(1000, 0.3, held), labels=np.array([1000])), 0, held, seed)
        inside += found.within.low <= truth <= found.within.high
        wide.append(found.within.high / found.within.low)
    assert inside >= 34
    assert 1.01 < np.median(wide) < 3


def test_clearer_features_need_fewer_labels_and_the_table_says_how_many(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path)
    draw_features(drawn, "distilled", 1.0, seed=1)
    draw_features(drawn, "sparse-only", 4.0, seed=2)
    settings = ["--settings", json.dumps({"labels": [30, 100, 300, 5000], "label_draws": 3, "bootstrap": 200})]
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only"), *settings]) == 0
    rows = pd.read_csv(tmp_path / "evaluate/summary.tsv", sep="\t").set_index(["run", "probe", "target"])
    assert sorted(set(rows["labels"])) == ["100", "30", "300", "all"]
    full = rows.loc[("distilled", "ridge", "mean")]
    assert full.fewer_labels > 5
    assert full.fewer_labels_low <= full.fewer_labels <= full.fewer_labels_high
    assert rows.loc["sparse-only", "fewer_labels"].isna().all()
    few = rows.loc[("distilled", "ridge-30-labels", "mean")]
    assert few.train_patches == 30
    assert few.verdict == "helped"
    assert few.score < full.score


@pytest.mark.parametrize("labels", [[30, 30], [1], ["some"], [2.5], "all"])
def test_labels_that_are_none_are_refused_in_one_line(
    labels: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw_stores(tmp_path)
    arguments = [*drawn.arguments("distilled"), "--settings", json.dumps({"labels": labels})]
    assert main(["evaluate", *arguments]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
