"""`evaluate`: probe frozen features on held-out patches and compare the runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.arguments import (
    add_classes,
    add_panel,
    add_settings,
    class_tables_of,
    pairs_of,
    panel_settings_of,
    settings_of,
)
from pipeline.settings import EvaluateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("--stores", type=Path, required=True, metavar="DIR", help="folder of the stores SLIDE.zarr")
    parser.add_argument("--split", type=Path, required=True, metavar="TSV", help="patches.tsv of the stage split")
    parser.add_argument(
        "--embeddings", type=Path, required=True, metavar="DIR", help="folder that holds RUN/SLIDE.h5 for every run"
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="the runs, in the table's order")
    parser.add_argument(
        "--repeats", nargs="*", default=[], metavar="RUN=FIRST", help="runs that repeat FIRST with another seed"
    )
    parser.add_argument(
        "--trainings",
        type=Path,
        metavar="DIR",
        help="folder that holds RUN/encoder and RUN/branches.safetensors for every run: those with a dense branch look "
        "for the dense patch of an H&E patch",
    )
    add_classes(parser, "for the class probes")
    parser.add_argument(
        "--probes",
        nargs="*",
        default=[],
        metavar="RUN=DIR",
        help="ridge probes that evaluate-probe has fitted: they are scored as they are, not fitted again",
    )
    parser.add_argument("--out-summary", type=Path, required=True, metavar="TSV", help="the table of scores")
    parser.add_argument("--out-details", type=Path, required=True, metavar="JSON", help="choices and further measures")
    add_panel(parser)
    add_settings(parser, EvaluateSettings)


def run(parsed: argparse.Namespace) -> None:
    """Run the stage."""
    settings = settings_of(parsed, EvaluateSettings)
    from pipeline.evaluation.inputs import EvaluationInputs
    from pipeline.evaluation.stage import evaluate

    inputs = EvaluationInputs(
        stores=parsed.stores,
        split=parsed.split,
        embeddings=parsed.embeddings,
        runs=parsed.runs,
        repeats=repeats_of(parsed.repeats),
        panel=panel_settings_of(parsed),
        trainings=parsed.trainings,
        classes=class_tables_of(parsed),
        probes={run: Path(path) for run, path in pairs_of(parsed.probes, "--probes", "RUN=DIR").items()},
    )
    evaluate(inputs, settings, parsed.out_summary, parsed.out_details)


def repeats_of(values: Sequence[str]) -> dict[str, str]:
    """Return the mapping that `--repeats` gives.

    Raises:
        StatedError: for a word that is no RUN=FIRST.
    """
    return pairs_of(values, "--repeats", "RUN=FIRST")
