"""Read patch coordinates of TRIDENT and CLAM, and cut a slide's patches there.

Both keep `coords` (N, 2), the level-0 pixel at each patch's upper-left corner. TRIDENT tells the side at level 0
(`patch_size_level0`); CLAM tells it in pixels of a level (`patch_size`) with that level's `downsample`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.encoder_description import EncoderDescription
from pipeline.errors import StatedError
from pipeline.hdf5_file import HDF5_ERRORS, dataset
from pipeline.slides.base import Slide
from pipeline.tiling.grid import Grid
from pipeline.tiling.sampling import read_sparse_patch

_EXPECTED = "patch coordinates as TRIDENT or CLAM writes them"


@dataclass(frozen=True)
class PatchCoordinates:
    """Where the patches of a slide lie.

    Attributes:
        path: the file.
        slide: name of the slide.
        position_px: (N, 2) int64, xy of each patch's upper-left pixel at level 0.
        size_level0_px: side of a patch in level-0 pixels.
        overlap: of neighbouring patches, as share of the side.
        slide_size_px: width and height of level 0; None where the file does not tell.
    """

    path: Path
    slide: str
    position_px: NDArray[np.int64]
    size_level0_px: float
    overlap: float
    slide_size_px: tuple[int, int] | None


@dataclass(frozen=True)
class CutAttributes:
    """What is said of patches that are cut from a slide while they are embedded; names as in a store."""

    slide: str
    patient: str
    size_px: int
    mpp: float
    mpp_level0: float
    size_level0_px: tuple[int, int]
    patch_size_level0: int
    recipe: Mapping[str, Any]
    qupath_origin_px: tuple[int, int]


class LocatedPatches:
    """The patches of an open slide at given coordinates, as an encoder wants them; read on demand.

    Args:
        slide: an RGB slide.
        mpp_level0: its um per level-0 pixel.
        coordinates: where the patches lie.
        trained: of the encoder; its patches' side in pixels is that of these patches.
        patient: patient ID; empty where unknown.

    Raises:
        StatedError: if there is no patch, or the coordinates are those of another slide.
    """

    def __init__(
        self, slide: Slide, mpp_level0: float, coordinates: PatchCoordinates, trained: EncoderDescription, patient: str
    ) -> None:
        size = slide.header.size_xy
        if coordinates.slide_size_px is not None and coordinates.slide_size_px != size:
            expected = f"the slide of {coordinates.path}, {coordinates.slide_size_px} px"
            raise StatedError(slide=coordinates.slide, file=slide.header.path, expected=expected, found=f"{size} px")
        low, high = coordinates.position_px.min(axis=0), coordinates.position_px.max(axis=0)
        if low.min() < 0 or (high >= size).any():
            found = f"coordinates from {tuple(low.tolist())} to {tuple(high.tolist())}"
            raise StatedError(
                slide=coordinates.slide, file=coordinates.path, expected=f"coordinates within {size}", found=found
            )
        self.path = slide.header.path
        self.table = coordinates
        mpp = coordinates.size_level0_px * mpp_level0 / trained.patch_px
        self.attributes = CutAttributes(
            slide=coordinates.slide,
            patient=patient,
            size_px=trained.patch_px,
            mpp=mpp,
            mpp_level0=mpp_level0,
            size_level0_px=size,
            patch_size_level0=round(coordinates.size_level0_px),
            recipe={"size_px": trained.patch_px, "mpp": round(mpp, 3), "places": "given"},
            qupath_origin_px=slide.header.bounds_xy,
        )
        self._slide = slide
        self._grid = Grid(trained.patch_px, mpp, mpp_level0, coordinates.position_px)

    def __len__(self) -> int:
        return len(self.table.position_px)

    def read_sparse(self, rows: slice) -> NDArray[np.uint8]:
        """Return (n, P, P, 3) uint8: the patches of these rows; white where they reach beyond the slide."""
        corners = self._grid.position_px[rows]
        return np.stack([read_sparse_patch(self._slide, self._grid, corner) for corner in corners])


def read_coordinates(path: Path) -> PatchCoordinates:
    """Return the coordinates in a file of TRIDENT or CLAM; features files of TRIDENT, and ours, hold them too.

    Raises:
        StatedError: if there is no such file, it is not of this layout, or holds no patch.
    """
    if not path.is_file():
        raise StatedError(file=path, expected=_EXPECTED, found="no file")
    try:
        with h5py.File(path) as file:
            coords = dataset(file, "coords")
            position_px, attributes = np.asarray(coords[...]), dict(coords.attrs)
    except HDF5_ERRORS as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    try:
        return _described(path, position_px, attributes)
    except ValueError as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None


def _described(path: Path, position_px: NDArray[Any], attributes: Mapping[str, Any]) -> PatchCoordinates:
    if position_px.ndim != 2 or position_px.shape[1] != 2 or position_px.dtype.kind not in "iu":
        raise ValueError(f"coords {position_px.shape} {position_px.dtype}")
    if not len(position_px):
        raise ValueError("no patch")
    side = _side_level0(attributes)
    if not 0 < side < np.inf:
        raise ValueError(f"patches of {side:g} px")
    overlap = _number(attributes, "overlap") if "overlap" in attributes else 0.0
    known = {"level0_width", "level0_height"} <= attributes.keys()
    width, height = (_number(attributes, f"level0_{name}") if known else 0.0 for name in ("width", "height"))
    return PatchCoordinates(
        path=path,
        slide=_name(attributes, path),
        position_px=position_px.astype(np.int64),
        size_level0_px=side,
        overlap=overlap / _number(attributes, "patch_size"),
        slide_size_px=(int(width), int(height)) if known else None,
    )


def _side_level0(attributes: Mapping[str, Any]) -> float:
    if "patch_size_level0" in attributes:
        return _number(attributes, "patch_size_level0")
    if "downsample" not in attributes:
        raise ValueError("coords with neither patch_size_level0 (TRIDENT) nor downsample (CLAM)")
    return _number(attributes, "patch_size") * _number(attributes, "downsample")


def _number(attributes: Mapping[str, Any], name: str) -> float:
    """Return an attribute as a finite number, the first of several; never a `patch_size` of 0, which is divided by."""
    try:
        value = float(np.ravel(attributes[name])[0])
    except (LookupError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} {attributes.get(name)!r:.80}") from None
    if not np.isfinite(value) or (name == "patch_size" and value <= 0):
        raise ValueError(f"{name} {value:g}")
    return value


def _name(attributes: Mapping[str, Any], path: Path) -> str:
    value = attributes.get("name", path.stem)
    return value.decode() if isinstance(value, bytes) else str(value)
