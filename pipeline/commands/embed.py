"""`embed`: compute the features of one slide's patches."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.settings import EmbedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--store", type=Path, required=True, metavar="ZARR", help="the slide's store, from tile")
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="an encoder's folder, from train")
    parser.add_argument("--out", type=Path, required=True, metavar="H5", help="the features to write")
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads of the computation on the CPU")
    parser.add_argument(
        "--neighbours",
        nargs="*",
        metavar="NAME",
        help="slides whose stores lie beside this one: for half a minute they are embedded too, for their own jobs to "
        "take over; with this argument, even without a name, a job takes over what another one made so",
    )
    add_settings(parser, EmbedSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the features."""
    settings = settings_of(parsed, EmbedSettings)
    from dataclasses import asdict

    from pipeline.embedding.ahead import ahead_of, take_over
    from pipeline.embedding.encoder_description import read_description
    from pipeline.provenance import file_digest, record
    from pipeline.training.feature_range import read_range

    description = read_description(parsed.encoder)
    used = asdict(settings) | {"encoder": str(parsed.encoder)}

    def provenance_of(store: Path) -> dict[str, Any]:
        inputs = {"store": file_digest(store / "zarr.json"), "encoder": description.sha256}
        return record("embed", used, inputs, ("timm", "torch"))

    if parsed.neighbours is not None and ahead_of(parsed.out).exists():
        fitted = read_range(parsed.encoder, description.sha256)
        if take_over(parsed.out, provenance_of(parsed.store), parsed.out.stem, description, fitted):
            return

    # Only from here on: these take seconds to import.
    import torch

    from pipeline.embedding.encoder import Encoder
    from pipeline.embedding.neighbours import Neighbour, embed_neighbours
    from pipeline.embedding.stage import embed
    from pipeline.store.patch_store import PatchStore

    torch.set_num_threads(parsed.threads)
    encoder = Encoder.load(parsed.encoder)
    store = PatchStore.open(parsed.store)
    start = time.monotonic()
    embed(store, encoder, settings, parsed.out, provenance_of(parsed.store))
    rate = len(store) / (time.monotonic() - start)
    neighbours = [
        Neighbour(parsed.store.with_name(f"{name}.zarr"), parsed.out.with_name(f"{name}.h5"))
        for name in parsed.neighbours or ()
    ]
    embed_neighbours(neighbours, encoder, settings, provenance_of, rate)
