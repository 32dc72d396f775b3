"""`embed-slides`: summarise the features of many slides, one vector per slide."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.arguments import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--features", type=Path, required=True, metavar="DIR", help="folder of the HDF5 files that embed wrote"
    )
    parser.add_argument("--slides", nargs="+", required=True, metavar="NAME", help="the slides, in order")
    parser.add_argument(
        "--split", type=Path, metavar="TSV", help="the table of split: prototypes are fitted on its training patches"
    )
    parser.add_argument(
        "--prototypes", type=at_least(0), default=16, metavar="K", help="how many; 0 for none (default 16)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PARQUET", help="the table to write")


def run(parsed: argparse.Namespace) -> None:
    """Write the table."""
    from pipeline.embedding.pooling import check_comparable, read_slide_vector, write_slide_vectors
    from pipeline.embedding.prototypes import fit_prototypes
    from pipeline.provenance import file_digest, record
    from pipeline.splitting.table import read_split_table

    files = {slide: parsed.features / f"{slide}.h5" for slide in parsed.slides}
    # A first pass tells of missing and foreign files, and of encoders that are mixed, before anything is fitted.
    vectors = [read_slide_vector(path, slide) for slide, path in files.items()]
    check_comparable(vectors)
    inputs = {path.name: file_digest(path) for path in files.values()}
    fitted = parsed.split is not None and parsed.prototypes > 0
    if fitted:
        prototypes = fit_prototypes(files, read_split_table(parsed.split), parsed.prototypes)
        vectors = [read_slide_vector(path, slide, prototypes) for slide, path in files.items()]
        inputs["split"] = file_digest(parsed.split)
    settings = {"prototypes": parsed.prototypes if fitted else 0}
    write_slide_vectors(vectors, parsed.out, record("embed_slides", settings, inputs, ("h5py", "numpy", "pyarrow")))
