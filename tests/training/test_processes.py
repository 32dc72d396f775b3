"""Several processes train as one does, to within rounding, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cohort import REPOSITORY, snakemake
from cohort import write_cohort as write_sheet
from drawn_training import TINY, write_cohort
from rounding import Curve, assert_equal_but_for_rounding, perturbed_curves
from safetensors.torch import load_file
from small_pair import SETTINGS, draw_cohort

from pipeline.cli import main
from pipeline.training.draws import Draws
from pipeline.training.processes import Processes

THREE = {"branches": ["sparse", "sparse", "dense", "target"], "blur": 0.5}


def _argv(folder: Path, name: str, **changes: Any) -> list[str]:
    out = folder / name
    return [
        "train", "--run", name, "--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv"),
        "--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "metrics.jsonl"),
        "--out-curve", str(out / "curve.png"), "--settings", json.dumps({**TINY, **THREE, **changes}),
    ]  # fmt: skip


def _start(argv: list[str], *launcher: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-P", *(launcher or ("-m",)), "pipeline", *argv]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def _run(argv: list[str], *launcher: str) -> tuple[int, str]:
    process = _start(argv, *launcher)
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


def _history(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["images_per_s"]
    return lines


def _perturbed(cohort: Path, name: str, **changes: Any) -> list[Curve]:
    """The curves of the same training from weights that are off by rounding."""

    def train(number: int) -> Curve:
        assert main(_argv(cohort, f"{name}-perturbed-{number}", **changes)) == 0
        return _history(cohort / f"{name}-perturbed-{number}")

    return perturbed_curves(train)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def alone(cohort: Path) -> Path:
    assert main(_argv(cohort, "alone")) == 0
    return cohort / "alone"


@pytest.fixture(scope="module")
def perturbed(cohort: Path) -> list[Curve]:
    return _perturbed(cohort, "alone")


def test_two_processes_train_as_one_does(cohort: Path, alone: Path, perturbed: list[Curve]) -> None:
    code, said = _run([*_argv(cohort, "two"), "--processes", "2"])
    assert code == 0, said
    assert "2 processes" in said
    assert said.count("train two: 80/80 patches") == 1
    made = ["branches.safetensors", "curve.png", "encoder", "metrics.jsonl"]
    assert sorted(item.name for item in (cohort / "two").iterdir()) == made
    assert_equal_but_for_rounding(_history(cohort / "two"), _history(alone), perturbed)
    weights, expected = (load_file(out / "encoder" / "model.safetensors") for out in (cohort / "two", alone))
    for name, value in weights.items():
        # AdamW moves a weight by up to lr (1e-3) a step even where its gradient is nothing but rounding.
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-3)
    known = [
        json.loads((out / "encoder" / "config.json").read_text())["more_from_less"] for out in (cohort / "two", alone)
    ]
    assert known[0]["provenance"] == known[1]["provenance"]


def test_each_process_gets_its_rows_of_what_is_drawn_for_the_whole_batch() -> None:
    whole = Draws(torch.Generator().manual_seed(1), 6)
    parts = [Draws(torch.Generator().manual_seed(1), 6, Processes(rank, 3).rows(6)) for rank in range(3)]
    for shape in ((3,), (2, 5)):
        assert torch.equal(torch.cat([part.uniform(*shape) for part in parts]), whole.uniform(*shape))


@pytest.mark.slow
def test_a_step_of_four_processes_is_that_of_one_whatever_encoder_and_objective(cohort: Path) -> None:
    # Of one step only: this training is so unstable that two threads instead of one change the third digit of the next.
    changes = {"encoder": "test_vit", "objective": "barlow-twins", "batch_size": 40, "epochs": 1}
    assert main(_argv(cohort, "vit-alone", **changes)) == 0
    code, said = _run([*_argv(cohort, "vit-four", **changes), "--processes", "4"])
    assert code == 0, said
    perturbed = _perturbed(cohort, "vit", **changes)
    assert_equal_but_for_rounding(_history(cohort / "vit-four"), _history(cohort / "vit-alone"), perturbed)


@pytest.mark.slow
def test_torchrun_starts_them_as_well(cohort: Path, alone: Path, perturbed: list[Curve]) -> None:
    # Without the dashes torchrun takes --run for a word of its own.
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    code, said = _run(_argv(cohort, "torchrun"), *torchrun)
    assert code == 0, said
    assert_equal_but_for_rounding(_history(cohort / "torchrun"), _history(alone), perturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "expected a batch_size that 2 processes can share, found 9"),
        ({"lr": 1e30}, "expected finite terms of the loss"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_and_ends_all(cohort: Path, changes: dict[str, Any], message: str) -> None:
    code, said = _run([*_argv(cohort, "wrong", **changes), "--processes", "2"])
    assert code == 1, said
    assert "Traceback" not in said
    (error,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert message in error


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def _workers(process: subprocess.Popen[str]) -> list[int]:
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def _has_ended(worker: int) -> bool:
    """Whether a process is gone, or would be if anybody waited for it."""
    try:
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def whole(cohort: Path) -> tuple[Curve, list[Curve]]:
    """The curve of six epochs without a break, and those of the same from weights that are off by rounding."""
    assert main(_argv(cohort, "whole", epochs=6)) == 0
    return _history(cohort / "whole"), _perturbed(cohort, "whole", epochs=6)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("victim", ["launcher, asked to end", "launcher, killed", "a process, killed"])
def test_ended_processes_leave_a_state_that_any_number_of_them_goes_on_from(
    cohort: Path, whole: tuple[Curve, list[Curve]], victim: str
) -> None:
    name = victim.replace(", ", "-").replace(" ", "-")
    argv = _argv(cohort, name, epochs=6)
    process = _start([*argv, "--processes", "2"])
    state = cohort / name / "state" / "state.pt"
    _wait(state.exists, process)
    workers = _workers(process)
    assert len(workers) == 2
    if victim == "launcher, asked to end":
        process.send_signal(signal.SIGTERM)
    else:
        os.kill(process.pid if victim == "launcher, killed" else workers[1], signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    codes = {"launcher, asked to end": 143, "launcher, killed": -signal.SIGKILL, "a process, killed": 1}
    assert process.returncode == codes[victim], said
    assert "Traceback" not in said
    assert ("stopped by SIGTERM" in said) == (victim != "a process, killed")
    assert ("process 1 ended by SIGKILL" in said) == (victim == "a process, killed")
    assert all(map(_has_ended, workers))
    code, said = _run(argv)
    assert code == 0, said
    assert "going on at epoch" in said
    expected, perturbed = whole
    assert_equal_but_for_rounding(_history(cohort / name), expected, perturbed)


@pytest.mark.slow
def test_the_workflow_starts_a_process_per_gpu_it_gives_a_training_and_their_number_reruns_nothing(
    tmp_path: Path,
) -> None:
    rows = draw_cohort(tmp_path)
    config: dict[str, object] = {key: json.loads(text) for key, text in SETTINGS.items() if key in ("tile", "split")}
    config["runs"] = {"distilled": {"branches": ["sparse", "dense"], **TINY}}
    config["evaluate"] = {"baseline": "distilled"}
    config["embed"] = {"encoder": "distilled"}
    write_sheet(tmp_path, rows, config)
    done = snakemake(tmp_path, "--cores", "2", "train_all", "--resources", "gpu=2", "--set-resources", "train:gpu=2")
    assert done.returncode == 0, done.stdout
    assert "2 processes" in (tmp_path / "logs" / "train" / "distilled.log").read_text()
    again = snakemake(tmp_path, "--cores", "2", "train_all")
    assert "Nothing to be done" in again.stdout
