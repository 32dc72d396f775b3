"""`report`: build the self-contained HTML report of a cohort."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.errors import StatedError
from pipeline.settings import ReportSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="the results folder")
    parser.add_argument("--sheet", type=Path, required=True, metavar="TSV", help="the sheet of slides")
    parser.add_argument("--embedding", required=True, metavar="NAME", help="the embedding to show, results/embed/NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="HTML", help="the page to write")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="the stages' logs; by default beside the results")
    parser.add_argument("--threads", type=at_least(1), default=2, help="threads that draw slides at once")
    add_settings(parser, ReportSettings)


def run(parsed: argparse.Namespace) -> None:
    """Run the stage.

    Raises:
        StatedError: if there is no folder of results; of what is missing in it the page itself tells.
    """
    settings = settings_of(parsed, ReportSettings)
    if not parsed.results.is_dir():
        raise StatedError(file=parsed.results, expected="a folder of results", found="none")
    from pipeline.report.stage import write_report

    logs = parsed.logs or parsed.results.absolute().parent / "logs"
    write_report(parsed.results, parsed.sheet, parsed.embedding, settings, parsed.out, logs, parsed.threads)
