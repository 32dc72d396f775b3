"""`panel`: check every channel of a dense slide before training on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.settings import PanelSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--record", type=Path, required=True, metavar="JSON", help="what inspect wrote of the slide")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the check to write")
    parser.add_argument("--threads", type=at_least(1), default=1, help="blocks that are measured at once")
    add_settings(parser, PanelSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the check."""
    settings = settings_of(parsed, PanelSettings)
    from dataclasses import asdict

    from pipeline.panel.stage import check_panel, lines
    from pipeline.progress import say
    from pipeline.provenance import record, write_json
    from pipeline.settings.panel import CHECK_KEYS
    from pipeline.slides.record import read_record

    slide = read_record(parsed.record)
    check = check_panel(slide, settings, threads=parsed.threads)
    for line in lines(check):
        say(line)
    inputs = {"dense": slide.dense.sha256} if slide.dense else {}
    used = {key: value for key, value in asdict(settings).items() if key in CHECK_KEYS}
    provenance = record("panel", used, inputs, ("dask", "numpy", "opencv-python-headless", "scipy", "tifffile"))
    write_json(parsed.out, asdict(check) | {"provenance": provenance})
