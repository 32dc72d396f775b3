"""`mfl run` is Snakemake with the right Snakefile, told in a line per slide and stage."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cohort import REPOSITORY, write_cohort
from small_pair import draw_pair

from pipeline.errors import StatedError
from pipeline.installation import snakefile, workflow_root
from pipeline.stage_log import last_error
from pipeline.tools.running.command import QUIET, environment, snakemake_command
from pipeline.tools.running.narration import Job, Narration

CONFIG: dict[str, object] = {"tile": {"size_px": 64, "mpp": 0.5}}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two pairs that are registered already, in a folder `cohort`."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    write_cohort(folder, [draw_pair(folder, name, seed) for seed, name in enumerate("ab")], CONFIG)
    return folder


def run(cohort: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "run", "--directory", "cohort", *argv]
    return subprocess.run(
        command,
        cwd=cohort.parent,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_command_is_snakemake_with_the_snakefile_and_all_cores(cohort: Path) -> None:
    start = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--directory", str(cohort)]
    assert snakemake_command(cohort, ["tile_all"], verbose=True) == [*start, "tile_all", "--cores", "all"]
    for argv in (["--cores", "2"], ["-c2"], ["-j", "1"], ["--cores=all"], ["--workflow-profile", "x"]):
        assert snakemake_command(cohort, argv, verbose=True) == [*start, *argv]


def test_a_dry_run_prints_its_plan_and_stages_are_quiet_only_with_the_logger(cohort: Path) -> None:
    assert "--logger" not in snakemake_command(cohort, ["-n"], verbose=False)
    quiet = snakemake_command(cohort, [], verbose=False)
    assert quiet[-2:] == ["--logger", "mfl"]
    assert environment(quiet, {})[QUIET] == "1"
    assert QUIET not in environment(snakemake_command(cohort, [], verbose=True), {})


def test_a_forgotten_directory_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StatedError, match="mfl init writes one"):
        snakemake_command(None, [], verbose=False)
    write_cohort(tmp_path / "yours", [], {})
    with pytest.raises(StatedError, match=r"it is one of yours\)"):
        snakemake_command(None, [], verbose=False)
    shutil.rmtree(tmp_path / "yours")
    # The folder of the demo, and a cohort in it.
    monkeypatch.setattr("pipeline.tools.running.command.SOURCE_ROOT", tmp_path)
    write_cohort(tmp_path, [], {})
    assert snakemake_command(None, [], verbose=False)
    write_cohort(tmp_path / "mine", [], {})
    with pytest.raises(StatedError, match=r"--directory with the cohort to run \(mine; \. is the demo\)"):
        snakemake_command(None, [], verbose=False)
    assert snakemake_command(Path(), [], verbose=False)


def test_the_workflow_is_found_in_a_checkout_and_beside_an_installed_package(tmp_path: Path) -> None:
    assert workflow_root() == REPOSITORY
    assert workflow_root(tmp_path) == tmp_path / "more_from_less"
    assert snakefile(tmp_path) == tmp_path / "more_from_less" / "workflow" / "Snakefile"


class Told:
    """A narration whose lines are kept and whose clock stands still unless moved."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.narration = Narration(self.lines.append, lambda: self.now, cohort="cohort")

    def begin(self, number: int, rule: str, output: list[str], log: list[str], **wildcards: str) -> None:
        record = {"rule_name": rule, "wildcards": wildcards, "output": output, "log": log}
        self.narration.began(number, Job.of(record, self.now))


def test_a_line_per_job_with_its_time_and_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qc.json").write_text('{"verdict": "warn", "reasons": ["few nuclei"]}')
    told = Told()
    told.narration.planned({"register": 1, "embed": 1, "all": 1, "default": 1, "total": 4})
    told.begin(1, "register", ["qc.json"], [], slide="a")
    told.begin(2, "embed", [], [], slide="a", name="distilled")
    told.now = 75.0
    told.narration.finished(1)
    told.narration.finished(2)
    assert told.lines[0] == "to do: register 1, embed 1"
    assert re.fullmatch(r"\[1/2\] register a +1 min 15 s  warn: few nuclei", told.lines[1])
    assert re.fullmatch(r"\[2/2\] embed a by distilled +1 min 15 s", told.lines[2])


def test_what_failed_comes_at_the_end_with_its_line_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.log").write_text("error: slide a: expected a slide, found none\n")
    told = Told()
    told.begin(1, "tile", ["results/tile/a.zarr"], ["a.log"], slide="a")
    told.begin(2, "tile", ["results/tile/b.zarr"], ["b.log"], slide="b")
    told.narration.failed_job(1)
    told.narration.failed_job(2)
    # A cluster tries again.
    told.begin(3, "tile", ["results/tile/b.zarr"], ["b.log"], slide="b")
    told.narration.finished(3)
    told.narration.end()
    assert told.lines[-3:] == [
        "1 failed; what rests on them was not run:",
        "  tile a: slide a: expected a slide, found none",
        "    try again: mfl run --directory cohort results/tile/a.zarr",
    ]


@pytest.mark.parametrize(
    "log",
    ["tile: 3/9 patches\ninterrupted\n", 'Traceback (most recent call last):\n  File "a.py"\nKeyboardInterrupt\n'],
)
def test_what_ctrl_c_has_ended_did_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.log").write_text(log)
    told = Told()
    told.begin(1, "tile", ["results/tile/a.zarr"], ["a.log"], slide="a")
    told.narration.failed_job(1)
    told.narration.end()
    assert told.lines == ["interrupted: tile a; the same command goes on from here"]


def test_snakemakes_own_errors_are_told_and_its_repetitions_are_not() -> None:
    told = Told()
    told.narration.message("WorkflowError:\nno rule makes it", is_error=True, is_warning=False)
    shell = "CalledProcessError in file tile.smk, line 3:\nCommand 'set -euo pipefail;  bash stage.sh' returned 1."
    told.narration.message(shell, is_error=True, is_warning=False)
    told.narration.message("Shutting down, this might take some time.", is_error=False, is_warning=True)
    told.narration.message("Assuming unrestricted shared filesystem usage.", is_error=False, is_warning=False)
    assert told.lines == ["WorkflowError:\nno rule makes it"]


@pytest.mark.slow
def test_a_run_is_told_in_few_lines_and_its_results_are_those_of_snakemake(cohort: Path) -> None:
    done = run(cohort, "tile_all")
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) <= 12
    assert lines[0] == "to do: inspect 2, register 2, tile 2"
    assert sum("tile" in line for line in lines[1:]) == 2
    plan = run(cohort, "--", "-n", "tile_all")
    assert "Nothing to be done" in plan.stdout + plan.stderr
    assert (cohort / "logs" / "tile" / "a.log").read_text()
    again = run(cohort, "tile_all")
    assert "nothing to do: all is there and up to date" in again.stderr
    assert run(cohort, "register_all").stderr.count("pass") >= 2


@pytest.mark.slow
def test_a_failure_ends_with_snakemakes_exit_code_and_the_command_that_tries_again(cohort: Path) -> None:
    (cohort / "b.tif").write_bytes((cohort / "b.tif").read_bytes()[:5000])
    done = run(cohort, "--", "--cores", "2", "--keep-going", "tile_all")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert sum(line.startswith("FAILED inspect b: slide b, file b.tif: expected ") for line in lines) == 1
    assert "    try again: mfl run --directory cohort results/inspect/b.json" in lines
    assert "Traceback" not in done.stderr
    assert len(lines) <= 15


@pytest.mark.slow
def test_ctrl_c_reaches_snakemake_which_unlocks_the_folder(cohort: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "--directory", "cohort", "tile_all"]
    process = subprocess.Popen(
        command,
        cwd=cohort.parent,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("to do:")
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode != 0, told
    assert "FAILED" not in told
    assert not list((cohort / ".snakemake" / "locks").glob("*"))


@pytest.mark.parametrize("quiet", ["", "1"])
def test_a_stage_that_was_killed_is_told_in_its_log_and_keeps_its_exit_code(tmp_path: Path, quiet: str) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o755)
    log = tmp_path / "a.log"
    command = ["bash", str(REPOSITORY / "workflow" / "stage.sh"), str(killed), str(log), "tile"]
    done = subprocess.run(
        command, env=os.environ | {QUIET: quiet}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert "killed" in last_error(log)
    assert not quiet or len(done.stderr.splitlines()) == 1, done.stderr
