"""`export`: an encoder in a form that needs nothing of this project."""

from __future__ import annotations

import argparse
from pathlib import Path

_NAMES = {"onnx": "encoder.onnx", "timm": "encoder-timm", "torchscript": "encoder.pt"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="an encoder's folder, from train")
    parser.add_argument(
        "--to",
        choices=("onnx", "timm", "torchscript"),
        required=True,
        help="onnx, torchscript: one file that takes float32 RGB pixels (n, 3, P, P), uint8 values divided by 255; "
        "the normalisation is inside; timm: a folder for timm's local-dir, to be fed normalised pixels",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="the file (timm: folder) to write; by default beside the encoder"
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the export, once its features are found equal to the encoder's to 1e-4."""
    from pipeline.embedding.exporting import export_onnx, export_timm, export_torchscript
    from pipeline.progress import say

    write = {"onnx": export_onnx, "timm": export_timm, "torchscript": export_torchscript}[parsed.to]
    out = parsed.out or parsed.encoder.resolve().parent / _NAMES[parsed.to]
    write(parsed.encoder, out)
    say(f"export: wrote {out}")
