"""Build the Snakemake command of `mfl run`: the right Snakefile, a folder, all cores by default."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.installation import snakefile
from pipeline.provenance import SOURCE_ROOT

# Whoever gives one of these has said where jobs run.
_SAYS_CORES = ("--cores", "-c", "--jobs", "-j", "--executor", "-e", "--profile", "--workflow-profile")
# What these print is what was asked for.
_PRINTS = {
    "--dry-run", "--dryrun", "-n", "--lint", "--summary", "-S", "--list-rules", "--list", "-l", "--dag", "--help", "-h"
}  # fmt: skip
_CONFIGURATION = Path("config/config.yaml")
# Tells stage.sh to leave what a stage prints to its log.
QUIET = "MFL_QUIET"
# Tells the logger the folder as the user named it, since Snakemake changes to it before anything is printed.
COHORT = "MFL_COHORT"


def snakemake_command(directory: Path | None, argv: Sequence[str], *, verbose: bool) -> list[str]:
    """Return the command, beginning with the interpreter.

    Args:
        directory: of the cohort; None where it was not given, which is the working directory.
        argv: for Snakemake, as given.
        verbose: whether Snakemake prints its own lines.

    Raises:
        StatedError: if Snakemake is not installed, the folder holds no cohort, or several could be meant.
    """
    if find_spec("snakemake") is None:
        expected = 'Snakemake (pip install "more-from-less[workflow]")'
        raise StatedError(expected=expected, found="none in this environment")
    folder = directory or Path()
    if "--configfile" not in argv:
        _check_cohort(folder, given=directory is not None)
    command = [sys.executable, "-m", "snakemake", "-s", str(snakefile()), "--directory", str(folder), *argv]
    if not any(argument.split("=")[0] in _SAYS_CORES or _is_short(argument) for argument in argv):
        command += ["--cores", "all"]
    if not verbose and not any(argument in _PRINTS for argument in argv):
        command += ["--logger", "mfl"]
    return command


def environment(command: Sequence[str], known: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the command: this package is importable, and stages are quiet where Snakemake is."""
    path = os.pathsep.join(filter(None, (str(SOURCE_ROOT), known.get("PYTHONPATH", ""))))
    quiet = {QUIET: "1"} if "--logger" in command else {}
    return {**known, "PYTHONPATH": path, **quiet}


def _is_short(argument: str) -> bool:
    """Return whether a word is `-c4` or `-j8`."""
    return argument[:2] in ("-c", "-j") and argument[2:].isdecimal()


def _check_cohort(folder: Path, *, given: bool) -> None:
    cohorts = cohorts_in(folder)
    if not (folder / _CONFIGURATION).is_file():
        where = f"it is one of {', '.join(map(str, cohorts))}" if cohorts else "mfl init writes one"
        expected = f"the configuration of a cohort (--directory says where it lies; {where})"
        raise StatedError(file=folder / _CONFIGURATION, expected=expected, found="none")
    if given or folder.resolve() != SOURCE_ROOT:
        return
    if cohorts:
        expected = f"--directory with the cohort to run ({', '.join(map(str, cohorts))}; . is the demo)"
        raise StatedError(expected=expected, found="none, in the folder of the demo")


def cohorts_in(folder: Path) -> list[Path]:
    """Return the folders of cohorts that lie in a folder, hidden ones aside."""
    found = (path.parents[1] for path in folder.glob(f"*/{_CONFIGURATION}"))
    return sorted(path for path in found if not path.name.startswith("."))
