"""`trace`: list the whole ancestry of a result, and what has changed since."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "result",
        type=Path,
        metavar="PATH",
        help="a file or folder that a stage left; inputs are looked for in the results folder that it lies in, and "
        "slides where the sheet's paths lead from the working directory",
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the ancestry to standard output.

    Raises:
        StatedError: if the result carries none, or an input is missing or no longer what it was.
    """
    import sys

    from pipeline.errors import StatedError
    from pipeline.tools.tracing.ancestry import trace

    found = trace(parsed.result)
    sys.stdout.write("".join(f"{line}\n" for line in found.lines))
    sys.stdout.flush()
    if found.changed:
        names = ", ".join(dict.fromkeys(found.changed))
        raise StatedError(file=parsed.result, expected="inputs as they were", found=f"changed or missing: {names}")
