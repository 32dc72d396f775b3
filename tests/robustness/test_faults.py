"""Processes that are ended, disks that fill up, files that rot or vanish: nothing valid is lost, nothing broken used.

Every test lets it happen for real and compares with a run that nothing disturbed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cohort import REPOSITORY
from forked_verbs import run_verb
from small_pair import commands, draw_cohort

from pipeline.cli import main
from pipeline.store.writer import SHARD_ROWS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = [
    {
        "slide": name,
        "patient": f"p-{name}",
        "sparse": f"{name}.tif",
        "dense": f"{name}.ome.tif",
        "transform": "identity",
    }
    for name in "ab"
]
COMMANDS = commands(ROWS)
STAGES = ["inspect a", "register a", "tile a", "split", "train", "embed a", "embed-slides", "evaluate", "report"]
STAGES += ["evaluate-probe", "predict a"]
# What these hold of time, speed and memory differs from run to run: see test_trace.py.
TIMED = ("qc.json", "metrics.jsonl", "index.html")


@pytest.fixture
def copy(small_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(small_results, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def _outputs(argv: list[str]) -> list[Path]:
    return [Path(word) for option, word in itertools.pairwise(argv) if option.startswith("--out")]


def _contents(path: Path) -> dict[str, bytes]:
    """Bytes by name of a file or of all files of a folder."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    return {str(item.relative_to(path)): item.read_bytes() for item in files}


def _same(one: Path, other: Path) -> bool:
    return one.name in TIMED or _contents(one) == _contents(other)


def _partial(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.partial"))


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_in_the_middle_leaves_nothing_broken_and_its_rerun_the_undisturbed_result(
    copy: Path, small_results: Path, stage: str
) -> None:
    argv = COMMANDS[stage]
    outputs = _outputs(argv)
    for path in outputs:
        _remove(path)
    for number, name in ((1, "SIGTERM"), (1, "SIGKILL"), (max(1, len(outputs) - 1), "SIGKILL")):
        done = run_verb(argv, (name, number))
        assert done.returncode in (-getattr(signal, name), 128 + getattr(signal, name)), done.stderr
        assert "Traceback" not in done.stderr
        assert any(not path.exists() for path in outputs)
        for path in outputs:
            assert not path.exists() or _same(path, small_results / path), path
        # A process that was only asked to end tidies up after itself; one that was killed cannot.
        assert bool(_partial(copy)) == (name == "SIGKILL")
    again = run_verb(argv)
    assert again.returncode == 0, again.stderr
    assert not _partial(copy)
    for path in outputs:
        assert _same(path, small_results / path), path


@pytest.mark.parametrize("stage", ["register a", "tile a", "train"])
def test_a_valid_result_outlives_the_kill_of_the_stage_that_would_replace_it(
    copy: Path, small_results: Path, stage: str
) -> None:
    done = run_verb(COMMANDS[stage], ("SIGKILL", 1))
    assert done.returncode == -signal.SIGKILL
    for path in _outputs(COMMANDS[stage]):
        assert _same(path, small_results / path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 60 kB, a tenth of what is to be written to it; `_resize` changes its size."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no small disk: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def _written_to(argv: list[str], folder: Path) -> list[str]:
    """The same command with its outputs in another folder."""
    moved = list(argv)
    for place, option in enumerate(argv[:-1]):
        if option.startswith("--out"):
            moved[place + 1] = str(folder / Path(argv[place + 1]).name)
    return moved


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_under_a_final_name(
    copy: Path, small_disk: Path, stage: str
) -> None:
    if stage in ("inspect a", "split", "embed a", "embed-slides", "evaluate", "evaluate-probe"):
        (small_disk / "filling").write_bytes(bytes(60 * 1024))
    argv = _written_to(COMMANDS[stage], small_disk)
    outputs = _outputs(argv)
    done = run_verb(argv)
    assert done.returncode == 1, (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "No space left on device" in errors[0], errors
    assert "Traceback" not in done.stderr
    assert any(not path.exists() for path in outputs)
    assert not _partial(small_disk)


def test_a_disk_that_fills_up_in_the_middle_of_a_training_costs_no_finished_epoch(
    copy: Path, small_results: Path, small_disk: Path
) -> None:
    argv = COMMANDS["train"]
    for path in _outputs(argv):
        _remove(path)
    assert run_verb(argv, ("SIGKILL", 3)).returncode == -signal.SIGKILL
    state_bytes = Path("results/train/distilled/state/state.pt").stat().st_size
    # Room for one state but not for two, and a new one is written beside the one that it replaces.
    _resize(small_disk, 3 * state_bytes // 2)
    moved = _written_to(argv, small_disk / "run")
    done = run_verb(moved)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "No space left on device" in error
    assert sorted(path.name for path in small_disk.rglob("*") if path.is_file()) == ["metrics.jsonl", "state.pt"]
    _resize(small_disk, 10 * state_bytes)
    again = run_verb(moved)
    assert again.returncode == 0, again.stderr
    assert "going on at epoch 2, step 1" in again.stderr
    assert _same(small_disk / "run" / "encoder", small_results / "results/train/distilled/encoder")


def test_a_training_killed_between_epochs_costs_no_finished_one(copy: Path, small_results: Path) -> None:
    """The state of the last finished epoch stays, and the rerun goes on from it to the undisturbed weights."""
    argv = COMMANDS["train"]
    for path in _outputs(argv):
        _remove(path)
    # The third file that takes its name is the state of the second epoch (state.pt and metrics.jsonl of each).
    assert run_verb(argv, ("SIGKILL", 3)).returncode == -signal.SIGKILL
    again = run_verb(argv)
    assert again.returncode == 0
    assert "going on at epoch 2, step 1" in again.stderr
    encoder = Path("results/train/distilled/encoder")
    assert _same(encoder, small_results / encoder)


@pytest.mark.parametrize("where", ["lost shard", "cut shard", "flipped pixel", "flipped table", "no metadata"])
def test_a_corrupt_store_is_told_by_every_stage_that_reads_it(
    copy: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("results/tile/a.zarr")
    shard = store / "sparse" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    if where == "lost shard":
        shard.unlink()
    elif where == "cut shard":
        shard.write_bytes(data[: len(data) // 2])
    elif where == "flipped pixel":
        # In many patches, for a stage reads its own share of them; the shard's index, at its end, stays.
        for place in range(100, len(data) - 16 * SHARD_ROWS - 100, 2000):
            data[place] ^= 1
        shard.write_bytes(data)
    elif where == "flipped table":
        (table,) = (path for path in (store / "position_px").rglob("*") if path.is_file() and path.name != "zarr.json")
        broken = bytearray(table.read_bytes())
        broken[len(broken) // 2 :] = bytes(len(broken) - len(broken) // 2)
        table.write_bytes(broken)
    else:
        (store / "zarr.json").write_text("{}")
    for stage in ("train", "embed a"):
        for path in _outputs(COMMANDS[stage]):
            if stage != "train":
                _remove(path)
        before = _contents(Path("results/train/distilled/encoder"))
        assert main(COMMANDS[stage]) == 1, (stage, where)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "a.zarr" in errors[0]
        assert _contents(Path("results/train/distilled/encoder")) == before
    assert not Path("results/embed/distilled/a.h5").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "nothing left", "a pickle"])
def test_a_corrupt_checkpoint_is_not_gone_on_from(copy: Path, small_results: Path, damage: str) -> None:
    argv = COMMANDS["train"]
    for path in _outputs(argv):
        _remove(path)
    assert run_verb(argv, ("SIGKILL", 3)).returncode == -signal.SIGKILL
    state = Path("results/train/distilled/state/state.pt")
    data = bytearray(state.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "flipped bit":
        data[len(data) // 2] ^= 1
    elif damage == "nothing left":
        data.clear()
    else:
        data = bytearray(b"cos\nsystem\n(S'touch pwned'\ntR.")
    state.write_bytes(data)
    done = run_verb(argv)
    assert done.returncode == 0, done.stderr
    assert "unreadable" in done.stderr
    assert not Path("pwned").exists()
    encoder = Path("results/train/distilled/encoder")
    assert _same(encoder, small_results / encoder)


@pytest.mark.parametrize("side", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("fate", ["gone", "cut", "another"])
def test_a_slide_that_vanishes_after_inspect_is_told_and_no_store_is_left(
    copy: Path, side: str, fate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = Path(side), Path("results/tile/a.zarr")
    shutil.rmtree(store)
    if fate == "gone":
        path.unlink()
    elif fate == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        shutil.copy("b.ome.tif" if side == "a.tif" else "b.tif", path)
    assert main(COMMANDS["tile a"]) == 1
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "slide a" in error
    assert side in error
    assert not store.exists()
    assert not _partial(Path("results/tile"))


def test_a_clock_that_jumps_back_a_year_changes_no_byte(copy: Path, small_results: Path) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed")
    # Ten days a second, from a year ago: every clock that a stage could ask runs wild while it works.
    wild = {"LD_PRELOAD": str(library), "FAKETIME": "-365d x864000", "DONT_FAKE_MONOTONIC": "1"}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | wild
    stages = ("inspect a", "register a", "tile a", "split", "train", "embed a")
    outputs = [path for stage in stages for path in _outputs(COMMANDS[stage])]
    for path in outputs:
        _remove(path)
    code = "import json, sys; from pipeline.cli import main; sys.exit(any(map(main, json.loads(sys.argv[1]))))"
    command = [sys.executable, "-P", "-c", code, json.dumps([COMMANDS[stage] for stage in stages])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    for path in outputs:
        assert _same(path, small_results / path), path


def test_sigterm_in_training_saves_the_step_it_arrives_in(copy: Path, small_results: Path) -> None:
    argv = COMMANDS["train"]
    for path in _outputs(argv):
        _remove(path)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    # As under `2>&1 | tee`: the reader of the log is ended together with the training.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline", *argv], stderr=subprocess.PIPE, env=environment, text=True
    )
    assert process.stderr is not None
    state = Path("results/train/distilled/state/state.pt")
    until = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.stderr.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    again = run_verb(argv)
    assert again.returncode == 0
    assert "going on at epoch" in again.stderr
    encoder = Path("results/train/distilled/encoder")
    assert _same(encoder, small_results / encoder)


def test_pairs_drawn_twice_are_the_same_pixels(tmp_path: Path) -> None:
    """What the comparisons of this file rest on."""
    from pipeline.slides.opening import open_slide

    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        draw_cohort(folder)
    for name in ("a.tif", "a.ome.tif"):
        with open_slide(one / name) as left, open_slide(two / name) as right:
            size = left.header.size_xy
            np.testing.assert_array_equal(left.read_region(0, (0, 0), size), right.read_region(0, (0, 0), size))
