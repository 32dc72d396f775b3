"""`evaluate-probe`: save the ridge probe of one run, with its held-out scores, for other slides."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_panel, add_settings, panel_settings_of, settings_of
from pipeline.settings import EvaluateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--stores", type=Path, required=True, metavar="DIR", help="folder of the stores, from tile")
    parser.add_argument("--split", type=Path, required=True, metavar="TSV", help="patches.tsv, from split")
    parser.add_argument("--embeddings", type=Path, required=True, metavar="DIR", help="folder of folders of features")
    parser.add_argument("--run", dest="training", required=True, metavar="NAME", help="the run to fit a probe to")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the probe's folder to write")
    add_panel(parser)
    add_settings(parser, EvaluateSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the probe."""
    settings, panel = settings_of(parsed, EvaluateSettings), panel_settings_of(parsed)
    from pipeline.evaluation.probe_fitting import save_probe

    save_probe(parsed.stores, parsed.split, parsed.embeddings, parsed.training, settings, parsed.out, panel)
