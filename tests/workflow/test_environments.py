"""pyproject.toml, envs/*.yaml and envs/constraints.txt say the same, and cover what the code imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from cohort import REPOSITORY

from pipeline.provenance import SOURCE_ROOT

ENVIRONMENT_OF = {
    "slides": ("demo", "panel", "inspect", "register", "tile", "split", "warp_points"),
    "valis": ("register",),
    "torch": ("train", "embed", "embed_slides", "evaluate", "evaluate_probe", "predict", "outcomes", "report"),
}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


CONSTRAINTS_OF = {"slides": "constraints.txt", "valis": "valis-constraints.txt", "torch": "constraints.txt"}
# Distributions of the environment of valis under names that the one of the tests has from elsewhere.
PROVIDERS = {"cv2": ["opencv-python-headless", "opencv-contrib-python-headless"]}


def _constraints(file: str = "constraints.txt") -> dict[str, str]:
    lines = (REPOSITORY / "envs" / file).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_canonical(name): version for name, version in pins}


def _pip_pins(environment: str) -> dict[str, str]:
    value = yaml.safe_load((REPOSITORY / "envs" / f"{environment}.yaml").read_text())
    (pip,) = (item["pip"] for item in value["dependencies"] if isinstance(item, dict))
    return {_canonical(name): version for name, version in (line.split("==") for line in pip)}


def _third_party(stage: str) -> set[str]:
    """Top-level names that a stage's code imports, ours followed and the standard library left out."""
    pending, seen, found = [f"pipeline.commands.{stage}", "pipeline.cli"], set(), set()
    while pending:
        module = pending.pop()
        base = SOURCE_ROOT.joinpath(*module.split("."))
        path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
        if module in seen or path is None:
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            pending += [name for name in names if name.startswith("pipeline")]
            found |= {name.split(".")[0] for name in names if not name.startswith("pipeline")}
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("environment", ENVIRONMENT_OF)
def test_conda_environment_holds_what_its_stages_import(environment: str) -> None:
    pins = _pip_pins(environment)
    providers = packages_distributions() | PROVIDERS
    for stage in ENVIRONMENT_OF[environment]:
        for name in _third_party(stage):
            distributions = {_canonical(item) for item in providers.get(name, [name])}
            assert distributions & set(pins), f"{stage} imports {name}, envs/{environment}.yaml lacks it"


@pytest.mark.parametrize("environment", ENVIRONMENT_OF)
def test_conda_environment_pins_the_constrained_versions(environment: str) -> None:
    constraints = _constraints(CONSTRAINTS_OF[environment])
    for name, version in _pip_pins(environment).items():
        assert constraints[name] == version


def test_every_dependency_is_pinned_and_imported_somewhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {_canonical(re.split(r"[<>=!~\[]", item)[0]) for item in project["dependencies"]}
    tools = {_canonical(re.split(r"[<>=!~\[]", item)[0]) for group in extras for item in extras[group]}
    constraints = _constraints()
    assert not (wanted | tools) - set(constraints)
    used = set(_pip_pins("slides")) | set(_pip_pins("torch"))
    # Under conda and in containers slides elsewhere are read as well.
    assert wanted | {_canonical(re.split(r"[<>=!~\[]", item)[0]) for item in extras["remote"]} == used


@pytest.mark.parametrize("file", sorted({*CONSTRAINTS_OF.values(), "peers.txt"}))
def test_constraints_hold_names_and_versions_only(file: str) -> None:
    for line in (REPOSITORY / "envs" / file).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line), line


def test_the_page_on_outputs_names_the_readers_that_open_them_in_the_tests() -> None:
    pins, page = _constraints("peers.txt"), (REPOSITORY / "docs" / "outputs.md").read_text()
    for name in ("anndata", "spatialdata", "wsidata"):
        assert f"{name} {pins[name]}" in page
    assert f"({pins['imagecodecs-zarr']} on Python 3.12" in page


def test_every_conda_file_is_named_by_a_rule_and_exists() -> None:
    named = set()
    for rules in (REPOSITORY / "workflow" / "rules").glob("*.smk"):
        named |= set(re.findall(r"envs/(\w+)\.yaml", rules.read_text()))
    assert named == {path.stem for path in Path(REPOSITORY / "envs").glob("*.yaml")} == set(ENVIRONMENT_OF)


def test_environment_of_valis_shares_the_large_packages_with_the_other() -> None:
    """Equal versions of PyTorch are downloaded once."""
    for name in ("torch", "torchvision", "SimpleITK", "scipy", "scikit-image"):
        assert _pip_pins("valis")[_canonical(name)] == _constraints()[_canonical(name)]


def test_what_the_snakefile_imports_needs_no_more_than_snakemake_brings() -> None:
    code = (
        "import sys\n"
        "import pipeline.errors, pipeline.provenance, pipeline.settings, pipeline.sheet\n"
        "print(' '.join({name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    heavy = {"numpy", "pandas", "torch", "zarr", "cv2", "h5py", "SimpleITK", "openslide", "tifffile", "scipy"}
    assert not heavy & set(done.stdout.split())
