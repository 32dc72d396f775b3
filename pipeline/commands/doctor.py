"""`doctor`: find what will fail before a long run does."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder of the cohort, which paths are relative to",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("config/config.yaml"),
        metavar="YAML",
        help="the configuration of the cohort",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="where the results will lie"
    )
    parser.add_argument("--use-conda", action="store_true", help="the run will make its own environments with conda")


def run(parsed: argparse.Namespace) -> None:
    """Write one line per finding to standard output.

    Raises:
        StatedError: if any of them is a problem.
    """
    import contextlib
    import sys

    from pipeline.errors import StatedError
    from pipeline.tools.doctor.examine import examine

    problems = warnings = 0
    with contextlib.chdir(parsed.directory):
        for finding in examine(parsed.config, parsed.results, use_conda=parsed.use_conda):
            sys.stdout.write(f"{finding}\n")
            sys.stdout.flush()
            problems += finding.weight == "problem"
            warnings += finding.weight == "warning"
    if problems:
        found = f"{problems} problem{'s' * (problems > 1)}, {warnings} warning{'s' * (warnings != 1)}"
        raise StatedError(file=parsed.config, expected="a cohort that can run", found=found)
