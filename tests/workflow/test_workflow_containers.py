"""--sdm apptainer from our side: which rule runs in which image, with its interpreter and the code of this checkout.

Where there is no Apptainer a stand-in runs the command outside of any image, with a `python` of its own on PATH. It
says nothing of the images themselves, which nothing here can build.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from cohort import REPOSITORY, snakemake, write_cohort
from slide_files import pyramid, smooth_rgb, write_rgb

_APPTAINER = """#!/usr/bin/env bash
if [ "$1" = --version ]; then echo "apptainer version 1.4.0"; exit; fi
printf '%s\\n' "$*" >> {log}
while [ "$1" != exec ]; do shift; done
while [[ "$1" != *.sif ]]; do shift; done
shift
PATH={programs}:$PATH exec "$@"
"""


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cohort of one slide, two images, and an `apptainer` on PATH that notes its calls in calls.txt."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "apptainer").write_text(_APPTAINER.format(log=tmp_path / "calls.txt", programs=inside))
    (inside / "python").write_text(f'#!/bin/sh\nINSIDE=1 exec {sys.executable} "$@"\n')
    for program in (outside / "apptainer", inside / "python"):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{outside}{os.pathsep}{os.environ['PATH']}")
    for image in ("slides.sif", "torch.sif"):
        (tmp_path / image).write_bytes(b"an image")
    return tmp_path


def _configure(cohort: Path, **containers: str) -> None:
    write_rgb(cohort / "a.tif", pyramid(smooth_rgb(300, 200), 2))
    rows = [{"slide": "a", "patient": "p", "sparse": "a.tif"}]
    write_cohort(cohort, rows, {"runs": {"distilled": {}}, "containers": containers})


def test_a_rule_runs_in_its_image_with_the_images_interpreter(cohort: Path) -> None:
    _configure(cohort, slides="slides.sif", torch="torch.sif")
    done = snakemake(cohort, "inspect_all", "--cores", "1", "--sdm", "apptainer")
    assert done.returncode == 0, done.stdout[-3000:]
    calls = (cohort / "calls.txt").read_text().splitlines()
    assert [call for call in calls if "slides.sif" in call and " python " in call and " inspect " in call]
    assert not [call for call in calls if "torch.sif" in call or sys.executable in call]
    assert json.loads((cohort / "results" / "inspect" / "a.json").read_text())["provenance"]["stage"] == "inspect"


def test_without_apptainer_images_change_nothing(cohort: Path) -> None:
    _configure(cohort, slides="slides.sif", torch="torch.sif")
    assert snakemake(cohort, "inspect_all", "--cores", "1").returncode == 0
    assert not (cohort / "calls.txt").exists()


@pytest.mark.parametrize(
    ("containers", "error"),
    [
        ({}, "containers.slides: expected an image, because of --sdm apptainer, found none"),
        ({"slides": "slides.sif"}, "slides names an image, torch none: give both or neither"),
    ],
)
def test_a_missing_image_stops_the_plan_with_one_line(cohort: Path, containers: dict[str, str], error: str) -> None:
    _configure(cohort, **containers)
    done = snakemake(cohort, "inspect_all", "--cores", "1", "--sdm", "apptainer")
    assert done.returncode == 1
    assert error in done.stdout
    assert not (cohort / "results").exists()


def test_every_rule_that_has_a_conda_environment_has_its_image() -> None:
    for path in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        for body in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            environments, images = (
                set(re.findall(pattern, body)) for pattern in (r"envs/(\w+)\.yaml", r'"(\w+)"\s*(?:if|\)|else)')
            )
            if environments:
                assert "    container:" in body, body.splitlines()[0]
                assert environments <= images, body.splitlines()[0]


@pytest.mark.parametrize("environment", ["slides", "torch", "valis"])
def test_an_image_installs_what_the_conda_file_pins(environment: str) -> None:
    """The image's own command, run on the file that it copies."""
    definition = (REPOSITORY / "envs" / f"{environment}.Dockerfile").read_text()
    assert f"COPY {environment}.yaml /opt/environment.yaml" in definition
    (pattern,) = re.findall(r"sed -n 's/(.*)/\\1/p'", definition)
    file = REPOSITORY / "envs" / f"{environment}.yaml"
    expression = pattern.replace(r"\(", "(").replace(r"\)", ")")
    found = [match[1] for line in file.read_text().splitlines() if (match := re.match(expression, line))]
    (pip,) = (item["pip"] for item in yaml.safe_load(file.read_text())["dependencies"] if isinstance(item, dict))
    assert found == pip
