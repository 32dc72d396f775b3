"""`inspect`: record size, resolution, levels and channels of a slide pair."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from pipeline.arguments import add_settings, settings_of
from pipeline.settings import InspectSettings
from pipeline.sheet import DENSE_KINDS

IMAGE_HELP = "name or number (from 0) of the image, where the file holds several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments; an empty string counts as not given."""
    parser.add_argument("--slide", required=True, metavar="NAME", help="unique name of the slide")
    parser.add_argument("--patient", required=True, metavar="NAME", help="patient ID of the slide")
    parser.add_argument("--sparse", required=True, metavar="PATH", help="the H&E slide")
    parser.add_argument("--dense", default="", metavar="PATH", help="its multiplex partner")
    parser.add_argument(
        "--transform", default="", metavar="PATH", help="identity, or a transform that is known already"
    )
    parser.add_argument("--sparse-mpp", type=_number, metavar="UM", help="um per pixel of the sparse slide")
    parser.add_argument("--dense-mpp", type=_number, metavar="UM", help="um per pixel of the dense slide")
    parser.add_argument("--markers", default="", metavar="CSV", help="columns channel,marker: names of dense channels")
    parser.add_argument(
        "--dense-kind",
        default="",
        choices=("", *DENSE_KINDS),
        metavar="KIND",
        help=f"{', '.join(DENSE_KINDS)}; empty where the file leaves no doubt",
    )
    parser.add_argument("--sparse-image", default="", metavar="IMAGE", help=IMAGE_HELP)
    parser.add_argument("--dense-image", default="", metavar="IMAGE", help="the same of the dense file")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the record to write")
    add_settings(parser, InspectSettings)


def run(parsed: argparse.Namespace) -> None:
    """Write the record."""
    from pipeline.patients import patient_name
    from pipeline.progress import say
    from pipeline.provenance import file_digest, record, write_json
    from pipeline.sheet import SheetRow
    from pipeline.slides.kinds import kind_named
    from pipeline.slides.record import to_mapping
    from pipeline.slides.stage import inspect_slide

    settings = settings_of(parsed, InspectSettings)
    row = SheetRow(
        slide=parsed.slide,
        patient=patient_name(parsed.patient),
        sparse=parsed.sparse,
        dense=parsed.dense,
        transform=parsed.transform,
        sparse_mpp=parsed.sparse_mpp,
        dense_mpp=parsed.dense_mpp,
        sparse_image=parsed.sparse_image,
        dense_image=parsed.dense_image,
        markers=parsed.markers,
        dense_kind=parsed.dense_kind,
    )
    inspected = inspect_slide(row, settings)
    kind = kind_named(inspected.dense.kind) if inspected.dense else None
    if kind and kind.shows == "colours" and not row.dense_kind:
        say(f"inspect {row.slide}: dense side taken as {kind.name}, for it is RGB")
    inputs = {"sparse": inspected.sparse.sha256}
    if inspected.dense:
        inputs["dense"] = inspected.dense.sha256
    if row.markers:
        inputs["markers"] = file_digest(Path(row.markers))
    packages: tuple[str, ...] = ("openslide-bin", "openslide-python", "tifffile")
    if kind:
        packages += kind.packages
    if "zarr" in (inspected.sparse.reader, inspected.dense.reader if inspected.dense else ""):
        packages += ("zarr",)
    if "tiffslide" in (inspected.sparse.reader, inspected.dense.reader if inspected.dense else ""):
        packages += ("fsspec", "tiffslide")
    write_json(parsed.out, to_mapping(inspected) | {"provenance": record("inspect", settings, inputs, packages)})


def _number(text: str) -> float | None:
    """Return a positive number, or None for an empty string."""
    if not text.strip():
        return None
    with suppress(ValueError):
        value = float(text)
        if 0 < value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
