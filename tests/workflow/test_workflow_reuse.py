"""One workflow, many cohorts: slides that come and go, this workflow as a module of another one, stages alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cohort import REPOSITORY, planned, snakemake, write_cohort
from slide_files import pyramid, smooth_rgb, write_rgb

CONFIG: dict[str, object] = {"tile": {"size_px": 64}, "runs": {"distilled": {}}}


def _row(folder: Path, slide: str) -> dict[str, str]:
    """The row of a slide that is written into `folder`."""
    write_rgb(folder / f"{slide}.tif", pyramid(smooth_rgb(300, 200), 2))
    return {"slide": slide, "patient": f"patient-of-{slide}", "sparse": f"{slide}.tif"}


@pytest.fixture
def tiled(tmp_path: Path) -> tuple[Path, list[dict[str, str]]]:
    """A cohort of two slides, inspected and tiled."""
    rows = [_row(tmp_path, slide) for slide in ("a", "b")]
    write_cohort(tmp_path, rows, CONFIG)
    done = snakemake(tmp_path, "tile_all", "--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]
    return tmp_path, rows


def test_slides_added_to_a_sheet_are_the_only_ones_that_run(tiled: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = tiled
    write_cohort(folder, [rows[0], _row(folder, "c"), rows[1]], CONFIG)
    done = snakemake(folder, "tile_all", "--cores", "2")
    assert done.returncode == 0, done.stdout[-3000:]
    assert planned(done.stdout) == {"inspect": 1, "tile": 1, "tile_all": 1, "total": 3}
    assert "slide=c" in done.stdout.replace("wildcards: ", "")
    assert "Nothing to be done" in snakemake(folder, "tile_all", "--cores", "2").stdout


def test_a_slide_taken_out_of_the_sheet_leaves_the_others_as_they_are(tiled: tuple[Path, list[dict[str, str]]]) -> None:
    folder, rows = tiled
    write_cohort(folder, rows[:1], CONFIG)
    assert "Nothing to be done" in snakemake(folder, "tile_all", "--cores", "2").stdout
    assert (folder / "results" / "tile" / "b.zarr" / "zarr.json").is_file()


def test_another_workflow_runs_this_one_as_a_module_with_results_of_its_own(tmp_path: Path) -> None:
    write_cohort(tmp_path, [_row(tmp_path, "a")], CONFIG)
    (tmp_path / "Snakefile").write_text(
        f"""configfile: "config/config.yaml"


module more_from_less:
    snakefile:
        {str(REPOSITORY / "Snakefile")!r}
    config:
        config
    pathvars:
        results="elsewhere/results",
        logs="elsewhere/logs",


use rule * from more_from_less


rule count:
    input:
        "elsewhere/results/tile/a.zarr",
    output:
        "count.txt",
    shell:
        "ls {{input}} > {{output}}"
"""
    )
    argv = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path), "-s", str(tmp_path / "Snakefile")]
    done = subprocess.run([*argv, "--cores", "1", "count"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "zarr.json" in (tmp_path / "count.txt").read_text()
    assert (tmp_path / "elsewhere" / "logs" / "tile" / "a.log").is_file()
    assert not (tmp_path / "results").exists()


_PARENT = """shell.prefix({prefix!r})


configfile: "config/config.yaml"


module more_from_less:
    snakefile:
        {snakefile!r}
    config:
        config
    prefix:
        "of-pairs"


use rule * from more_from_less


rule count:
    input:
        "of-pairs/results/tile/a.zarr",
    output:
        "environment.txt",
    shell:
        'echo "$MARK ${{{{PYTHONPATH-none}}}}" > {{output}}'
"""


def _as_module(folder: Path, target: str, prefix: str) -> subprocess.CompletedProcess[str]:
    """Runs a target of a workflow that has a prefix for its commands and uses this one with a prefix for its paths."""
    (folder / "Snakefile").write_text(_PARENT.format(prefix=prefix, snakefile=str(REPOSITORY / "Snakefile")))
    argv = [sys.executable, "-m", "snakemake", "--directory", str(folder), "-s", str(folder / "Snakefile")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*argv, "--cores", "1", target], capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def test_neither_prefix_of_another_workflow_nor_ours_reaches_the_other(tmp_path: Path) -> None:
    """Its `prefix:` is for results, not for slides; its `shell.prefix` changes no stage, and no stage its rules."""
    write_cohort(tmp_path, [_row(tmp_path, "a")], {"slides": "config/slides.tsv", "tile": {"size_px": 64}})
    done = _as_module(tmp_path, "count", "export MARK=theirs PYTHONHASHSEED=0; set +euo pipefail; ")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "environment.txt").read_text() == "theirs none\n"
    assert (tmp_path / "of-pairs" / "logs" / "tile" / "a.log").is_file()
    assert not (tmp_path / "of-pairs" / "a.tif").exists()


@pytest.mark.parametrize("prefix", ["set +euo pipefail; ", "nice ", "export PYTHONPATH=/nowhere; "])
def test_a_stage_that_fails_fails_its_rule_whatever_the_other_workflows_prefix(tmp_path: Path, prefix: str) -> None:
    row = _row(tmp_path, "a")
    (tmp_path / "a.tif").write_bytes(b"no slide")
    write_cohort(tmp_path, [row], {"slides": "config/slides.tsv"})
    done = _as_module(tmp_path, "count", prefix)
    assert done.returncode == 1
    assert "error: slide a, file a.tif" in done.stdout + done.stderr
    assert "MissingOutputException" not in done.stderr
