"""Read a transform given as an affine matrix in text, JSON or numpy, from this project or other tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StatedError
from pipeline.json_file import read_json
from pipeline.registration.displacement import Floats
from pipeline.registration.given_table import MppPair
from pipeline.registration.transform import checked_affine

_EXPECTED = "an affine matrix of 3 x 3 or 2 x 3 numbers, sparse um to dense um"
_PIXELS = re.compile(r"\b(px|pixels?)\b", re.IGNORECASE)
_QUPATH_KEYS = ("m00", "m01", "m02", "m10", "m11", "m12")
_LEAST_TRANSLATION = 1.0
# What Xenium Explorer calls the matrix that it exports.
_XENIUM_NAME = "imagealignment"


@dataclass(frozen=True, eq=False)
class _Stated:
    values: Any
    pixels: bool = False
    notes: tuple[str, ...] = ()


def read_matrix(path: Path, mpp: MppPair | None) -> tuple[Floats, tuple[str, ...]]:
    """Return the affine part (2, 3), sparse um to dense um, of a matrix file, and what was assumed about it.

    Text holds rows of numbers, separated by commas, semicolons or white space, with decimal commas too; a first row of
    words is skipped, six numbers in one row are QuPath's order. A comment line with the word `px` or `pixels` says that
    both frames are in pixels of level 0; otherwise they are in um, except in files that QuPath and Xenium Explorer
    write, which are in pixels. JSON holds rows, a mapping with `matrix`, QuPath's `m00` to `m12`, or SpatialData's
    `affine`. `.npy` holds the array.

    Args:
        path: the file.
        mpp: um per pixel of both sides, for files in pixels; None where it is not known.

    Raises:
        StatedError: if it is none of these, the matrix is projective or cannot be inverted, or it is in pixels and
            `mpp` is None.
    """
    try:
        found = _found_in(path)
        matrix = np.asarray(found.values, np.float64)
    except (OSError, ValueError, TypeError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    notes = found.notes
    if matrix.shape == (6,) or matrix.shape == (1, 6):
        matrix = matrix.reshape(2, 3)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0, 0, 1]])
    if matrix.shape == (3, 3) and _is_transposed(matrix):
        matrix, notes = matrix.T, (*notes, "read as the transpose, because its last column and not its row is 0, 0, 1")
    if matrix.shape != (3, 3) or not _is_affine(matrix):
        raise StatedError(file=path, expected=_EXPECTED, found=f"{matrix.tolist()!r:.160}")
    if not found.pixels:
        return checked_affine(matrix[:2], path), notes
    if mpp is None:
        raise StatedError(file=path, expected="a matrix in um, where no slide tells the um per pixel", found="px")
    to_dense_um, to_sparse_px = np.diag([mpp.dense, mpp.dense, 1]), np.diag([1 / mpp.sparse, 1 / mpp.sparse, 1])
    in_um = to_dense_um @ matrix @ to_sparse_px
    return checked_affine(in_um[:2], path), (*notes, "read as level-0 px of the H&E to level-0 px of the multiplex")


def _found_in(path: Path) -> _Stated:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _Stated(np.load(path, allow_pickle=False))
    if suffix == ".json":
        return _from_json(read_json(path))
    text = path.read_text(encoding="utf-8-sig")
    comments = " ".join(line for line in text.splitlines() if line.lstrip().startswith("#"))
    rows = _from_rows(text)
    if len(rows) == 1 and len(rows[0]) == 6:
        return _Stated(rows[0], pixels=True, notes=("read as QuPath's affine (m00, m01, m02, m10, m11, m12)",))
    if _XENIUM_NAME in path.name.lower():
        return _Stated(rows, pixels=True, notes=("read as Xenium Explorer's image alignment",))
    return _Stated(rows, pixels=bool(_PIXELS.search(comments)))


def _from_json(value: Any) -> _Stated:
    if not isinstance(value, dict):
        return _Stated(value)
    inner = value.get("transform", value)
    if isinstance(inner, dict) and set(_QUPATH_KEYS) <= inner.keys():
        return _Stated([inner[key] for key in _QUPATH_KEYS], pixels=True, notes=("read as QuPath's affine",))
    if value.get("type") == "affine" and "affine" in value:
        return _from_spatialdata(value)
    if "matrix" in value:
        return _Stated(value["matrix"])
    raise ValueError(f"a mapping of {', '.join(sorted(map(str, value))[:6])}, none of which is a known matrix")


def _from_spatialdata(value: dict[str, Any]) -> _Stated:
    """Return SpatialData's affine in the order x, y, whatever the order of its named axes."""
    matrix = np.asarray(value["affine"], np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"an affine of shape {matrix.shape}, not of the plane")
    source, target = (_axis_order(value.get(key)) for key in ("input", "output"))
    return _Stated(matrix[np.ix_([*target, 2], [*source, 2])], notes=("read as SpatialData's affine, in um",))


def _axis_order(system: Any) -> list[int]:
    """Return where x and y stand among the axes of a coordinate system; as written where none are named."""
    axes = system.get("axes") if isinstance(system, dict) else None
    names = [str(axis.get("name") if isinstance(axis, dict) else axis).lower() for axis in axes or ("x", "y")]
    if sorted(names) != ["x", "y"]:
        raise ValueError(f"axes {', '.join(names)}, not x and y")
    return [names.index("x"), names.index("y")]


def _from_rows(text: str) -> list[list[float]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    fields = [_fields(line) for line in lines]
    if len(fields) > 1 and not any(_is_number(field) for field in fields[0]):
        fields = fields[1:]
    return [[float(field) for field in row] for row in fields]


def _fields(line: str) -> list[str]:
    # Where no point is, a comma between semicolons or blanks is that of a decimal number.
    separated = ";" in line.rstrip("; \t") or re.search(r"\d,\d+\s+\S", line)
    decimal_comma = bool(separated) and "." not in line
    return line.replace(",", "." if decimal_comma else " ").replace(";", " ").split()


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _is_transposed(matrix: Floats) -> bool:
    """Return whether the last row is a translation; the entries of a projective map are far below 1."""
    return _is_affine(matrix.T) and float(np.abs(matrix[2, :2]).max()) >= _LEAST_TRANSLATION


def _is_affine(matrix: Floats) -> bool:
    return bool(np.allclose(matrix[2], (0, 0, 1), atol=1e-9))
