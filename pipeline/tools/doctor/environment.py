"""Compare the installed packages with the versions that the project is tested with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml

from pipeline.errors import StatedError
from pipeline.installation import workflow_root
from pipeline.provenance import SOURCE_ROOT
from pipeline.tools.doctor.findings import Finding, ok, problem, warning

_OLDEST_PYTHON = (3, 11)
_ENVS = workflow_root() / "envs"


def examine_python() -> Iterator[Finding]:
    """Yield the interpreter's version."""
    found = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    yield (
        ok("python", found)
        if sys.version_info >= _OLDEST_PYTHON
        else problem("python", f"expected 3.11, found {found}")
    )


def examine_packages(*, use_conda: bool, envs: Path = _ENVS) -> Iterator[Finding]:
    """Yield what the stages import, by the pins of `envs/*.yaml`: there or not, tested or another version.

    Under conda each rule has a separate environment, made when it first runs; then only conda itself is looked for.
    """
    if use_conda:
        there = shutil.which("conda")
        yield ok("conda", there) if there else problem("conda", "expected conda on the path, found none")
        return
    try:
        pins = pinned(envs)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        found = str(StatedError(file=envs, expected="the folder of pinned environments", found=repr(error)))
        yield warning("packages", f"not compared: {found}")
        return
    missing, other = [], []
    for name, wanted in pins.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found != wanted:
            other.append(f"{name} {found} ({wanted})")
    if missing:
        yield problem(
            "packages", f"not installed: {', '.join(missing)} (with --use-conda Snakemake makes environments)"
        )
    if other:
        yield warning("packages", f"another version than is tested (in brackets): {', '.join(other)}")
    if not missing and not other:
        yield ok("packages", f"{len(pins)} as tested")


def examine_engine(engine: str, *, use_conda: bool, root: Path = SOURCE_ROOT) -> Iterator[Finding]:
    """Yield whether the interpreter of the engine valis is there; the other engines need none."""
    if engine == "valis" and not use_conda and not (root / ".venv-valis" / "bin" / "python").exists():
        yield problem("engine", f"expected .venv-valis in {root} (make valis), found none")


def pinned(envs: Path) -> dict[str, str]:
    """Return version by distribution of all conda environments of the project."""
    pins: dict[str, str] = {}
    # The environment of the engine valis is another interpreter's.
    files = sorted(path for path in envs.glob("*.yaml") if path.stem != "valis")
    if not files:
        raise FileNotFoundError(f"no .yaml in {envs}")
    for path in files:
        dependencies = yaml.safe_load(path.read_text(encoding="utf-8"))["dependencies"]
        for group in dependencies:
            if isinstance(group, dict):
                pins |= dict(line.split("==", 1) for line in group["pip"] if "==" in line)
    return pins
