"""`embed-slides`: the features of many slides to one vector per slide."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "--features", type=Path, required=True, metavar="DIR", help="folder of the HDF5 files that embed wrote"
    )
    parser.add_argument("--slides", nargs="+", required=True, metavar="NAME", help="the slides, in order")
    parser.add_argument("--out", type=Path, required=True, metavar="PARQUET", help="the table to write")


def run(parsed: argparse.Namespace) -> None:
    """Writes the table."""
    from pipeline.embedding.pooling import read_slide_vector, write_slide_vectors
    from pipeline.provenance import file_digest, record

    files = {slide: parsed.features / f"{slide}.h5" for slide in parsed.slides}
    vectors = [read_slide_vector(path, slide) for slide, path in files.items()]
    inputs = {slide: file_digest(path) for slide, path in files.items()}
    write_slide_vectors(vectors, parsed.out, record("embed_slides", {}, inputs, ("h5py", "numpy", "pyarrow")))
