"""Classes of patches from a table that somebody made of a slide: tissue classes of squares, or a label of each patch.

A comma- or tab-separated text with named columns, in one of two forms; other columns are passed over, and an empty
class is none:

- squares: `x_um`, `y_um` (upper-left corner in the sparse slide's frame; `he_x_um`, `he_y_um` mean the same),
  `size_um`, `class`. A patch has the class of the square in which its centre lies; left and upper edges belong to a
  square.
- rows: `row` (of the store, from 0) and `class` or `label`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.errors import StatedError
from pipeline.evaluation.reading import SlidePairs

Floats = NDArray[np.float64]
Names = NDArray[np.str_]

NO_NAME = ""
_FORMS = "columns x_um, y_um, size_um and class, or row and class (or label)"
_SAME = {"he_x_um": "x_um", "he_y_um": "y_um", "label": "class"}
_MOST_CLASSES = 1000
# Squares side by side may miss each other by rounding: their edges are moved to where no number is round.
_EDGE_UM = 1e-6


def read_classes(path: Path, slide: SlidePairs) -> Names:
    """(n,) the class of each of the slide's pairs, `NO_NAME` where the table gives none.

    Raises:
        StatedError: if the table cannot be read, lacks a column, holds what is no number, no such row or more than
            1,000 classes, or has squares of two classes over the centre of a patch.
    """
    return _Reading(path, slide).classes()


@dataclass(frozen=True)
class _Reading:
    """A table that is being read."""

    path: Path
    slide: SlidePairs

    def refuse(self, expected: str, found: str) -> NoReturn:
        raise StatedError(slide=self.slide.slide, file=self.path, expected=expected, found=found)

    def classes(self) -> Names:
        table = self._table()
        names = table["class"].str.strip().to_numpy(dtype=np.str_)
        count = len(np.unique(names))
        if count > _MOST_CLASSES:
            self.refuse(f"up to {_MOST_CLASSES} classes", str(count))
        if "row" in table:
            return self._of_rows(self._numbers(table, "row"), names)
        corners = np.stack([self._numbers(table, "x_um"), self._numbers(table, "y_um")], axis=1)
        size = self._numbers(table, "size_um")
        if not (size > 0).all():
            self.refuse("a size_um above 0 in every line", f"{size.min():g}")
        return self._of_squares(corners, size, names)

    def _table(self) -> pd.DataFrame:
        try:
            with self.path.open(encoding="utf-8-sig") as stream:
                separator = "\t" if "\t" in stream.readline() else ","
            table = pd.read_csv(self.path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            self.refuse(f"a table of classes with {_FORMS}", str(error))
        table = table.rename(columns={name: _SAME.get(name.strip(), name.strip()) for name in table.columns})
        wanted = ("row", "class") if "row" in table else ("x_um", "y_um", "size_um", "class")
        missing = [name for name in wanted if list(table.columns).count(name) != 1]
        if missing:
            self.refuse(f"a table of classes with {_FORMS}", f"{', '.join(missing)} not once in it")
        if table.empty:
            self.refuse("a table of classes with at least one line", "none")
        return table

    def _numbers(self, table: pd.DataFrame, column: str) -> Floats:
        values = np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            self.refuse(f"finite numbers in {column}", f"{table[column].iloc[bad[0]]!r:.40} in line {bad[0] + 2}")
        return values

    def _of_rows(self, rows: Floats, names: Names) -> Names:
        count = len(self.slide.coords_px)
        known, times = np.unique(rows, return_counts=True)
        if (known != np.floor(known)).any() or known[0] < 0 or known[-1] >= count or times.max() > 1:
            self.refuse(
                f"rows of the store, 0 to {count - 1}, each once", f"{known[0]:g} to {known[-1]:g}, or one twice"
            )
        by_row = np.full(count, NO_NAME, dtype=names.dtype)
        by_row[rows.astype(np.int64)] = names
        return by_row[self.slide.rows]

    def _of_squares(self, corners: Floats, size: Floats, names: Names) -> Names:
        centres = self.slide.centre_um
        found = np.full(len(centres), NO_NAME, dtype=names.dtype)
        taken = np.zeros(len(centres), dtype=np.bool_)
        for side in np.unique(size):  # squares of one table have one side, or a few
            squares = np.flatnonzero(size == side)
            near = cKDTree(corners[squares] + side / 2).query_ball_point(centres, side / 2 + 2 * _EDGE_UM, p=np.inf)
            for patch, candidates in enumerate(near):
                for square in squares[candidates]:
                    offset = centres[patch] - corners[square] + _EDGE_UM
                    if not ((offset >= 0) & (offset < side)).all():
                        continue
                    if taken[patch] and found[patch] != names[square]:
                        place = ", ".join(f"{value:.1f}" for value in centres[patch])
                        self.refuse(
                            "squares of one class over the centre of a patch",
                            f"{found[patch]!s:.40} and {names[square]!s:.40} at {place} um",
                        )
                    found[patch], taken[patch] = names[square], True
        return found
