"""Read a features file in TRIDENT's layout, as embed and TRIDENT write it: checked on opening, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.hdf5_file import HDF5_ERRORS, dataset
from pipeline.limits import MAX_FEATURES, MAX_PATCHES

BLOCK_ROWS = 8192

_EXPECTED = "a features file as embed or TRIDENT writes it"
_LARGEST_PX = 2**31 - 1
_SAME_MPP = 1e-3


@dataclass(frozen=True)
class FeaturesFile:
    """An open features file.

    Attributes:
        path: the file.
        slide: name of the slide.
        features: (N, D), floating point.
        position_px: (N, 2) int64, xy of each patch's upper-left pixel at level 0.
        size_px: side of a patch in its own pixels.
        size_level0_px: side of a patch in level-0 pixels.
        mpp: um per pixel of a patch; None where the file does not tell, as of TRIDENT.
        mpp_level0: um per level-0 pixel; None where neither the file nor the user tells.
        attributes: all attributes of `coords`.
        qupath_origin_px: level-0 pixel, xy, from which QuPath counts; (0, 0) where the file does not tell.
    """

    path: Path
    slide: str
    features: h5py.Dataset
    position_px: NDArray[np.int64]
    size_px: int
    size_level0_px: int
    mpp: float | None
    mpp_level0: float | None
    attributes: dict[str, Any]
    qupath_origin_px: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.position_px)

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return int(self.features.shape[1])

    @property
    def encoder(self) -> str:
        """What is known of the encoder: run and hash of the weights, or that nothing is."""
        run, sha256 = self.attributes.get("encoder_run"), self.attributes.get("encoder")
        return "unknown" if run is None or sha256 is None else f"{_text(run)}-{_text(sha256)[:12]}"

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield rows and their features (n, D) float32, from first to last.

        Raises:
            StatedError: if the file cannot be read, or a feature is not finite.
        """
        for start in range(0, len(self), BLOCK_ROWS):
            rows = slice(start, min(start + BLOCK_ROWS, len(self)))
            try:
                block = np.asarray(self.features[rows], dtype=np.float32)
            except OSError as error:
                raise StatedError(slide=self.slide, file=self.path, expected=_EXPECTED, found=str(error)) from None
            check_finite(block, start, self.slide, self.path)
            yield rows, block

    def level0_mpp(self) -> float:
        """Return um per level-0 pixel.

        Raises:
            StatedError: if it is not known.
        """
        if self.mpp_level0 is None:
            raise StatedError(
                slide=self.slide,
                file=self.path,
                expected="um per pixel: the attribute mpp_level0 of coords, or --mpp-level0",
                found="neither",
            )
        return self.mpp_level0

    def patch_um(self) -> float:
        """Return side of a patch in um.

        Raises:
            StatedError: if um per pixel is not known.
        """
        return self.size_level0_px * self.level0_mpp() if self.mpp is None else self.size_px * self.mpp


def check_finite(features: NDArray[np.floating[Any]], first_row: int, slide: str, path: Path) -> None:
    """Raise StatedError if one of these features (n, D), the first of which is that row of the file, is not finite."""
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        found = f"NaN or infinity in {len(bad)} of rows {first_row} to {first_row + len(features) - 1}, first in row "
        raise StatedError(slide=slide, file=path, expected="finite features", found=f"{found}{first_row + bad[0]}")


def difference(coords_px: NDArray[np.integer[Any]], wanted_px: NDArray[np.integer[Any]]) -> str:
    """Return how patches (n, 2) differ from those wanted: in shape, or the first that lies elsewhere."""
    if coords_px.shape != wanted_px.shape:
        return f"coordinates of shape {coords_px.shape}"
    row = int(np.flatnonzero((coords_px != wanted_px).any(axis=1))[0])
    return f"row {row} at {tuple(coords_px[row].tolist())} px instead of {tuple(wanted_px[row].tolist())} px"


@contextmanager
def open_features(path: Path, mpp_level0: float | None = None) -> Iterator[FeaturesFile]:
    """Return the open file; `mpp_level0` supplies what a file of TRIDENT lacks.

    Raises:
        StatedError: if there is no such file, it is not of this layout, holds no patch, or states another resolution.
    """
    if not path.is_file():
        raise StatedError(file=path, expected=_EXPECTED, found="a folder" if path.is_dir() else "no file")
    try:
        file = h5py.File(path)
    except OSError as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    with file:
        try:
            features, coords = (dataset(file, name) for name in ("features", "coords"))
            contents = _Contents(features, features.dtype, coords, coords.dtype, dict(coords.attrs))
        except HDF5_ERRORS as error:
            raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
        try:
            opened = _described(path, contents, mpp_level0)
        except (OSError, ValueError) as error:
            raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
        yield opened


class _Contents(NamedTuple):
    """The two tables of a file, their types, and the attributes of `coords`, all of which h5py could read."""

    features: h5py.Dataset
    features_dtype: np.dtype[Any]
    coords: h5py.Dataset
    coords_dtype: np.dtype[Any]
    attributes: dict[str, Any]


def _described(path: Path, contents: _Contents, mpp_level0: float | None) -> FeaturesFile:
    features, features_dtype, coords, coords_dtype, attributes = contents
    if features.ndim != 2 or features_dtype.kind != "f" or coords.shape != (len(features), 2):
        raise ValueError(f"features {features.shape} {features_dtype}, coords {coords.shape} {coords_dtype}")
    if coords_dtype.kind not in "iu":
        raise ValueError(f"coords of type {coords_dtype}")
    if 0 in features.shape:
        raise ValueError(f"no patch: features {features.shape}")
    if len(features) > MAX_PATCHES:
        raise ValueError(f"{len(features)} patches, more than any slide has")
    if features.shape[1] > MAX_FEATURES:
        raise ValueError(f"features {features.shape[1]} wide")
    absent = [name for name in ("name", "patch_size", "patch_size_level0") if name not in attributes]
    if absent:
        raise ValueError(f"coords without the attribute {absent[0]}")
    position_px = coords[...].astype(np.int64)
    if position_px.min() < 0 or position_px.max() > _LARGEST_PX:
        raise ValueError(f"coords from {position_px.min()} to {position_px.max()}")
    return FeaturesFile(
        path=path,
        slide=_file_name(_text(attributes["name"])),
        features=features,
        position_px=position_px,
        size_px=_side(attributes, "patch_size"),
        size_level0_px=_side(attributes, "patch_size_level0"),
        mpp=_length(attributes, "mpp"),
        mpp_level0=_agreed(_length(attributes, "mpp_level0"), mpp_level0),
        attributes=attributes,
        qupath_origin_px=_origin(attributes),
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _file_name(slide: str) -> str:
    """Return the slide's name, which becomes that of files."""
    if not slide or slide in (".", "..") or any(letter in "/\\" or not letter.isprintable() for letter in slide):
        raise ValueError(f"the slide name {slide!r}")
    return slide


def _side(attributes: dict[str, Any], name: str) -> int:
    value = _number(attributes, name)
    if not 0 < value <= _LARGEST_PX or value != round(value):
        raise ValueError(f"{name} {attributes[name]}")
    return int(value)


def _origin(attributes: dict[str, Any]) -> tuple[int, int]:
    x, y = np.asarray(attributes.get("qupath_origin_px", (0, 0))).tolist()
    if not max(abs(x), abs(y)) <= _LARGEST_PX:
        raise ValueError(f"qupath_origin_px {x}, {y}")
    return int(x), int(y)


def _length(attributes: dict[str, Any], name: str) -> float | None:
    if name not in attributes:
        return None
    value = _number(attributes, name)
    if not 0 < value < np.inf:
        raise ValueError(f"{name} {value}")
    return value


def _number(attributes: dict[str, Any], name: str) -> float:
    """Return an attribute as a number; one-element arrays, as some writers leave them, are one."""
    try:
        value = float(attributes[name])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} {attributes[name]!r:.80}") from None
    if np.isnan(value):
        raise ValueError(f"{name} NaN")
    return value


def _agreed(stated: float | None, given: float | None) -> float | None:
    if stated is not None and given is not None and abs(given / stated - 1) > _SAME_MPP:
        raise ValueError(f"mpp_level0 {stated:g}, against the {given:g} of --mpp-level0")
    return given if stated is None else stated
