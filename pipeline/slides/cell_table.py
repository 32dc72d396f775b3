"""Read tables of segmented cells: per row a cell, its position, intensities of markers, and its class if given.

Read are CSV (also TSV, and compressed), Parquet and AnnData. Columns are known by their names, whatever the case: the
tables of mcmicro, QuPath, Xenium and scimap are taken as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.table_columns import Columns

# Sizes beyond which a table is refused before memory is asked for.
MAX_CELLS = 2**24
_MAX_INTENSITIES = 2**30
MOST_CLASSES = 255
# Farther than any slide reaches, in pixels or um.
_FARTHEST = 1e8

# Pairs of names of x and y, the first that a table has are taken.
_PLACES = (
    ("x", "y"),
    ("x_centroid", "y_centroid"),
    ("centroid_x", "centroid_y"),
    ("center_x", "center_y"),
    ("x_um", "y_um"),
    ("x_px", "y_px"),
    ("centroid x µm", "centroid y µm"),
    ("centroid x px", "centroid y px"),
)
_CLASSES = ("class", "classification", "cell_class", "cell_type", "celltype", "phenotype")
# Numbers that segmentation tells of a cell and that are no marker.
_NO_MARKERS = {
    *(
        "",
        "unnamed: 0",
        "index",
        "id",
        "cellid",
        "cell_id",
        "cell id",
        "label",
        "object id",
        "objectid",
        "imageid",
        "fov",
    ),
    *("area", "cell_area", "nucleus_area", "perimeter", "eccentricity", "solidity", "extent", "orientation"),
    *("majoraxislength", "minoraxislength", "major_axis_length", "minor_axis_length"),
    *("column_centroid", "row_centroid", "z", "z_centroid"),
    *(name for names in _PLACES for name in names),
    *_CLASSES,
}


@dataclass(frozen=True, eq=False)
class CellPlaces:
    """Where the cells of a table lie, and what it knows of them.

    Attributes:
        position: (S, 2) float64, x and y in the table's own unit.
        markers: names of the columns of intensities.
        classes: names of the classes, sorted; empty where the table has none.
        class_index: (S,) int64, the class of each cell; -1 for none.
        skipped: columns that are neither.
    """

    position: NDArray[np.float64]
    markers: tuple[str, ...]
    classes: tuple[str, ...]
    class_index: NDArray[np.int64]
    skipped: tuple[str, ...]


def read_cells(columns: Columns) -> CellPlaces:
    """Return places and classes of the cells of a table, and the names of its markers.

    Raises:
        StatedError: if it is no such table, names of columns repeat, x and y are missing or no places on a slide, no
            column holds intensities, or there are no cells or more than any slide has.
    """
    path = columns.path
    _check_unique(columns.names, path)
    x, y = _place_columns(columns)
    lower = {name.lower(): name for name in columns.names}
    class_column = next((lower[name] for name in _CLASSES if name in lower), None)
    markers = tuple(name for name in columns.numeric if name.lower() not in _NO_MARKERS)
    if not markers:
        raise StatedError(file=path, expected="a column of numbers per marker", found=_listed(columns.names))
    found = [name for name in columns.names if name.lower() not in _NO_MARKERS]
    skipped = tuple(name for name in found if name not in markers)
    position = np.stack([columns.numbers(name, np.float64) for name in (x, y)], axis=1)
    if not 0 < len(position) <= MAX_CELLS:
        raise StatedError(file=path, expected=f"1 to {MAX_CELLS} cells", found=str(len(position)))
    near = (np.abs(position) <= _FARTHEST).all(axis=1)
    if not near.all():
        cell = int(np.argmin(near))
        expected = f"finite places on a slide in the columns {x} and {y}"
        raise StatedError(file=path, expected=expected, found=f"{position[cell].tolist()} in row {cell + 1}")
    classes, index = _classes_of(columns, class_column, len(position))
    return CellPlaces(position, markers, classes, index, skipped)


def read_intensities(columns: Columns, markers: Sequence[str]) -> NDArray[np.float32]:
    """Return (S, M) intensities of some markers of a table.

    Raises:
        StatedError: if one is missing, no number, NaN, infinite or negative, or there are too many.
    """
    path = columns.path
    absent = [name for name in markers if name not in columns.numeric]
    if absent:
        raise StatedError(file=path, expected=f"a column of numbers {absent[0]!r}", found=_listed(columns.names))
    found: NDArray[np.float32] | None = None
    for number, name in enumerate(markers):
        values = columns.numbers(name, np.float32)
        if found is None:
            if len(values) * len(markers) > _MAX_INTENSITIES:
                shape = f"{len(values)} cells x {len(markers)} markers"
                raise StatedError(file=path, expected=f"at most {_MAX_INTENSITIES} intensities", found=shape)
            found = np.empty((len(values), len(markers)), dtype=np.float32)
        wrong = ~((values >= 0) & (values < np.inf))
        if wrong.any():
            cell = int(np.argmax(wrong))
            raise StatedError(
                file=path,
                expected=f"intensities of at least 0 in column {name!r}",
                found=f"{values[cell]:g} in row {cell + 1}, {np.count_nonzero(wrong)} such cells in all",
            )
        found[:, number] = values
    return np.empty((0, 0), np.float32) if found is None else found


def _check_unique(names: Sequence[str], path: Path) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        found = f"{', '.join(map(repr, repeated[:4]))} more than once"
        raise StatedError(file=path, expected="a different name for each column", found=found)


def _place_columns(columns: Columns) -> tuple[str, str]:
    lower = {name.lower(): name for name in columns.names}
    for x, y in _PLACES:
        if x in lower and y in lower:
            return lower[x], lower[y]
    wanted = " or ".join(f"{x}, {y}" for x, y in _PLACES[:4])
    raise StatedError(file=columns.path, expected=f"columns of places ({wanted}, …)", found=_listed(columns.names))


def _classes_of(columns: Columns, name: str | None, cells: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the classes, sorted, and the class of each cell, -1 where there is none."""
    if name is None:
        return (), np.full(cells, -1)
    texts, index = columns.categories(name)
    order = sorted({text for text in texts if text.strip()})
    if len(order) > MOST_CLASSES:
        expected = f"at most {MOST_CLASSES} classes in column {name!r}"
        raise StatedError(file=columns.path, expected=expected, found=str(len(order)))
    number = {text: place for place, text in enumerate(order)}
    # The last entry is that of cells without a class, whose index is -1.
    to_class = np.array([*(number.get(text, -1) for text in texts), -1], dtype=np.int64)
    return tuple(order), to_class[index]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} others" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "no columns"
