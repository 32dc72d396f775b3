"""`init`: turn folders of slides into a cohort that can run."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("cohort", type=Path, metavar="COHORT", help="folder of the cohort, made where it is missing")
    parser.add_argument(
        "--slides",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders to look through, slide files, or text files that list paths, one a line",
    )
    parser.add_argument(
        "--patient-regex",
        type=_pattern,
        metavar="REGEX",
        help="its first group, or all of it, names the patient in a slide's path below the folder",
    )
    parser.add_argument(
        "--encoder",
        type=Path,
        metavar="DIR",
        help="an encoder that is there: the cohort is H&E alone and trains nothing",
    )
    parser.add_argument(
        "--hours",
        type=_hours,
        default=2.0,
        metavar="H",
        help="that the trainings may take on a machine without GPU; chooses encoder and epochs (default: 2)",
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the cohort, a line per finding on standard output, and the two commands that come next."""
    import shlex
    import sys

    from pipeline.tools.init.names import Patients
    from pipeline.tools.init.stage import Wishes, init

    wishes = Wishes(tuple(parsed.slides), Patients(parsed.patient_regex), parsed.encoder, parsed.hours)
    for finding in init(parsed.cohort, wishes):
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
    cohort = shlex.quote(str(parsed.cohort))
    sys.stdout.write(f"Next:\n  mfl doctor --directory {cohort}\n  mfl run --directory {cohort}\n")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, found {text!r}: {error}") from None


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of hours above 0, found {text!r}")
    return value
