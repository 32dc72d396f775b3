"""`convert`: write features in another tool's format, and tables as CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

_SUFFIXES = {
    "anndata": ".h5ad",
    "csv": ".csv",
    "geojson": ".geojson",
    "parquet": ".parquet",
    "spatialdata": ".zarr",
    "stamp": ".h5",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--features",
        type=Path,
        required=True,
        metavar="PATH",
        help="the features of one slide (.h5), from embed or TRIDENT; with --all the folder of a run's features; with "
        "--to csv also any Parquet file of the results",
    )
    parser.add_argument(
        "--to",
        choices=("anndata", "clam", "csv", "geojson", "parquet", "spatialdata", "stamp"),
        required=True,
        help="clam: a folder that many slides may share; spatialdata: a Zarr folder per slide, for LazySlide too; the "
        "others: one file per slide",
    )
    parser.add_argument("--all", action="store_true", help="of anndata: all slides of the folder in one file")
    parser.add_argument(
        "--markers",
        type=Path,
        metavar="DIR",
        help="of --all: results/predict/{run}, whose markers become columns of obs",
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
    from pipeline.embedding.anndata_file import write_cohort_anndata
    from pipeline.embedding.converting import convert
    from pipeline.embedding.csv_file import parquet_to_csv
    from pipeline.errors import StatedError
    from pipeline.progress import say
    from pipeline.provenance import file_digest, record

    if parsed.mpp_level0 is not None and not 0 < parsed.mpp_level0 < float("inf"):
        raise StatedError(file="--mpp-level0", expected="a positive number", found=f"{parsed.mpp_level0:g}")
    if parsed.markers is not None and not parsed.all:
        raise StatedError(file="--markers", expected="--all beside it", found="one slide")
    settings = {"to": parsed.to, "mpp_level0": parsed.mpp_level0}
    folder = parsed.features.parent / parsed.to
    out = parsed.out or (folder if parsed.to == "clam" else folder / f"{parsed.features.stem}{_SUFFIXES[parsed.to]}")
    if parsed.all:
        if parsed.to != "anndata":
            raise StatedError(file="--all", expected="--to anndata", found=f"--to {parsed.to}")
        paths = sorted(parsed.features.glob("*.h5"))
        if not paths:
            raise StatedError(file=parsed.features, expected="a folder of features (.h5)", found="none")
        provenance = record("convert", settings, {path.stem: file_digest(path) for path in paths})
        write_cohort_anndata(paths, parsed.markers, out, provenance, parsed.mpp_level0)
    elif parsed.to == "csv" and parsed.features.suffix == ".parquet":
        parquet_to_csv(parsed.features, out)
    else:
        inputs = {"features": file_digest(parsed.features) if parsed.features.is_file() else ""}
        convert(parsed.features, parsed.to, out, record("convert", settings, inputs), parsed.mpp_level0)
    say(f"convert: wrote {out}")
