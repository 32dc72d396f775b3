"""Segmented cells: a patch has the mean of each marker over its cells, their number, and the share of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.cell_table import CellPlaces, read_cells, read_intensities
from pipeline.slides.kinds.base import DenseWords, PointKind, Points, PointTable
from pipeline.slides.kinds.fluorescence import log_of
from pipeline.slides.table_columns import columns_of

CELL_COUNT = "cell count"


class Cells(PointKind):
    """A table with a row per cell; intensities are in the table's own unit."""

    name = "cells"
    channel = "cells"
    packages = ("h5py", "pyarrow")
    reader = "pyarrow"
    dtype = "float32"
    endings = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".parquet", ".h5ad")
    point, points = "cell", "cells"
    unit = "the columns x and y"
    words = DenseWords(
        "cells",
        "value",
        "values",
        "Values of the cells",
        "the mean of each marker over the cells, their number and the share of each class",
        "log(1 + value)",
        "Swipe between the H&E and the cells over it: they must lie on tissue, and end where it ends. There is no "
        "picture of their markers.",
        "Squares alternate between the H&E and the cells; the cells must lie on tissue.",
        laid_over="cells of the table over",
        legend_title="cells",
        no_nuclei="a table of cells shows no nuclei",
        unmeasured="How well the cells of a table lie on their H&E slide was not measured: a table shows no nuclei.",
    )

    def read_points(self, path: Path) -> Points:
        """Return the cells, their markers, and a message about them; see `read_cells`."""
        cells = read_cells(columns_of(path))
        notes = (f"columns that are not numeric are skipped: {', '.join(cells.skipped)}",) if cells.skipped else ()
        further = (CELL_COUNT, *map(share_of, cells.classes))
        return Points(cells.position, cells.markers, further, notes, chooses=True)

    def read_table(self, path: Path, columns: Sequence[str] = ()) -> PointTable:
        """Return the cells with the intensities of some markers; see `read_cells` and `read_intensities`."""
        table = columns_of(path)
        cells = read_cells(table)
        intensity = read_intensities(table, columns or cells.markers)
        values = intensity.shape[1] + 1 + len(cells.classes)
        return PointTable(cells.position, values, lambda rows: patch_of_cells(intensity, cells, rows))

    def comparable(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log(1 + x), which hardly changes shares."""
        return log_of(values)

    def beside(self, values: Sequence[str]) -> str:
        """Return the words of an encoder's card."""
        return f"segmented cells ({', '.join(values)})"


def share_of(name: str) -> str:
    """Return what the share of a class is called."""
    return f"share of {name}"


def patch_of_cells(intensity: NDArray[np.float32], cells: CellPlaces, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the values of a patch with the cells at `rows`: mean intensities, number, shares of the classes.

    All are 0 without a cell. Cells without a class count in the number and in no share.
    """
    found = np.zeros(intensity.shape[1] + 1 + len(cells.classes), dtype=np.float32)
    if not len(rows):
        return found
    found[: intensity.shape[1]] = intensity[rows].mean(axis=0, dtype=np.float64)
    found[intensity.shape[1]] = len(rows)
    classes = cells.class_index[rows]
    found[intensity.shape[1] + 1 :] = np.bincount(classes[classes >= 0], minlength=len(cells.classes)) / len(rows)
    return found
