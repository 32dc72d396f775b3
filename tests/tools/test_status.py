"""`status` tells what is done, failed, running and left, from files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cohort import write_cohort

from pipeline.cli import main

CONFIG: dict[str, object] = {"runs": {"distilled": {}, "sparse-only": {"branches": ["sparse", "sparse"]}}}


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three slides, two of them pairs, of which nothing was made."""
    rows = [{"slide": name, "patient": name, "sparse": f"{name}.tif"} for name in "abc"]
    for row in rows[:2]:
        row["dense"] = f"{row['slide']}.ome.tif"
    write_cohort(tmp_path / "cohort", rows, CONFIG)
    monkeypatch.chdir(tmp_path)
    return Path("cohort")


def made(cohort: Path, result: str, text: str = "") -> None:
    path = cohort / "results" / result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def logged(cohort: Path, name: str, text: str = "") -> Path:
    path = cohort / "logs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def timed(cohort: Path, name: str, seconds: float, end: float) -> None:
    path = logged(cohort, name, f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t1.0\n")
    os.utime(path, (end, end))


def status(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert main(["status", "cohort", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {stage["stage"]: stage for stage in found["stages"]} | {"whole": found}


def test_a_new_cohort_has_all_to_do(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = status(capsys)
    totals = {name: stage["total"] for name, stage in found.items() if name != "whole"}
    assert totals == {
        "inspect": 3, "panel": 2, "register": 2, "tile": 3, "split": 1, "train": 2, "embed": 3 + 2, "embed-slides": 1,
        "evaluate": 1, "evaluate-probe": 1, "predict": 3, "report": 1,
    }  # fmt: skip
    assert all(stage["left"] == stage["total"] for name, stage in found.items() if name != "whole")
    assert found["whole"]["report"] is None


def test_done_failed_running_and_left_are_told_apart(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(cohort, "inspect/a.json")
    logged(cohort, "inspect/a.log", "error: of an earlier try\n")
    logged(cohort, "inspect/b.log", "a line\nerror: slide b: expected a slide file, found an empty file\n")
    logged(cohort, "inspect/c.log", "at work\n")
    (cohort / ".snakemake" / "locks").mkdir(parents=True)
    assert status(capsys)["inspect"]["running"] == []
    (cohort / ".snakemake" / "locks" / "0.input.lock").touch()
    inspect = status(capsys)["inspect"]
    reason = "slide b: expected a slide file, found an empty file"
    assert inspect["failed"] == [{"subject": "b", "reason": reason, "result": "inspect/b.json"}]
    assert (inspect["done"], inspect["running"], inspect["left"]) == (1, ["c"], 0)
    assert main(["status", "cohort"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"failed: inspect b: {reason}" in lines
    assert "  try again: mfl run --directory cohort results/inspect/b.json" in lines


def test_what_is_left_takes_as_long_as_what_is_done_side_by_side(
    cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        made(cohort, f"inspect/{name}.json")
    timed(cohort, "inspect/a.benchmark.tsv", 10, 1000)
    timed(cohort, "inspect/b.benchmark.tsv", 10, 1010)
    assert status(capsys)["inspect"]["seconds_left"] == pytest.approx(10)
    made(cohort, "tile/a.zarr")
    timed(cohort, "tile/a.benchmark.tsv", 10, 1000)
    assert status(capsys)["tile"]["seconds_left"] == pytest.approx(20)
    assert status(capsys)["train"]["seconds_left"] is None


def test_tasks_that_ran_together_are_taken_to_do_so_again(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("distilled", "sparse-only"):
        for slide in "ab":
            made(cohort, f"embed/{run}/{slide}.h5")
            timed(cohort, f"embed/{run}/{slide}.benchmark.tsv", 10, 1000)
    assert status(capsys)["embed"]["at_once"] == pytest.approx(4)
    assert status(capsys)["embed"]["seconds_left"] == pytest.approx(10)


def test_verdicts_are_counted_and_a_broken_one_is_not(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(cohort, "register/a/qc.json", json.dumps({"verdict": "warn"}))
    made(cohort, "register/b/qc.json", "{")
    assert status(capsys)["whole"]["verdicts"] == {"warn": 1}


def test_a_whole_cohort_has_nothing_left(cohort: Path, small_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tasks are those whose results the stages leave under these very names."""
    (cohort / "results").symlink_to(small_results / "results")
    rows = [
        {"slide": name, "patient": name, "sparse": "x.tif", "dense": "y.tif", "transform": "identity"} for name in "ab"
    ]
    write_cohort(cohort, rows, {"runs": {"distilled": {}}})
    found = status(capsys)
    missing = {name: stage["left"] for name, stage in found.items() if name != "whole" and stage["left"]}
    assert set(missing) <= {"embed-slides", "evaluate-probe", "predict", "report"}, missing


def test_a_folder_without_a_cohort_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 1
    assert "config.yaml" in capsys.readouterr().err
