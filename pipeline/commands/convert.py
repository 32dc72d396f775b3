"""`convert`: the features of one slide in another tool's format."""

from __future__ import annotations

import argparse
from pathlib import Path

_SUFFIXES = {"anndata": ".h5ad", "geojson": ".geojson", "parquet": ".parquet", "spatialdata": ".zarr", "stamp": ".h5"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--features", type=Path, required=True, metavar="H5", help="the features of one slide, from embed or TRIDENT"
    )
    parser.add_argument(
        "--to",
        choices=("anndata", "clam", "geojson", "parquet", "spatialdata", "stamp"),
        required=True,
        help="clam: a folder that many slides may share; spatialdata: a Zarr folder per slide, for LazySlide too; the "
        "others: one file per slide",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="the file (clam: folder) to write; by default in a folder named for the format beside the features",
    )
    parser.add_argument(
        "--mpp-level0", type=float, metavar="UM", help="um per level-0 pixel, where a file of TRIDENT does not tell it"
    )


def run(parsed: argparse.Namespace) -> None:
    """Write the conversion."""
    from pipeline.embedding.converting import convert
    from pipeline.errors import StatedError
    from pipeline.progress import say
    from pipeline.provenance import file_digest, record

    if parsed.mpp_level0 is not None and not 0 < parsed.mpp_level0 < float("inf"):
        raise StatedError(file="--mpp-level0", expected="a positive number", found=f"{parsed.mpp_level0:g}")
    inputs = {"features": file_digest(parsed.features) if parsed.features.is_file() else ""}
    provenance = record("convert", {"to": parsed.to, "mpp_level0": parsed.mpp_level0}, inputs)
    folder = parsed.features.parent / parsed.to
    out = parsed.out or (folder if parsed.to == "clam" else folder / f"{parsed.features.stem}{_SUFFIXES[parsed.to]}")
    convert(parsed.features, parsed.to, out, provenance, parsed.mpp_level0)
    say(f"convert: wrote {out}")
