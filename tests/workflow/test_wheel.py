"""A wheel brings the workflow along: installed elsewhere, `mfl run` makes what a checkout makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from cohort import REPOSITORY, snakemake, write_cohort
from small_pair import draw_pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOURCES = ("pipeline", "workflow", "envs", "snakemake_logger_plugin_mfl")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy: setuptools leaves a folder `build` behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    (path,) = (folder / "dist").glob("more_from_less-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and third-party packages lent by the one that runs the tests; its `bin`."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # A path in a .pth file lends packages, but not the editable installation of this checkout.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "bin" / "python"),
        "install",
        "--quiet",
        "--no-deps",
    ]
    subprocess.run([*command, "--ignore-installed", str(wheel)], check=True, timeout=300)
    return folder / "bin"


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_the_wheel_holds_every_file_of_package_and_workflow(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    wanted = set()
    for name in SOURCES:
        files = [path for path in (REPOSITORY / name).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        prefix = "more_from_less/" if name in ("workflow", "envs") else ""
        wanted |= {prefix + path.relative_to(REPOSITORY).as_posix() for path in files}
    assert wanted <= names, wanted - names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "pipeline",
        "more_from_less",
        "snakemake_logger_plugin_mfl",
    }


def test_mfl_runs_a_cohort_and_leaves_what_a_checkout_leaves(installed: Path, tmp_path: Path) -> None:
    cohorts = [tmp_path / "by-wheel", tmp_path / "by-checkout"]
    cohorts[0].mkdir()
    write_cohort(cohorts[0], [draw_pair(cohorts[0], "a", 0)], {"tile": {"size_px": 64, "mpp": 0.5}})
    # Copied, not drawn again: an OME-TIFF has a random identifier.
    shutil.copytree(cohorts[0], cohorts[1])
    mfl = str(installed / "mfl")
    where = _run(tmp_path, str(installed / "python"), "-c", "import pipeline; print(pipeline.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed.parent)
    told = _run(tmp_path, mfl, "doctor", "--directory", "by-wheel").stdout
    assert "ok       packages: " in told
    assert "ok       slides: 1 of 1 open" in told
    done = _run(tmp_path, mfl, "run", "--directory", "by-wheel", "--", "--cores", "2", "tile_all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tile a" in done.stderr
    assert snakemake(cohorts[1], "--cores", "2", "tile_all").returncode == 0
    stores = [
        {
            path.relative_to(cohort): path.read_bytes()
            for path in (cohort / "results" / "tile" / "a.zarr").rglob("*")
            if path.is_file() and path.name != ".snakemake_timestamp"
        }
        for cohort in cohorts
    ]
    assert stores[0]
    assert stores[0] == stores[1]
    # The code is the same, so that what the wheel made is not made again by the checkout.
    again = snakemake(cohorts[0], "--cores", "2", "--dry-run", "tile_all")
    assert "Nothing to be done" in again.stdout, again.stdout


def test_a_conda_environment_takes_the_package_and_none_of_its_neighbours(installed: Path, tmp_path: Path) -> None:
    (site,) = installed.parent.glob("lib/*/site-packages")
    script = site / "more_from_less" / "workflow" / "stage.sh"
    # As conda's: found by its bare name, with third-party packages of its own and without ours.
    (tmp_path / "python").write_text(f'#!/bin/sh\nls "$PYTHONPATH" >seen\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(script), "python", "log", "settings"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, timeout=120)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text().split() == ["pipeline"]
    assert (tmp_path / "log").read_text().startswith("# The configuration")
