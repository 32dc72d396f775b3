"""A transform given as a 3 x 3 matrix, sparse um to dense um, in CSV, text or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StatedError
from pipeline.json_file import read_json
from pipeline.registration.displacement import Floats
from pipeline.registration.transform import checked_affine

_EXPECTED = "a 3 x 3 matrix whose last row is 0, 0, 1 (sparse um to dense um)"


def read_matrix(path: Path) -> Floats:
    """The affine part (2, 3) of a matrix file.

    CSV and text hold three rows of three numbers; JSON holds a list of rows, or a mapping with the key `matrix`.

    Raises:
        StatedError: if it is none of these, or the matrix is projective or cannot be inverted.
    """
    try:
        is_json = path.suffix.lower() == ".json"
        values = _from_json(path) if is_json else _from_rows(path.read_text(encoding="utf-8-sig"))
        matrix = np.asarray(values, np.float64)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    if matrix.shape != (3, 3) or not np.allclose(matrix[2], (0, 0, 1), atol=1e-9):
        raise StatedError(file=path, expected=_EXPECTED, found=f"{matrix.tolist()!r:.160}")
    return checked_affine(matrix[:2], path)


def _from_json(path: Path) -> Any:
    value = read_json(path)
    return value["matrix"] if isinstance(value, dict) else value


def _from_rows(text: str) -> list[list[float]]:
    rows = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [[float(word) for word in row.replace(",", " ").split()] for row in rows]
