"""`split`: assign every patch of the cohort to a fold."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import SplitSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--stores", type=Path, required=True, metavar="DIR", help="folder of the stores that tile wrote"
    )
    parser.add_argument("--slides", nargs="+", required=True, metavar="NAME", help="the slides to split, in order")
    parser.add_argument("--out", type=Path, required=True, metavar="TSV", help="table of patches and folds")
    parser.add_argument("--out-summary", type=Path, required=True, metavar="JSON", help="how the folds came about")
    add_settings(parser, SplitSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the table and its summary."""
    from pipeline.progress import say
    from pipeline.provenance import record, write_json
    from pipeline.splitting.stage import read_slide_patches, same_images, split, summary, table_rows, with_exports
    from pipeline.splitting.table import write_split_table

    settings = settings_of(parsed, SplitSettings)
    stores = [parsed.stores / f"{slide}.zarr" for slide in parsed.slides]
    patches, doubts = with_exports([read_slide_patches(store) for store in stores], stores)
    for doubt in doubts:
        say(f"split: {doubt}")
    result = split(patches, settings)
    for message in same_images(patches):
        say(f"split: {message}: its tissue counts twice")
    write_split_table(parsed.out, table_rows(patches, result))
    inputs = {item.slide: item.digest for item in patches}
    write_json(parsed.out_summary, summary(patches, result) | {"provenance": record("split", settings, inputs)})
