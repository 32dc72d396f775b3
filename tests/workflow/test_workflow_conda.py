"""--use-conda from our side: environments per rule, our code in them without being installed. See conda_stand_in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cohort import REPOSITORY, snakemake, write_cohort
from conda_stand_in import write_conda
from slide_files import pyramid, smooth_rgb, write_rgb


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conda(tmp_path_factory.mktemp("conda"))


@pytest.fixture
def cohort(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cohort of one slide in a folder with a space in its name, and the stand-in on PATH."""
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "a cohort"
    folder.mkdir()
    write_rgb(folder / "a.tif", pyramid(smooth_rgb(300, 200), 2))
    write_cohort(folder, [{"slide": "a", "patient": "p", "sparse": "a.tif"}], {"runs": {"distilled": {}}})
    return folder


def _clone(folder: Path, version: str) -> Path:
    """A checkout of its own, of another version."""
    for part in ("pipeline", "workflow", "config", "envs"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "Snakefile", folder)
    (folder / "pipeline" / "__init__.py").write_text(f'"""Another version."""\n\n__version__ = "{version}"\n')
    return folder


def _used(prefix: Path) -> list[str]:
    """What the interpreters of the environments below `prefix` ran."""
    return [line for path in prefix.glob("*/used.txt") for line in path.read_text().splitlines()]


def _inspected(cohort: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((cohort / "results" / "inspect" / "a.json").read_text())["provenance"]
    return found


def test_a_rule_runs_in_its_own_environment_with_the_code_of_this_checkout(cohort: Path) -> None:
    done = snakemake(cohort, "inspect_all", "--cores", "1", "--use-conda")
    assert done.returncode == 0, done.stdout[-3000:]
    assert [line for line in _used(cohort / ".snakemake" / "conda") if "-m pipeline inspect" in line]
    assert _inspected(cohort)["stage"] == "inspect"


def test_our_package_is_not_installed_in_the_environments(cohort: Path) -> None:
    assert snakemake(cohort, "inspect_all", "--cores", "1", "--use-conda").returncode == 0
    (python,) = (cohort / ".snakemake" / "conda").glob("*/bin/python")
    found = subprocess.run([python, "-P", "-c", "import zarr, pipeline"], capture_output=True, text=True, check=False)
    assert "No module named 'pipeline'" in found.stderr


def test_two_checkouts_share_an_environment_and_each_runs_its_own_code(cohort: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "shared environments"
    for version in ("8.1", "8.2"):
        source = _clone(tmp_path / version, version)
        argv = ("inspect_all", "--cores", "1", "--use-conda", "--conda-prefix", str(prefix), "--forcerun", "inspect")
        done = snakemake(cohort, *argv, source=source)
        assert done.returncode == 0, done.stdout[-3000:]
        assert _inspected(cohort)["versions"]["more-from-less"] == version
    assert len(list(prefix.glob("*/used.txt"))) == 1


def test_an_environment_that_cannot_be_made_stops_before_any_job(cohort: Path, tmp_path: Path) -> None:
    source = _clone(tmp_path / "other", "9")
    pins = source / "envs" / "slides.yaml"
    pins.write_text(pins.read_text().replace("zarr==", "zarr==999."))
    done = snakemake(cohort, "inspect_all", "--cores", "1", "--use-conda", source=source)
    assert done.returncode == 1
    assert "zarr==999." in done.stdout
    assert not (cohort / "results").exists()
