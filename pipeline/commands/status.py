"""`status`: show how far a cohort is, while it runs and afterwards."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("cohort", type=Path, nargs="?", default=Path(), metavar="COHORT", help="folder of the cohort")
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")


def run(parsed: argparse.Namespace) -> None:
    """Print the state; what is there counts as done, whether or not its inputs have changed since.

    Raises:
        StatedError: if the folder holds no cohort.
    """
    import contextlib
    import sys

    from pipeline.errors import StatedError
    from pipeline.settings import load
    from pipeline.sheet import read_sheet
    from pipeline.tools.running.command import cohorts_in
    from pipeline.tools.status.stages import stages_of, verdicts_of
    from pipeline.tools.status.tasks import tasks_of
    from pipeline.tools.status.words import Status, as_json, as_lines

    if not (parsed.cohort / "config/config.yaml").is_file():
        cohorts = ", ".join(map(str, cohorts_in(parsed.cohort)))
        there = f"in it: {cohorts}" if cohorts else "mfl init writes one"
        raise StatedError(
            file=parsed.cohort, expected=f"the folder of a cohort ({there})", found="no config/config.yaml"
        )
    with contextlib.chdir(parsed.cohort):
        settings = load(Path("config/config.yaml"))
        rows = read_sheet(Path(settings.slides))
        results, locks = Path("results"), Path(".snakemake/locks")
        tasks = list(tasks_of(rows, settings))
        locked = locks.is_dir() and any(locks.iterdir())
        page = results / "report" / "index.html"
        status = Status(
            cohort=str(parsed.cohort),
            slides=len(rows),
            pairs=sum(bool(row.dense) for row in rows),
            runs=len(settings.runs),
            is_running=locked,
            stages=stages_of(tasks, results, Path("logs"), locked=locked),
            verdicts=verdicts_of(tasks, results),
            report=str(parsed.cohort / page) if page.is_file() else None,
        )
    sys.stdout.write(as_json(status) if parsed.json else "".join(f"{line}\n" for line in as_lines(status)))
