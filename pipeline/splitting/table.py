"""Write and read `split/patches.tsv`: a line per patch with its fold, in the order of sheet and store."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import StatedError
from pipeline.patients import patient_name
from pipeline.provenance import finished

COLUMNS = ("slide", "row", "patient", "fold", "pair_quality")
HELD_OUT_FOLD = 0


def write_split_table(path: Path, rows: Iterable[tuple[str, int, str, int, float]]) -> None:
    """Write one line per patch: slide, row, patient, fold, pair_quality."""
    with finished(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((*row[:4], f"{row[4]:.4f}") for row in rows)


def read_split_table(path: Path) -> pd.DataFrame:
    """Return the table as it was written; slide and patient are text.

    Raises:
        StatedError: if it cannot be read or lacks a column.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={"slide": str, "patient": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected="the table that split writes", found=str(error)) from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise StatedError(file=path, expected=f"the columns {', '.join(COLUMNS)}", found=f"no {', '.join(missing)}")
    try:
        table = table.astype({"row": np.int64, "fold": np.int64, "pair_quality": np.float64})
    except (ValueError, TypeError, OverflowError) as error:
        raise StatedError(file=path, expected="numbers in row, fold and pair_quality", found=str(error)) from None
    bad = np.flatnonzero((table[["row", "fold"]] < 0).any(axis=1) | ~np.isfinite(table["pair_quality"]))
    if len(bad):
        values = table.iloc[bad[0]]
        found = (
            f"row {values['row']}, fold {values['fold']}, pair_quality {values['pair_quality']} in line {bad[0] + 2}"
        )
        raise StatedError(file=path, expected="rows and folds from 0, finite pair_quality", found=found)
    return table.assign(patient=table["patient"].map(patient_name))
