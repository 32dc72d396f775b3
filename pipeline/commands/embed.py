"""`embed`: compute the features of one slide's patches."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.settings import EmbedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--store", type=Path, required=True, metavar="ZARR", help="the slide's store, from tile")
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="an encoder's folder, from train")
    parser.add_argument("--out", type=Path, required=True, metavar="H5", help="the features to write")
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads of the computation on the CPU")
    add_settings(parser, EmbedSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the features."""
    settings = settings_of(parsed, EmbedSettings)
    from dataclasses import asdict

    import torch

    from pipeline.embedding.encoder import Encoder
    from pipeline.embedding.stage import embed
    from pipeline.provenance import file_digest, record
    from pipeline.store.patch_store import PatchStore

    torch.set_num_threads(parsed.threads)
    encoder = Encoder.load(parsed.encoder)
    store = PatchStore.open(parsed.store)
    inputs = {"store": file_digest(parsed.store / "zarr.json"), "encoder": encoder.description.sha256}
    used = asdict(settings) | {"encoder": str(parsed.encoder)}
    embed(store, encoder, settings, parsed.out, record("embed", used, inputs, ("timm", "torch")))
