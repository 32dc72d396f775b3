"""Read classes of patches from a table about a slide: tissue classes of squares, or a label of each patch.

A comma- or tab-separated text with named columns, in one of two forms; other columns are ignored, and an empty
class is none:

- squares: `x_um`, `y_um` (upper-left corner in the sparse slide's frame; `he_x_um`, `he_y_um` mean the same),
  `size_um`, `class`. A patch has the class of the square in which its centre lies; left and upper edges belong to a
  square.
- rows: `row` (of the store, from 0) and `class` or `label`.

A table may hold classes of several kinds, each in a separate column; whoever reads it says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.store.targets import NO_CLASS

if TYPE_CHECKING:
    # It and scipy.spatial take half a second of a processor to import; patches without classes need neither.
    import pandas as pd

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Names = NDArray[np.str_]

NO_NAME = ""
# The column that is read where nothing else is asked for; `label` means the same.
CLASS_COLUMN = "class"
_SAME = {"he_x_um": "x_um", "he_y_um": "y_um"}
_MOST_CLASSES = 1000
# Adjacent squares may miss each other by rounding: their edges are moved off round numbers.
_EDGE_UM = 1e-6


@dataclass(frozen=True)
class ClassifiedPatches:
    """The patches of a slide whose classes are asked for.

    Attributes:
        slide: its name.
        rows: (n,) of its store.
        centre_um: (n, 2) xy of their centres.
        count: patches of the whole store.
    """

    slide: str
    rows: Integers
    centre_um: Floats
    count: int


def read_classes(path: Path, patches: ClassifiedPatches, column: str = CLASS_COLUMN) -> Names:
    """Return (n,) the class of each patch, `NO_NAME` where the table gives none.

    Args:
        path: the table.
        patches: which.
        column: that holds the classes.

    Raises:
        StatedError: if the table cannot be read, lacks a column, holds what is not a number, no such row or more than
            1,000 classes, or has squares of two classes over the centre of a patch.
    """
    return _ClassTable(path, patches, column).classes()


def numbered(names: Sequence[Names]) -> tuple[tuple[str, ...], list[Integers]]:
    """Return the classes of several slides' patches, sorted, and the number of each patch's class, `NO_CLASS` for none.

    Args:
        names: for each slide the class (n,) of its patches.
    """
    known = sorted({str(name) for one in names for name in np.unique(one)} - {NO_NAME})
    number = {name: index for index, name in enumerate(known)} | {NO_NAME: NO_CLASS}
    return tuple(known), [np.array([number[str(name)] for name in one], dtype=np.int64) for one in names]


@dataclass(frozen=True)
class _ClassTable:
    """A table that is being read."""

    path: Path
    patches: ClassifiedPatches
    column: str

    def refuse(self, expected: str, found: str) -> NoReturn:
        raise StatedError(slide=self.patches.slide, file=self.path, expected=expected, found=found)

    @property
    def forms(self) -> str:
        """The columns that a table must have."""
        also = " (or label)" if self.column == CLASS_COLUMN else ""
        return f"columns x_um, y_um, size_um and {self.column}, or row and {self.column}{also}"

    def classes(self) -> Names:
        table = self._table()
        names = table[self.column].str.strip().to_numpy(dtype=np.str_)
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
        import pandas as pd

        try:
            with self.path.open(encoding="utf-8-sig") as stream:
                separator = "\t" if "\t" in stream.readline() else ","
            table = pd.read_csv(self.path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            self.refuse(f"a table of classes with {self.forms}", str(error))
        same = _SAME | ({"label": CLASS_COLUMN} if self.column == CLASS_COLUMN else {})
        table = table.rename(columns={name: same.get(name.strip(), name.strip()) for name in table.columns})
        wanted = ("row", self.column) if "row" in table else ("x_um", "y_um", "size_um", self.column)
        missing = [name for name in wanted if list(table.columns).count(name) != 1]
        if missing:
            self.refuse(f"a table of classes with {self.forms}", f"{', '.join(missing)} not once in it")
        if table.empty:
            self.refuse("a table of classes with at least one line", "none")
        return table

    def _numbers(self, table: pd.DataFrame, column: str) -> Floats:
        import pandas as pd

        values = np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            self.refuse(f"finite numbers in {column}", f"{table[column].iloc[bad[0]]!r:.40} in line {bad[0] + 2}")
        return values

    def _of_rows(self, rows: Floats, names: Names) -> Names:
        count = self.patches.count
        known, times = np.unique(rows, return_counts=True)
        if (known != np.floor(known)).any() or known[0] < 0 or known[-1] >= count or times.max() > 1:
            self.refuse(
                f"rows of the store, 0 to {count - 1}, each once", f"{known[0]:g} to {known[-1]:g}, or one twice"
            )
        by_row = np.full(count, NO_NAME, dtype=names.dtype)
        by_row[rows.astype(np.int64)] = names
        return by_row[self.patches.rows]

    def _of_squares(self, corners: Floats, size: Floats, names: Names) -> Names:
        from scipy.spatial import cKDTree

        centres = self.patches.centre_um
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
