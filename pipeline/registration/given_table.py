"""Read tables of corresponding points with any separator and the usual names of columns."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats

_COORDINATES = ("sparse_x", "sparse_y", "dense_x", "dense_y")
COLUMNS = tuple(f"{name}_um" for name in _COORDINATES)
# Of the units that a column's name may end in: um, None where that depends on the slide.
_UNITS_UM = {"um": 1.0, "nm": 1e-3, "mm": 1e3, "px": None}
_OTHER_NAMES = {"µm": "um", "μm": "um", "micron": "um", "microns": "um", "pixel": "px", "pixels": "px"}
# Xenium Explorer: the fixed image is the multiplex one, the image that is aligned to it the H&E.
_XENIUM_COLUMNS = ("alignmentx", "alignmenty", "fixedx", "fixedy")
_SEPARATORS = ",;\t"
_BIGWARP_FLAGS = ("true", "false")


@dataclass(frozen=True)
class MppPair:
    """Um per level-0 pixel of both sides of a slide."""

    sparse: float
    dense: float


@dataclass(frozen=True, eq=False)
class LandmarkTable:
    """Corresponding points of a file.

    Attributes:
        sparse_um: (N, 2) xy in the sparse frame.
        dense_um: (N, 2) xy in the dense frame.
        lines: (N,) number of each point's line in the file, from 1.
        notes: what was assumed about the file, a sentence each.
    """

    sparse_um: Floats
    dense_um: Floats
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()


def is_point_table(path: Path) -> bool:
    """Return whether a text file names columns of points, or holds BigWarp's landmarks, rather than a matrix."""
    rows = _rows(path)
    if not rows:
        return False
    first = [_plain(cell) for cell in rows[0][1]]
    named = set(_COORDINATES) | set(_XENIUM_COLUMNS)
    return _is_bigwarp(first) or any(cell in named or cell.rpartition("_")[0] in named for cell in first)


def read_point_table(path: Path, mpp: MppPair | None) -> LandmarkTable:
    """Return the points of a CSV.

    Columns are found by name, whatever their case and order: `sparse_x_um,sparse_y_um,dense_x_um,dense_y_um`, also
    written `Sparse X (µm)`; the same ending in `_mm`, `_nm` or `_px`, pixels of level 0; Xenium Explorer's
    `fixedX,fixedY,alignmentX,alignmentY`. BigWarp's landmarks have no names: moving points are read as sparse, target
    points as dense; inactive ones are skipped.

    Args:
        path: the file; separated by commas, semicolons or tabs, with decimal commas too; `#` starts a comment.
        mpp: um per pixel of both sides, for files in pixels; None where it is not known.

    Raises:
        StatedError: if it is none of these, a value is not a finite number, or pixels are given and `mpp` is None.
    """
    rows = _rows(path)
    if not rows:
        raise StatedError(file=path, expected=_expected(), found="an empty file")
    header = [_plain(cell) for cell in rows[0][1]]
    if _is_bigwarp(header):
        return _bigwarp(path, rows)
    sides, notes = _columns_of(path, header, mpp)
    values = np.array([[_number(path, line, row, index) for index in sides.indices] for line, row in rows[1:]])
    values = values.reshape(-1, 4) * sides.to_um
    return LandmarkTable(values[:, :2], values[:, 2:], tuple(line for line, _ in rows[1:]), notes)


@dataclass(frozen=True)
class _Columns:
    indices: tuple[int, ...]
    to_um: Floats


def _columns_of(path: Path, header: list[str], mpp: MppPair | None) -> tuple[_Columns, tuple[str, ...]]:
    """Return where the four coordinates stand, what turns them into um, and what was assumed."""
    if set(_XENIUM_COLUMNS) <= set(header):
        found = _needed(path, mpp)
        note = "read as Xenium Explorer's keypoints: alignment points on the H&E, fixed points on the multiplex, in px"
        indices = tuple(header.index(name) for name in _XENIUM_COLUMNS)
        return _Columns(indices, np.array([found.sparse, found.sparse, found.dense, found.dense])), (note,)
    ends = {name: [end for end in _UNITS_UM if f"{name}_{end}" in header] for name in _COORDINATES}
    absent = [f"{name}_um" for name, found in ends.items() if not found]
    if absent:
        raise StatedError(file=path, expected=_expected(), found=f"no {', '.join(absent)} in {', '.join(header)[:120]}")
    names = [f"{name}_{found[0]}" for name, found in ends.items()]
    scales = [_UNITS_UM[found[0]] for found in ends.values()]
    in_px = [name for name, scale in zip(names, scales, strict=True) if scale is None]
    notes = []
    if in_px:
        known = _needed(path, mpp)
        scales = [
            side if scale is None else scale
            for scale, side in zip(scales, (known.sparse, known.sparse, known.dense, known.dense), strict=True)
        ]
        notes.append(f"columns {', '.join(in_px)} read as px of level 0")
    return _Columns(tuple(map(header.index, names)), np.array(scales, np.float64)), tuple(notes)


def _bigwarp(path: Path, rows: list[tuple[int, list[str]]]) -> LandmarkTable:
    kept = [(line, row) for line, row in rows if row[1].lower() == "true"]
    width = len(rows[0][1]) - 2
    axes = {4: (0, 1, 2, 3), 6: (0, 1, 3, 4)}.get(width)
    if axes is None:
        raise StatedError(file=path, expected="BigWarp's landmarks of the plane", found=f"{width} coordinates a line")
    values = np.array([[_number(path, line, row, 2 + axis) for axis in axes] for line, row in kept]).reshape(-1, 4)
    notes = ["read as BigWarp's landmarks: moving points on the H&E, target points on the multiplex, in um"]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} inactive landmarks skipped")
    return LandmarkTable(values[:, :2], values[:, 2:], tuple(line for line, _ in kept), tuple(notes))


def _is_bigwarp(first: list[str]) -> bool:
    return len(first) >= 6 and first[1] in _BIGWARP_FLAGS


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and the words of each line that is neither empty nor a comment."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected=_expected(), found=str(error)) from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    lines = [(number, line) for number, line in lines if not line.lstrip().startswith("#")]
    if not lines:
        return []
    # A line with decimal commas holds several of them, so what the first line has decides.
    separator = max(_SEPARATORS[1:], key=lines[0][1].count)
    separator = separator if separator in lines[0][1] else ","
    # Line by line: no number holds an end of line, so a stray quote spoils one line only.
    try:
        rows = [(number, next(csv.reader([line], delimiter=separator))) for number, line in lines]
    except csv.Error as error:
        raise StatedError(file=path, expected=_expected(), found=str(error)) from None
    # Whatever separates them, a comma that is left within a cell is that of a decimal number.
    return [(number, [cell.strip().replace(",", ".") for cell in row]) for number, row in rows]


def _plain(cell: str) -> str:
    """Return the name of a column in lower case, its words joined by underscores and its unit as we write it."""
    *words, unit = re.split(r"[\s_()\[\]]+", cell.lower().strip(" ()[]\t")) or [""]
    return "_".join([*words, _OTHER_NAMES.get(unit, unit)])


def _number(path: Path, line: int, row: list[str], index: int) -> float:
    cell = row[index] if index < len(row) else ""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise StatedError(file=path, expected="a finite number for each coordinate", found=f"{cell!r} in line {line}")
    return value


def _needed(path: Path, mpp: MppPair | None) -> MppPair:
    if mpp is None:
        raise StatedError(file=path, expected="points in um, where no slide tells the um per pixel", found="px")
    return mpp


def _expected() -> str:
    return (
        f"a table of points with the columns {', '.join(COLUMNS)} (or _mm, _nm, _px), Xenium Explorer's keypoints or "
        "BigWarp's landmarks"
    )
