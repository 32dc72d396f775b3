"""Snakemake under bad luck: bad slides among good ones, two of it at once, killed half-way, times in the future."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cohort import REPOSITORY, planned, snakemake, write_cohort
from small_pair import draw_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG: dict[str, object] = {"tile": {"size_px": 64, "mpp": 0.5}}


def _cohort(folder: Path, slides: int) -> list[dict[str, str]]:
    """A cohort of that many slides, all from one file."""
    row = draw_pair(folder, "drawn", 0)
    rows = []
    for number in range(slides):
        name = f"s{number}"
        (folder / f"{name}.tif").hardlink_to(folder / row["sparse"])
        rows.append({"slide": name, "patient": f"p{number}", "sparse": f"{name}.tif"})
    write_cohort(folder, rows, CONFIG | {"runs": {"distilled": {}}})
    return rows


def _stores(folder: Path) -> dict[str, dict[str, bytes]]:
    """Files by name of every store that has its final name."""
    return {
        store.name: {
            str(path.relative_to(store)): path.read_bytes()
            for path in store.rglob("*")
            if path.is_file() and path.name != ".snakemake_timestamp"
        }
        for store in sorted((folder / "results" / "tile").glob("*.zarr"))
    }


def test_two_bad_slides_of_ten_are_named_the_others_done_and_the_rerun_does_only_those(tmp_path: Path) -> None:
    rows = _cohort(tmp_path, 10)
    whole = (tmp_path / "s3.tif").read_bytes()
    for name, content in (("s3.tif", whole[: len(whole) // 2]), ("s7.tif", b"this is no slide\n")):
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content)
    done = snakemake(tmp_path, "--cores", "2", "--keep-going", "tile_all")
    assert done.returncode == 1
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert [line[:15] for line in sorted(errors)] == ["error: slide s3", "error: slide s7"]
    assert all("expected" in line and "found" in line for line in errors)
    assert "Traceback" not in done.stdout
    good = {f"{row['slide']}.zarr" for row in rows} - {"s3.zarr", "s7.zarr"}
    before = _stores(tmp_path)
    assert set(before) == good
    for name in ("s3.tif", "s7.tif"):
        (tmp_path / name).write_bytes(whole)
    again = snakemake(tmp_path, "--cores", "2", "tile_all")
    assert again.returncode == 0, again.stdout[-3000:]
    jobs = planned(again.stdout)
    assert (jobs["inspect"], jobs["tile"]) == (2, 2)
    after = _stores(tmp_path)
    assert {name: after[name] for name in good} == before
    assert len(after) == 10


def _start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    return subprocess.Popen(
        [*command, "--cores", "1", "tile_all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait_for_a_result(folder: Path) -> None:
    until = time.monotonic() + 300
    while not list(folder.glob("results/inspect/*.json")):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_second_snakemake_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    _cohort(tmp_path, 3)
    first = _start(tmp_path)
    try:
        _wait_for_a_result(tmp_path)
        assert first.poll() is None
        # The first holds still meanwhile, so that it cannot end before the second begins.
        first.send_signal(signal.SIGSTOP)
        second = snakemake(tmp_path, "--cores", "1", "tile_all")
    finally:
        first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=600)
    assert second.returncode == 1
    # Which of the two it meets first depends on the job that the first is at.
    assert "cannot be locked" in second.stdout or "Incomplete files" in second.stdout
    assert first.returncode == 0, output[-3000:]
    assert len(_stores(tmp_path)) == 3
    assert "Nothing to be done" in snakemake(tmp_path, "--cores", "1", "tile_all").stdout


def test_a_workflow_killed_half_way_goes_on_to_the_undisturbed_results(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    _cohort(calm, 3)
    shutil.copytree(calm, killed)
    assert snakemake(calm, "--cores", "2", "tile_all").returncode == 0
    process = _start(killed)
    _wait_for_a_result(killed)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    stores = _stores(calm)
    assert all(store == stores[name] for name, store in _stores(killed).items())
    assert snakemake(killed, "--unlock").returncode == 0
    again = snakemake(killed, "--cores", "2", "--rerun-incomplete", "tile_all")
    assert again.returncode == 0, again.stdout[-3000:]
    assert _stores(killed) == stores
    assert not list(killed.rglob("*.partial"))


def test_slides_dated_in_the_future_are_told_leave_nothing_and_once_redated_give_the_undisturbed_results(
    tmp_path: Path,
) -> None:
    """A scanner's clock may run ahead; Snakemake would rerun such slides for ever, so it stops and says which."""
    calm, ahead = tmp_path / "calm", tmp_path / "ahead"
    calm.mkdir()
    _cohort(calm, 2)
    shutil.copytree(calm, ahead)
    tomorrow = time.time() + 86400
    for path in ahead.glob("*.tif"):
        os.utime(path, (tomorrow, tomorrow))
    assert snakemake(calm, "--cores", "2", "tile_all").returncode == 0
    told = snakemake(ahead, "--cores", "2", "tile_all")
    assert told.returncode == 1
    assert "older modification time" in told.stdout
    assert "s0.tif" in told.stdout
    assert not list(ahead.glob("results/inspect/*.json"))
    for path in ahead.glob("*.tif"):
        os.utime(path)
    assert snakemake(ahead, "--cores", "2", "tile_all").returncode == 0
    assert _stores(ahead) == _stores(calm)
