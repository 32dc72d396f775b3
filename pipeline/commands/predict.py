"""`predict`: predict marker intensities over one slide from H&E features."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import PredictSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--features", type=Path, required=True, metavar="H5", help="the slide's features, from embed")
    parser.add_argument("--store", type=Path, required=True, metavar="ZARR", help="the slide's store, from tile")
    parser.add_argument("--probe", type=Path, required=True, metavar="DIR", help="a probe, from evaluate-probe")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the slide's folder to write")
    add_settings(parser, PredictSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the predictions."""
    settings = settings_of(parsed, PredictSettings)
    from pipeline.prediction.stage import predict

    predict(parsed.features, parsed.store, parsed.probe, settings, parsed.out)
