"""`merge-adapters`: merge adapters into their base encoder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--adapters", type=Path, required=True, metavar="DIR", help="a folder that export wrote")
    parser.add_argument("--base", type=Path, required=True, metavar="DIR", help="the encoder that they change")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the encoder's folder to write")


def run(parsed: argparse.Namespace) -> None:
    """Write the encoder, once its features are found equal to the exported one's to 1e-4."""
    from pipeline.embedding.adapters import merge_adapters
    from pipeline.progress import say

    merge_adapters(parsed.adapters, parsed.base, parsed.out)
    say(f"merge-adapters: wrote {parsed.out}")
