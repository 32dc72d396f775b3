"""The stage train: exact resumption, controls, stops that are told, and what the loss makes of the encoder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_training import TINY, write_cohort
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.settings import RunSettings, build
from pipeline.training import data, loop
from pipeline.training import stage as training
from pipeline.training.branches import BranchNetwork
from pipeline.training.loop import Trainer, learning_rate
from pipeline.training.monitoring import effective_rank
from pipeline.training.order import shuffled_windows, stored_blocks


def _words(folder: Path, name: str, **changes: Any) -> list[str]:
    out = folder / name
    return [
        "train", "--run", name, "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv"),
        "--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "metrics.jsonl"),
        "--out-curve", str(out / "curve.png"), "--threads", "1", "--settings", json.dumps({**TINY, **changes}),
    ]  # fmt: skip


def _train(folder: Path, name: str, **changes: Any) -> Path:
    assert main(_words(folder, name, **changes)) == 0
    return folder / name


def _history(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_s"]
    return lines


def _assert_same(one: Path, other: Path) -> None:
    assert _history(one) == _history(other)
    weights = [(out / "encoder" / "model.safetensors").read_bytes() for out in (one, other)]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def whole(cohort: Path) -> Path:
    return _train(cohort, "whole", epochs=3)


def test_a_run_leaves_its_results_and_no_state(whole: Path) -> None:
    assert sorted(item.name for item in whole.iterdir()) == [
        "branches.safetensors", "curve.png", "encoder", "metrics.jsonl"
    ]  # fmt: skip
    history = _history(whole)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert [line["step"] for line in history] == [5, 10, 15]
    for line in history:
        assert line["loss"] == pytest.approx(line["invariance"] + line["variance"] + line["covariance"], rel=1e-5)
    config = json.loads((whole / "encoder" / "config.json").read_text())["more_from_less"]
    assert config["training"] == {"slides": ["s0", "s1"], "patients": ["p0", "p1"], "patches": 40}
    assert [item["marker"] for item in config["markers"]] == ["DAPI", "CD3", "CD8"]
    assert [item["patches"] for item in config["markers"]] == [40, 20, 20]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(cohort: Path, whole: Path) -> None:
    _assert_same(_train(cohort, "again", epochs=3), whole)
    assert _history(_train(cohort, "other", epochs=3, seed=1)) != _history(whole)


def test_blocks_train_the_same_from_memory_and_from_the_stores_in_an_order_of_their_own(
    cohort: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "stored_blocks", partial(stored_blocks, block_rows=4))
    monkeypatch.setattr(loop, "shuffled_windows", partial(shuffled_windows, window_blocks=3))
    held = _train(cohort, "blocks-held", order="blocks")
    monkeypatch.setattr(data, "MEMORY_BUDGET_BYTES", 0)
    _assert_same(_train(cohort, "blocks-read", order="blocks"), held)
    assert _history(held)[0]["loss"] != _history(whole)[0]["loss"]


@pytest.mark.parametrize("after", [5, 7])
def test_a_run_killed_between_or_within_epochs_goes_on_as_if_nothing_had_been(
    cohort: Path, whole: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    done = Trainer._do

    def until(self: Trainer, step: loop.Step) -> loop.StepResult:
        if step.epoch * 5 + step.number == after:
            raise Killed
        return done(self, step)

    name = f"killed{after}"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_do", until)
        with pytest.raises(Killed):
            main(_words(cohort, name, epochs=3))
    assert (cohort / name / "state" / "state.pt").is_file()
    _assert_same(_train(cohort, name, epochs=3), whole)


def test_sigterm_within_an_epoch_saves_and_exits_with_143_and_the_run_goes_on_from_there(
    cohort: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    done = Trainer._do

    def interrupted(self: Trainer, step: loop.Step) -> loop.StepResult:
        if (step.epoch, step.number) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return done(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_do", interrupted)
        with pytest.raises(SystemExit) as ended:
            main(_words(cohort, "terminated", epochs=3))
    assert ended.value.code == 143
    assert "stopped by SIGTERM" in capfd.readouterr().err
    assert not (cohort / "terminated" / "encoder").exists()
    _assert_same(_train(cohort, "terminated", epochs=3), whole)
    assert "going on at epoch 2, step 4" in capfd.readouterr().err


def test_a_real_process_that_is_killed_goes_on_where_it_was(
    cohort: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    epochs = 400
    command = [sys.executable, "-P", "-m", "pipeline", *_words(cohort, "killed", epochs=epochs)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    state = cohort / "killed" / "state" / "state.pt"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert not (cohort / "killed" / "encoder").exists()
    reached = _saved(state)["epoch"]
    assert 0 < reached < epochs - 2
    stop = _stop_at(reached + 1)
    with pytest.raises(_Enough):
        stop(lambda: main(_words(cohort, "killed", epochs=epochs)))
    assert f"going on at epoch {reached + 1}, step 1" in capfd.readouterr().err
    resumed = _saved(state)
    with pytest.raises(_Enough):
        stop(lambda: main(_words(cohort, "straight", epochs=epochs)))
    straight = _saved(cohort / "straight" / "state" / "state.pt")
    assert [line["epoch"] for line in resumed["history"]] == list(range(1, reached + 2))
    for one, other in zip(resumed["history"], straight["history"], strict=True):
        assert {**one, "images_per_s": 0} == {**other, "images_per_s": 0}
    assert all(torch.equal(value, straight["network"][key]) for key, value in resumed["network"].items())


def _saved(path: Path) -> dict[str, Any]:
    """What a state file holds behind its SHA-256."""
    data = path.read_bytes()
    assert hashlib.sha256(data[32:]).digest() == data[:32]
    found: dict[str, Any] = torch.load(io.BytesIO(data[32:]), weights_only=True)
    return found


class _Enough(BaseException):
    pass


def _stop_at(epoch: int) -> Any:
    """Runs something until the training has finished that many epochs."""

    def run(work: Any) -> None:
        save = loop.save_state

        def save_and_stop(folder: Path, state: Any, recipe: str) -> None:
            save(folder, state, recipe)
            if state.epoch == epoch:
                raise _Enough

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "save_state", save_and_stop)
            work()

    return run


def test_a_state_of_other_settings_is_not_used_and_this_is_said(
    cohort: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(_Enough):
        _stop_at(1)(lambda: main(_words(cohort, "changed", epochs=3, lr=0.01)))
    _assert_same(_train(cohort, "changed", epochs=3), whole)
    assert "other settings, patches or code; starting afresh" in capfd.readouterr().err


@pytest.mark.parametrize("data", [b"not a state", hashlib.sha256(b"M\4").digest() + b"M\4"])
def test_a_damaged_state_is_not_used_and_this_is_said(
    cohort: Path, whole: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    state = cohort / "damaged" / "state" / "state.pt"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_bytes(data)
    _assert_same(_train(cohort, "damaged", epochs=3), whole)
    assert "unreadable" in capfd.readouterr().err


def test_compared_runs_start_from_the_same_sparse_encoder_and_see_the_same_order() -> None:
    first, second = (
        BranchNetwork(
            branches, encoder="test_resnet", channels={"sparse": 3, "dense": 4}, size_px=32, projector=(8,), seed=0
        )
        for branches in (("sparse", "sparse"), ("dense", "sparse", "sparse"))
    )
    one, other = first.encoders["sparse"].state_dict(), second.encoders["sparse"].state_dict()
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert set(first.encoders) == {"sparse"}
    assert set(second.projectors) == {"sparse", "dense"}


@pytest.mark.parametrize("branches", [["sparse", "sparse"], ["sparse", "sparse", "dense"]])
def test_other_branch_graphs_train(cohort: Path, branches: list[str]) -> None:
    out = _train(cohort, "-".join(branches), branches=branches, epochs=1, convention="mfl")
    markers = json.loads((out / "encoder" / "config.json").read_text())["more_from_less"]["markers"]
    assert len(markers) == (3 if "dense" in branches else 0)


def test_controls_differ_from_true_pairs_and_their_card_says_what_they_are(cohort: Path, whole: Path) -> None:
    for pairing, said in (("shuffled", "OTHER places"), ("blank", "saw nothing")):
        out = _train(cohort, pairing, pairing=pairing, epochs=3)
        assert _history(out) != _history(whole)
        assert said in (out / "encoder" / "card.md").read_text()


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("barlow-twins", "barlow-twins"),
        ("infonce", "infonce, temperature 0.5"),
        ("nt-xent", "nt-xent, temperature 0.5, pairs weighed 2"),
    ],
)
def test_every_objective_trains_and_its_terms_add_up_to_the_loss(cohort: Path, objective: str, said: str) -> None:
    weights = [2.0] if "weighed" in said else []
    out = _train(cohort, objective, objective=objective, epochs=1, pair_weights=weights)
    assert f"| objective | {said} |" in (out / "encoder" / "card.md").read_text()
    (line,) = _history(out)
    terms = {"invariance", "variance", "covariance", "redundancy", "contrast"} & set(line)
    assert "variance" not in terms
    assert sum(line[term] for term in terms) == pytest.approx(line["loss"], rel=1e-5)
    assert (out / "curve.png").stat().st_size > 0


def test_no_epoch_leaves_the_initial_weights_of_the_compared_runs(cohort: Path) -> None:
    out = _train(cohort, "random", epochs=0)
    assert _history(out) == []
    assert "was not trained" in (out / "encoder" / "card.md").read_text()
    network = BranchNetwork(
        ("sparse",), encoder=str(TINY["encoder"]), channels={"sparse": 3}, size_px=32, projector=(32, 32), seed=0
    )
    written = load_file(out / "encoder" / "model.safetensors")
    for name, value in network.encoders["sparse"].state_dict().items():
        torch.testing.assert_close(written[name], value)


def test_features_in_bfloat16_are_compared_a_few_large_patches_at_a_time(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cosine(out: Path) -> float:
        config = json.loads((out / "encoder" / "config.json").read_text())
        return float(config["more_from_less"]["bf16_cosine"])

    together = cosine(_train(cohort, "compared-together", epochs=0))
    sizes = []

    def spy(exact: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
        sizes.append(len(exact))
        return cosine_similarity(exact, fast)

    monkeypatch.setattr(training, "cosine_similarity", spy)
    monkeypatch.setattr(training, "_COSINE_PIXELS", 12 * 32**2)
    assert cosine(_train(cohort, "compared-apart", epochs=0)) == pytest.approx(together, abs=1e-5)
    assert sizes == [12, 12, 12, 4]


def test_true_pairs_can_be_matched_better_than_shuffled_ones(tmp_path: Path) -> None:
    write_cohort(tmp_path, patches=64, panels=(("DAPI",), ("DAPI",)))
    last = {
        pairing: _history(_train(tmp_path, pairing, pairing=pairing, epochs=10, batch_size=32, lr=3e-3))[-1]
        for pairing in ("true", "shuffled")
    }
    assert last["true"]["invariance"] < 0.8 * last["shuffled"]["invariance"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet19"}, "the name of a timm architecture, found 'resnet19'; near to it: resnet"),
        ({"size_px": 64}, "size_px of run wrong up to the patches' 32"),
        ({"branches": ["dense", "dense"]}, "at least one branch must be sparse"),
        ({"lr": 1e30}, r"finite terms of the loss, found \w+ is (nan|inf|-inf) in epoch \d+, step \d+"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    cohort: Path, changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(_words(cohort, "wrong", **changes)) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error), error


def test_the_learning_rate_rises_then_falls_along_a_cosine() -> None:
    settings = RunSettings(lr=2.0, warmup=0.25)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 25)
    assert max(rates) == pytest.approx(2.0)
    assert int(np.argmax(rates)) in (24, 25)
    assert rates[62] == pytest.approx(1.0, abs=0.05)
    assert 0 < rates[-1] < 0.01


def test_the_effective_rank_counts_directions() -> None:
    random = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=random)).Q
    assert effective_rank(basis[:, :5] @ torch.eye(5, 20)) == pytest.approx(5, abs=0.2)
    assert effective_rank(torch.ones(10, 4)) == 0
    assert effective_rank(torch.randn(500, 1, generator=random) * torch.ones(1, 8)) == pytest.approx(1, abs=1e-3)


def test_settings_of_a_run_refuse_unknown_keys() -> None:
    with pytest.raises(StatedError, match="momentum"):
        build(RunSettings, {"momentum": 0.9}, source="x")
