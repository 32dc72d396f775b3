"""`verdicts`: list the registration verdict of each pair in one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--registrations", type=Path, required=True, metavar="DIR", help="folder of what register wrote, DIR/SLIDE"
    )
    parser.add_argument("--slides", nargs="*", required=True, metavar="NAME", help="the slides to list, in order")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="folder of register's logs, to tell errors from")


def run(parsed: argparse.Namespace) -> None:
    """Print the table."""
    from pipeline.registration.verdicts import table

    sys.stdout.write(table(parsed.registrations, parsed.slides, parsed.logs) + "\n")
