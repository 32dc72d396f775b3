"""`python -m pipeline outcomes`: ask the slide vectors of all runs for what is known of patients."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.commands.evaluate import repeats_of
from pipeline.settings import OutcomesSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "--embeddings",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder that holds RUN/slides.parquet and RUN/SLIDE.h5 for every run",
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="the runs, in the table's order")
    parser.add_argument(
        "--repeats", nargs="*", default=[], metavar="RUN=FIRST", help="runs that repeat FIRST with another seed"
    )
    parser.add_argument("--baseline", default="", metavar="RUN", help="run that the others are compared with")
    parser.add_argument("--table", type=Path, required=True, metavar="CSV", help="the table of patients")
    parser.add_argument("--out-summary", type=Path, required=True, metavar="TSV", help="the table of scores")
    parser.add_argument("--out-details", type=Path, required=True, metavar="JSON", help="counts and scores of classes")
    parser.add_argument(
        "--out-predictions", type=Path, required=True, metavar="TSV", help="what was predicted of each patient"
    )
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads of the computation on the CPU")
    add_settings(parser, OutcomesSettings)


def run(parsed: argparse.Namespace) -> None:
    """Run the stage."""
    settings = settings_of(parsed, OutcomesSettings)
    import torch

    from pipeline.outcomes.stage import OutcomesInputs, outcomes

    torch.set_num_threads(parsed.threads)
    inputs = OutcomesInputs(
        embeddings=parsed.embeddings,
        runs=parsed.runs,
        repeats=repeats_of(parsed.repeats),
        baseline=parsed.baseline,
        table=parsed.table,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    outcomes(inputs, settings, parsed.out_summary, parsed.out_details, parsed.out_predictions, device)
