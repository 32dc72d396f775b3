"""`export`: write an encoder in a form that other tools load."""

from __future__ import annotations

import argparse
from pathlib import Path

_NAMES = {
    "adapters": "encoder-adapters",
    "hub": "encoder-hub",
    "onnx": "encoder.onnx",
    "timm": "encoder-timm",
    "torchscript": "encoder.pt",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="an encoder's folder, from train")
    parser.add_argument(
        "--to",
        choices=tuple(_NAMES),
        required=True,
        help="onnx, torchscript: one file that takes float32 RGB pixels (n, 3, P, P), uint8 values divided by 255; "
        "the normalisation is inside; timm: a folder for timm's local-dir, to be fed normalised pixels; hub: the same "
        "with a model card; adapters: the low-rank weights alone, where the base may not be passed on",
    )
    parser.add_argument("--base", type=Path, metavar="DIR", help="of adapters: the encoder that the run started from")
    parser.add_argument(
        "--licence",
        default="other",
        metavar="ID",
        help="of hub: the licence in the model card (default: other)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="the file or folder to write; by default beside the encoder"
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the export, once its features are found equal to the encoder's to 1e-4."""
    from pipeline.embedding.adapters import export_adapters
    from pipeline.embedding.exporting import export_onnx, export_timm, export_torchscript
    from pipeline.embedding.hub import export_hub
    from pipeline.errors import StatedError
    from pipeline.progress import say

    out = parsed.out or parsed.encoder.resolve().parent / _NAMES[parsed.to]
    if parsed.to == "adapters":
        if parsed.base is None:
            expected = "--base, the folder of the encoder that the run started from"
            raise StatedError(expected=expected, found="no --base")
        export_adapters(parsed.encoder, parsed.base, out)
    elif parsed.to == "hub":
        export_hub(parsed.encoder, out, parsed.licence)
    else:
        write = {"onnx": export_onnx, "timm": export_timm, "torchscript": export_torchscript}[parsed.to]
        write(parsed.encoder, out)
    say(f"export: wrote {out}")
