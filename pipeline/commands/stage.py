"""`stage`: fetch a slide that lies elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import StagingSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--record", type=Path, required=True, metavar="JSON", help="what inspect wrote of the slide")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder to write: the files and record.json, which later stages read; parts of files lie beside it",
    )
    add_settings(parser, StagingSettings)


def run(parsed: argparse.Namespace) -> None:
    """Fetch the files and write the record of them."""
    settings = settings_of(parsed, StagingSettings)
    from pipeline.slides.record import read_record
    from pipeline.staging.stage import stage_slide

    stage_slide(read_record(parsed.record), parsed.out, settings)
