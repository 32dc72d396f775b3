"""Nuclei of an image and their types, as HoVer-Net writes them (Graham and others, arXiv 1812.06499; its public code).

Its inference on tiles leaves `json/{image}.json` in the output folder: `{"mag": …, "nuc": {"1": {"bbox", "centroid",
"contour", "type_prob", "type"}, …}}`, centroids as x and y in pixels of the image. What the numbers of the types mean
depends on the weights that were used; 0 is none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import StrictInt

from pipeline.errors import StatedError
from pipeline.json_file import read_json_as

TYPES = 6
# The class of a patch without any nucleus.
NO_NUCLEI = "none"


@dataclass(frozen=True)
class _Nucleus:
    centroid: tuple[float, float]
    type: StrictInt | None


@dataclass(frozen=True)
class _File:
    nuc: dict[str, _Nucleus]


@dataclass(frozen=True)
class Nuclei:
    """The nuclei of an image: `centroid_px` (n, 2) xy and `type` (n,), 0 to 5."""

    centroid_px: NDArray[np.float64]
    type: NDArray[np.int64]

    def within(self, x_px: int, y_px: int, size_px: int) -> Nuclei:
        """Return those whose centroid lies in a square; its left and upper edges belong to it."""
        offset = self.centroid_px - (x_px, y_px)
        inside = ((offset >= 0) & (offset < size_px)).all(axis=1)
        return Nuclei(self.centroid_px[inside], self.type[inside])

    def most_frequent(self) -> str:
        """Return the number of the type that most nuclei have, of equally many the smallest.

        Nuclei of type 0 do not count. `none` without any nucleus, empty where all are of type 0.
        """
        if not len(self.type):
            return NO_NUCLEI
        counts = np.bincount(self.type, minlength=TYPES)[1:]
        return str(int(counts.argmax()) + 1) if counts.any() else ""


def read_nuclei(path: Path, side_px: int) -> Nuclei:
    """Return the nuclei in a file of HoVer-Net's.

    Args:
        path: of the file.
        side_px: of the image.

    Raises:
        StatedError: if it is no such file, or nuclei have no type or lie outside the image.
    """
    try:
        nuclei = [_nucleus(item, side_px) for item in read_json_as(path, _File).nuc.values()]
    except (OSError, ValueError) as error:
        expected = 'nuclei as HoVer-Net writes them, {"nuc": {"1": {"centroid": [x, y], "type": 0 to 5, …}}}'
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    return Nuclei(
        np.array([centroid for centroid, _ in nuclei], dtype=np.float64).reshape(-1, 2),
        np.array([kind for _, kind in nuclei], dtype=np.int64),
    )


def _nucleus(item: _Nucleus, side_px: int) -> tuple[tuple[float, float], int]:
    (x, y), kind = item.centroid, item.type
    if kind is None or not 0 <= kind < TYPES:
        raise ValueError(f"the type {kind}" if kind is not None else "a nucleus without a type")
    if not (0 <= x <= side_px and 0 <= y <= side_px):
        raise ValueError(f"a centroid at {x:g}, {y:g} in an image of {side_px} px")
    return (x, y), kind
