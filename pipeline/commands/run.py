"""`run`: run Snakemake on a cohort with the right Snakefile, and print a line per slide and stage."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--directory", type=Path, metavar="DIR", help="folder of the cohort (default: this one)")
    parser.add_argument("--verbose", action="store_true", help="print all that Snakemake and the stages print")
    parser.add_argument(
        "targets",
        nargs=argparse.REMAINDER,
        metavar="-- WORD",
        help="targets and options for Snakemake, such as register_all or -- --cores 8 --keep-going",
    )


def run(parsed: argparse.Namespace) -> None:
    """Become Snakemake, so that its exit code and signals are those of this command.

    Raises:
        StatedError: if there is no Snakemake or no cohort.
    """
    import os

    from pipeline.tools.running.command import COHORT, environment, snakemake_command

    # Of `mfl run tile_all -- --cores 8` argparse keeps the sign, behind which Snakemake takes options for targets.
    argv = [argument for argument in parsed.targets if argument != "--"]
    command = snakemake_command(parsed.directory, argv, verbose=parsed.verbose)
    os.execve(command[0], command, environment(command) | {COHORT: str(parsed.directory or Path())})
