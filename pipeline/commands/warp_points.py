"""`warp-points`: map points from the sparse to the dense frame of a slide, or back."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "--transform", type=Path, required=True, help="transform.zarr, a 3 x 3 matrix (.csv, .json), ITK .h5 or .tfm"
    )
    parser.add_argument("--points", type=Path, required=True, help="CSV with the columns x_um and y_um")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write; other columns are kept as they are")
    parser.add_argument("--inverse", action="store_true", help="carry points of the dense frame to the sparse frame")


def run(parsed: argparse.Namespace) -> None:
    """Write the table with x_um and y_um replaced by the position in the other frame.

    Raises:
        StatedError: if the transform or the table is not what it should be.
    """
    import numpy as np
    import pandas as pd

    from pipeline.errors import StatedError
    from pipeline.progress import say
    from pipeline.provenance import finished
    from pipeline.registration.transform_file import given_transform

    given = given_transform(str(parsed.transform))
    if given is None:
        raise StatedError(file="--transform", expected="a transform", found="an empty name")
    for note in given.notes:
        say(f"warp-points: {parsed.transform} {note}")
    transform = given.transform
    expected = "a CSV with the columns x_um, y_um of finite numbers"
    try:
        # As text: numbers that pandas reads and writes again lose leading zeros, small values and the word NA.
        table = pd.read_csv(parsed.points, dtype=str, keep_default_na=False)
        points = table[["x_um", "y_um"]].to_numpy(object).astype(np.float64)
    except KeyError:
        raise StatedError(
            file=parsed.points, expected=expected, found=f"columns {', '.join(map(str, table.columns))}"
        ) from None
    except (OSError, ValueError) as error:
        raise StatedError(file=parsed.points, expected=expected, found=str(error)) from None
    if not isinstance(table.index, pd.RangeIndex):
        raise StatedError(
            file=parsed.points, expected=expected, found=f"rows of more cells than the {len(table.columns)} columns"
        )
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
        raise StatedError(
            file=parsed.points, expected=expected, found=f"{tuple(points[row].tolist())} in data row {row + 1}"
        )
    warped = transform.to_sparse(points) if parsed.inverse else transform.to_dense(points)
    table = table.assign(x_um=warped[:, 0], y_um=warped[:, 1])
    with finished(parsed.output) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")
