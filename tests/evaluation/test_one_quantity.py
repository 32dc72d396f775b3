"""Score, interval and difference are of one quantity, also where a class or marker is shown on hardly any tissue."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import block_labels, enough_blocks, resample_counts
from pipeline.evaluation.class_evidence import probed_class
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.evaluation.probing import evidence

POSITION_UM = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2) * 100.0


@pytest.mark.parametrize("rare_rows", [[0, 1, 20], [0, 10, 210]])
@pytest.mark.parametrize("seed", range(4))
def test_the_balanced_accuracy_of_a_rare_class_is_not_that_of_the_others_in_any_resample(
    rare_rows: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, len(POSITION_UM))
    labels[rare_rows] = 2
    hit = rng.random(len(labels)) < 0.8
    never = np.where(hit, labels, 1 - np.minimum(labels, 1))
    never[rare_rows] = 0
    always = never.copy()
    always[rng.choice(np.flatnonzero(labels < 2), 24, replace=False)] = 2
    always[rare_rows] = 2
    blocks = [block_labels(POSITION_UM, 500.0)]
    held = HeldOut(("s",), (len(labels),), tuple(blocks), tuple(resample_counts([16], 1000, 0)), enough_blocks(blocks))
    task = ClassTask("class", ("a", "b", "rare"), labels, (labels,))
    spec, targets, fitted_on = ProbeSpec("sparse", "class", "linear", "recall"), Targets.of(task.names), np.full(3, 9)
    probed = {
        run: {spec: probed_class(spec, targets, task, [np.eye(3)[guess]], fitted_on, held)}
        for run, guess in (("base", never), ("other", always))
    }
    found = evidence(probed, {run: [run] for run in probed}, held, "base", 0)
    rows = {(row.run, row.probe, row.target): row for row in found}
    mean, rare = rows["base", "class-linear", "mean"], rows["other", "class-linear", "rare"]
    recall = [float((never[labels == index] == index).mean()) for index in range(3)]
    assert mean.score == pytest.approx(np.mean(recall))
    assert mean.within.low < mean.score < mean.within.high < 0.7
    assert rare.verdict == ""
    assert np.isnan([rare.within.low, rare.difference_within.low]).all()
    assert "at least 6" in rare.note
    assert rare.blocks == len(set(blocks[0][rare_rows]))
    # Three patches of one class, on few blocks, make the whole difference: that is no verdict on the mean.
    compared = rows["other", "class-linear", "mean"]
    assert compared.difference_within.low <= compared.difference <= compared.difference_within.high
    assert compared.verdict == "no difference"


def test_a_target_called_mean_is_told_from_the_mean() -> None:
    assert Targets.of(["CD3", "mean", "MEAN "]).columns == (
        "CD3",
        "mean (not the mean)",
        "MEAN  (not the mean)",
        "mean",
    )
