"""`demo`: draw one slide of the synthetic cohort."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("--slide", required=True, help="name of a slide of the cohort: demo-1, demo-2, …")
    parser.add_argument("--out-sparse", required=True, type=Path, metavar="TIFF", help="the H&E slide to write")
    parser.add_argument("--out-dense", type=Path, metavar="OME-TIFF", help="the multiplex slide to write, if wanted")
    parser.add_argument(
        "--out-truth", required=True, type=Path, metavar="FOLDER", help="cells.csv, landmarks.csv and transform.json"
    )


def run(parsed: argparse.Namespace) -> None:
    """Draw the slide."""
    from pipeline.tools.demo.cohort import plan_of
    from pipeline.tools.demo.drawing import draw_files

    draw_files(plan_of(parsed.slide), parsed.out_sparse, parsed.out_dense, parsed.out_truth)
