"""`embed-at`: compute features of patches at coordinates that TRIDENT or CLAM found."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.settings import EmbedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--slide", type=Path, required=True, metavar="FILE", help="the H&E slide")
    parser.add_argument("--coords", type=Path, required=True, metavar="H5", help="coordinates of TRIDENT or CLAM")
    parser.add_argument("--encoder", type=Path, required=True, metavar="DIR", help="an encoder's folder, from train")
    parser.add_argument("--out", type=Path, required=True, metavar="H5", help="the features to write")
    parser.add_argument("--mpp", type=float, metavar="UM", help="um per level-0 pixel, instead of the slide's own")
    parser.add_argument(
        "--image",
        default="",
        metavar="IMAGE",
        help="name or number (from 0) of the image, where the file holds several",
    )
    parser.add_argument("--patient", default="", metavar="NAME", help="patient ID of the slide, for the table")
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads of the computation on the CPU")
    add_settings(parser, EmbedSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the features."""
    settings = settings_of(parsed, EmbedSettings)
    import torch

    from pipeline.embedding.coordinates import LocatedPatches, read_coordinates
    from pipeline.embedding.encoder import Encoder
    from pipeline.embedding.stage import embed
    from pipeline.errors import StatedError
    from pipeline.patients import patient_name
    from pipeline.provenance import file_digest, record
    from pipeline.slides.opening import open_slide

    torch.set_num_threads(parsed.threads)
    encoder, coordinates = Encoder.load(parsed.encoder), read_coordinates(parsed.coords)
    if parsed.out.exists() and parsed.out.samefile(parsed.coords):
        raise StatedError(file=parsed.out, expected="another name", found="the coordinates")
    inputs = {
        "coords": file_digest(parsed.coords),
        "slide": file_digest(parsed.slide) if parsed.slide.is_file() else "",
    }
    with open_slide(parsed.slide, slide=coordinates.slide, image=parsed.image, shows="colours") as slide:
        header = slide.header
        if not header.is_rgb:
            raise StatedError(
                slide=coordinates.slide, file=parsed.slide, expected="H&E (RGB)", found=str(header.channels)
            )
        mpp = header.mpp if parsed.mpp is None else parsed.mpp
        if mpp is None or not 0 < mpp < float("inf"):
            found = "none in the file; give --mpp" if mpp is None else f"{mpp:g}"
            raise StatedError(slide=coordinates.slide, file=parsed.slide, expected="um per level-0 pixel", found=found)
        patches = LocatedPatches(slide, mpp, coordinates, encoder.description, patient_name(parsed.patient))
        provenance = record("embed_at", {"embed": vars(settings), "mpp": mpp}, inputs, ("timm", "torch"))
        embed(patches, encoder, settings, parsed.out, provenance, overlap=coordinates.overlap)
