"""A target branch beside others: its head and loss, what it leaves as it is, and all of it through the stage."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_training import TINY, write_cohort
from safetensors.torch import load_file

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.settings import RunSettings, build, to_json
from pipeline.training import loop
from pipeline.training.batches import make_batch, partners
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.branches import BranchNetwork
from pipeline.training.dense_description import DenseDescription
from pipeline.training.loop import Trainer
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import read_training_rows
from pipeline.training.targets import target_terms, training_targets

ALL = ["sparse", "sparse", "dense", "target"]
NUCLEI = {"modality": "dense", "encoder": "nuclei", "markers": ["DAPI"]}


def _run(*branches: Any, **changes: Any) -> RunSettings:
    return build(RunSettings, {"branches": list(branches), **changes}, source="x")


def _argv(folder: Path, name: str, *more: str, **changes: Any) -> list[str]:
    out = folder / "train" / name
    argv = ["train", "--run", name, "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv")]
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "metrics.jsonl")]
    argv += ["--out-curve", str(out / "curve.png"), *more]
    return [*argv, "--settings", json.dumps({**TINY, "branches": ALL, **changes})]


def _train(folder: Path, name: str, *more: str, **changes: Any) -> Path:
    assert main(_argv(folder, name, *more, **changes)) == 0
    return folder / "train" / name


def _history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def whole(cohort: Path) -> Path:
    return _train(cohort, "whole")


def test_a_target_stands_beside_any_branches_and_weighs_five_there_and_one_alone() -> None:
    run = _run(*ALL)
    assert run.encoded == ("sparse", "sparse", "dense")
    assert (run.pairs, run.weight_of_target) == (3, 5.0)
    assert _run("target", "dense", "sparse", target_weight=2).weight_of_target == 2.0
    alone = _run("sparse", "target")
    assert (alone.pairs, alone.weight_of_target) == (0, 1.0)
    assert _run("sparse", {"modality": "target"}) == alone
    assert _run("sparse", "sparse", "dense", "target", alignment="parts").pairs == 2
    for one in (run, alone):
        assert build(RunSettings, json.loads(to_json(one)), source="x") == one


@pytest.mark.parametrize(
    ("branches", "changes", "said"),
    [
        (["sparse", "dense"], {"target_weight": 5}, "target_weight weighs a target branch, and branches has none"),
        (["sparse", "sparse"], {"target_weight": 1}, "target_weight weighs a target branch, and branches has none"),
        (ALL, {"target_weight": 0}, "target_weight"),
        (ALL, {"target_weight": -1}, "target_weight"),
        (ALL, {"target_weight": float("inf")}, "target_weight"),
        (ALL, {"target_weight": "much"}, "target_weight"),
        (ALL, {"target_weights": 5}, "target_weights"),
        (ALL, {"target": "mean"}, "target"),
        (ALL, {"pairing": "blank"}, "pairing blank leaves nothing to predict"),
        (ALL, {"pair_weights": [1, 1, 1, 1]}, "pair_weights needs 3 weights, one per pair of 3 branches"),
        (["sparse", "target"], {"pair_weights": [1]}, "pair_weights needs 0 weights"),
        (["sparse", "dense"], {"pair_weights": [0]}, "one at least above 0"),
        (["sparse", "dense", "target"], {"alignment": "parts"}, "three branches or more besides a target"),
    ],
)
def test_what_says_nothing_is_refused_in_one_line_before_anything_is_read(
    branches: list[str], changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StatedError) as caught:
        _run(*branches, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    # There are no stores here: what is told is told of the settings.
    assert main(_argv(tmp_path, "never", branches=branches, **changes)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_gradient_of_the_head_is_that_of_linear_regression_on_the_features_of_all_sparse_views() -> None:
    network = BranchNetwork(
        ("sparse", "sparse", "dense"),
        encoder="test_resnet",
        channels={"sparse": 3, "dense": 2},
        size_px=32,
        projector=(8,),
        seed=0,
        outputs=3,
    )
    random = torch.Generator().manual_seed(1)
    views = [torch.randn(6, channels, 32, 32, generator=random) for channels in (3, 3, 2)]
    target = torch.randn(6, 3, generator=random)
    target[1, 2] = target[4, 0] = torch.nan
    outputs, head = network(views), network.head
    assert head is not None
    assert outputs[2].predicted is None
    predicted = [item.predicted for item in outputs if item.predicted is not None]
    (loss,) = target_terms(predicted, target, "values", 5.0).values()
    loss.backward()
    weight, bias = (item.detach().double().numpy() for item in (head.weight, head.bias))
    features = [item.features.detach().double().numpy() for item in outputs[:2]]
    known = np.isfinite(target.numpy())
    residuals = [np.where(known, x @ weight.T + bias - np.nan_to_num(target.numpy()), 0) for x in features]
    expected = sum(5 * (2 / known.sum()) * r.T @ x for r, x in zip(residuals, features, strict=True)) / 2
    np.testing.assert_allclose(np.asarray(head.weight.grad), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.item(), 5 * sum((r**2).sum() for r in residuals) / 2 / known.sum(), rtol=1e-5)
    assert any(item.grad.abs().max() > 0 for item in network.encoders["sparse"].parameters() if item.grad is not None)
    untouched = [*network.encoders["dense"].parameters(), *network.projectors.parameters()]
    assert all(item.grad is None for item in untouched)


def test_beside_branches_that_weigh_nothing_it_trains_as_alone(cohort: Path) -> None:
    changes = {"target_weight": 1.0, "clip_norm": 1e6, "dense_colour": 0.0, "channel_dropout": 0.0}
    alone = _train(cohort, "alone", branches=["sparse", "target"], **changes)
    beside = _train(cohort, "beside", branches=["sparse", "dense", "target"], pair_weights=[0.0], **changes)
    assert [line["error"] for line in _history(alone)] == [line["error"] for line in _history(beside)]
    one, other = (load_file(out / "encoder" / "model.safetensors") for out in (alone, beside))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_terms_of_the_others_are_those_without_it_as_long_as_the_weights_are_the_same(cohort: Path) -> None:
    changes = {"epochs": 1, "batch_size": 40}  # one step, before the head has moved anything
    with_target = _history(_train(cohort, "one-step", **changes))[0]
    without = _history(_train(cohort, "one-step-without", branches=ALL[:3], **changes))[0]
    for term in ("invariance", "variance", "covariance"):
        assert with_target[term] == without[term]
    assert with_target["loss"] == pytest.approx(without["loss"] + with_target["error"], rel=1e-6)
    halved = _history(_train(cohort, "one-step-halved", target_weight=2.5, **changes))[0]
    assert halved["error"] == pytest.approx(with_target["error"] / 2, rel=1e-6)


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_it_goes_on_after_a_stop_as_if_nothing_had_been(
    cohort: Path, whole: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    done = Trainer._do

    def interrupted(self: Trainer, step: loop.TrainingStep) -> loop.StepResult:
        if (step.epoch, step.number) == (1, 2):
            if how == "killed":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        return done(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_do", interrupted)
        with pytest.raises((SystemExit, Killed)):
            main(_argv(cohort, how))
    assert not (cohort / "train" / how / "encoder").exists()
    resumed = _train(cohort, how)
    for name in ("encoder/model.safetensors", BRANCHES_NAME):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_shuffled_pairs_give_a_patch_dense_side_and_target_of_the_same_wrong_place(cohort: Path) -> None:
    rows = read_training_rows(cohort / "patches.tsv", cohort / "tile", branches=ALL, batch_size=8)
    targets = training_targets(rows, "values")
    patches = TrainingPatches(rows, dense=True, targets=targets)
    numbers, partner = np.array([3, 30, 7]), partners(40, "shuffled", seed=0)
    assert partner is not None
    assert (partner[numbers] != numbers).all()
    batch = make_batch(patches, numbers, partner, dense=True)
    assert batch.dense is not None
    assert batch.target is not None
    np.testing.assert_array_equal(batch.dense.numpy(), patches.dense(partner[numbers])[0])
    np.testing.assert_array_equal(batch.target.numpy(), targets[partner[numbers]])
    np.testing.assert_array_equal(batch.sparse.numpy(), patches.sparse(numbers))


def test_true_values_are_learnt_better_than_those_of_other_places(tmp_path: Path) -> None:
    write_cohort(tmp_path, patches=64, panels=(("DAPI",), ("DAPI",)))
    ends = {}
    for pairing in ("true", "shuffled"):
        out = _train(tmp_path, pairing, pairing=pairing, epochs=8, batch_size=32, lr=3e-3)
        ends[pairing] = _history(out)[-1]["error"]
        card = (out / "encoder" / "card.md").read_text()
        assert ("A CONTROL: beside it stood dense patches (DAPI) of OTHER places" in card) == (pairing == "shuffled")
        assert ("predict the values of patches of OTHER places (DAPI)" in card) == (pairing == "shuffled")
    assert ends["true"] < 0.7 * ends["shuffled"]


def test_card_configuration_and_kept_branches_tell_of_it(cohort: Path, whole: Path) -> None:
    card = (whole / "encoder" / "card.md").read_text()
    assert "saw the same tissue in DAPI, CD3, CD8; it needs the H&E patch alone. It was also trained" in card
    assert "| branches | sparse, sparse, dense, target |" in card
    assert "| objective | vicreg, convention vicreg; squared error of the values, weighed 5 |" in card
    weighed = _train(cohort, "weighed", target_weight=2.0, epochs=1)
    assert "squared error of the values, weighed 2 |" in (weighed / "encoder" / "card.md").read_text()
    own = json.loads((weighed / "encoder" / "config.json").read_text())["more_from_less"]
    assert (own["settings"]["target_weight"], own["settings"]["branches"]) == (2.0, ALL)
    alone = _train(cohort, "no-dense", branches=["sparse", "sparse", "target"], epochs=1)
    card = (alone / "encoder" / "card.md").read_text()
    assert "on H&E patches only. It was also trained, supervised, to predict the values of patches" in card
    kept = load_file(whole / BRANCHES_NAME)
    assert kept["head.weight"].shape == (3, own["feature_dim"])
    assert {name.split(".")[0] for name in load_file(alone / BRANCHES_NAME)} == {"head", "projectors"}
    described = DenseDescription.read(whole / "encoder")
    assert described is not None
    assert KeptBranches.load(whole / BRANCHES_NAME, described, torch.device("cpu"))
    assert DenseDescription.read(alone / "encoder") is None


def test_it_predicts_all_markers_of_the_run_and_no_other(cohort: Path) -> None:
    beside = _train(cohort, "components", branches=["sparse", NUCLEI, "target"], epochs=1)
    own = json.loads((beside / "encoder" / "config.json").read_text())["more_from_less"]
    assert own["dense"]["panel"] == ["DAPI", "CD3", "CD8"]
    assert own["dense"]["components"] == {"nuclei": ["DAPI"]}
    assert len(load_file(beside / BRANCHES_NAME)["head.bias"]) == 3
    chosen = _train(cohort, "chosen", markers=["DAPI", "CD3"], epochs=1)
    assert len(load_file(chosen / BRANCHES_NAME)["head.bias"]) == 2


def test_the_encoder_is_embedded_and_exported_as_any_other(cohort: Path, whole: Path) -> None:
    out = cohort / "test.h5"
    argv = ["embed", "--store", str(cohort / "tile" / "test.zarr"), "--encoder", str(whole / "encoder")]
    assert main([*argv, "--out", str(out)]) == 0
    argv = ["export", "--encoder", str(whole / "encoder"), "--to", "torchscript", "--out", str(cohort / "traced.pt")]
    assert main(argv) == 0


def test_patches_without_a_label_teach_the_other_branches_alone(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "s0.csv"
    table.write_text("row,class\n" + "".join(f"{row},{'ab'[row % 2]}\n" for row in range(6)))
    few = _train(cohort, "few", "--classes", f"s0={table}", target="label", epochs=1)
    assert "34 of 40 patches have no class and teach the other branches alone" in capsys.readouterr().err
    own = json.loads((few / "encoder" / "config.json").read_text())["more_from_less"]
    assert (own["classes"], own["training"]["patches"]) == (["a", "b"], 40)
    assert own["dense"]["panel"] == ["DAPI", "CD3", "CD8"]
    card = (few / "encoder" / "card.md").read_text()
    assert "It was also trained, supervised, to tell the class of patches (a, b)." in card
    assert "cross-entropy of the classes, weighed 5 |" in card
    (line,) = _history(few)
    assert line["cross_entropy"] > 0
    assert line["invariance"] > 0
