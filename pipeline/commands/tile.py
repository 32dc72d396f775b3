"""`tile`: cut one slide into patches, paired where it has a registered dense partner."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.arguments import add_settings, at_least, settings_of
from pipeline.errors import StatedError
from pipeline.settings import TileSettings

if TYPE_CHECKING:
    from pipeline.slides.record import SlideRecord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--record", type=Path, required=True, metavar="JSON", help="what inspect wrote of the slide")
    parser.add_argument("--transform", type=Path, metavar="ZARR", help="what register wrote; without it: no pairs")
    parser.add_argument("--qc", type=Path, metavar="JSON", help="register's qc.json, which goes with --transform")
    parser.add_argument("--tissue", type=Path, metavar="GEOJSON", help="annotations: Tissue, Exclude, Pen, Fold, Blur")
    parser.add_argument(
        "--background", type=Path, metavar="JSON", help="what panel wrote: autofluorescence is subtracted by it"
    )
    parser.add_argument("--outlines", type=Path, metavar="GEOJSON", help="to write what was found to, for QuPath")
    parser.add_argument("--out", type=Path, required=True, metavar="ZARR", help="the store to write")
    parser.add_argument("--threads", type=at_least(1), default=1, help="threads that read and write patches")
    add_settings(parser, TileSettings)
    parser.set_defaults(wrong_usage=parser.error)


def run(parsed: argparse.Namespace) -> None:
    """Write the store.

    Raises:
        StatedError: naming the slide.
    """
    if (parsed.transform is None) != (parsed.qc is None):
        parsed.wrong_usage("--transform and --qc go together: a pair needs both")
    from pipeline.slides.record import read_record

    settings = settings_of(parsed, TileSettings)
    slide = read_record(parsed.record)
    try:
        _write(parsed, settings, slide)
    except StatedError as error:
        raise StatedError(
            slide=error.slide or slide.slide, file=error.file, expected=error.expected, found=error.found
        ) from None


def _write(parsed: argparse.Namespace, settings: TileSettings, slide: SlideRecord) -> None:
    """Write the store of an inspected slide.

    Raises:
        StatedError: if there is a transform and no dense side that it could lead to.
    """
    from pipeline.panel.panel_file import read_panel_check
    from pipeline.provenance import file_digest, record
    from pipeline.slides.kinds import kind_named
    from pipeline.tiling.annotations import read_annotations
    from pipeline.tiling.background import BackgroundSubtraction
    from pipeline.tiling.pairing import read_pairing
    from pipeline.tiling.stage import qupath_origin, tile

    inputs = {"sparse": slide.sparse.sha256}
    if slide.sparse.image:
        inputs |= {"sparse_image": slide.sparse.image}
    given = None
    if parsed.tissue:
        given = read_annotations(
            parsed.tissue, slide.sparse.size_xy, slide=slide.slide, origin_px=qupath_origin(slide, settings)
        )
        inputs |= {"tissue": file_digest(parsed.tissue)}
    pairing = None
    if parsed.transform and slide.dense is None:
        raise StatedError(
            slide=slide.slide, file=parsed.record, expected="a dense side, for --transform is given", found="none"
        )
    if parsed.transform and slide.dense:
        pairing = read_pairing(slide, parsed.transform, parsed.qc)
        inputs |= {"dense": slide.dense.sha256, "transform": file_digest(parsed.transform)}
        if slide.dense.image:
            inputs |= {"dense_image": slide.dense.image}
    background = None
    if parsed.background and slide.dense and slide.dense.kind == "fluorescence":
        check = read_panel_check(parsed.background)
        background = BackgroundSubtraction.of(check, slide.dense.channels, slide.slide)
        inputs |= {"panel": file_digest(parsed.background)}
    packages: tuple[str, ...] = (
        "imagecodecs",
        "numpy",
        "opencv-python-headless",
        "openslide-python",
        "tifffile",
        "zarr",
    )
    if slide.dense:
        packages += kind_named(slide.dense.kind).packages
    provenance = record("tile", settings, inputs, packages)
    tile(
        slide,
        pairing,
        settings,
        parsed.out,
        threads=parsed.threads,
        provenance=provenance,
        given=given,
        outlines=parsed.outlines,
        background=background,
    )
