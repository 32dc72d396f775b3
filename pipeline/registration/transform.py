"""Define the map between the frames of a slide: affine plus displacement, both directions, stored as Zarr.

Direction: `to_dense` carries a point of the sparse frame (H&E) to the dense frame (multiplex). That is also what
resampling the dense image onto the sparse grid needs. Both frames are in um, pixel-centre origin, x right, y down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from pipeline.errors import StatedError
from pipeline.json_file import checked_as
from pipeline.provenance import finished
from pipeline.registration.displacement import DisplacementGrid, Floats, solve_inverse
from pipeline.zarr_reading import reading_zarr

SCHEMA_VERSION = 1
GRID_SPACING_UM = 16.0
GRID_MARGIN_UM = 64.0
# 16 um apart, these cover a square of 130 mm.
_MAX_GRID_VALUES = 2 * 2**26
DIRECTION = (
    "forward carries sparse (H&E) points to dense points: q = A p + b + D_forward(p); "
    "inverse carries dense points to sparse points: p = A^-1 (q - b) + D_inverse(q); "
    "um, pixel-centre origin, x right, y down; displacement components in the order x, y"
)


@dataclass(frozen=True)
class _GridAttributes:
    origin_um: tuple[float, float]
    spacing_um: PositiveFloat


@dataclass(frozen=True, eq=False)
class Transform:
    """The map between the sparse and the dense frame of one slide.

    Attributes:
        affine: float64 (2, 3), the matrix A beside the shift b, sparse um to dense um.
        forward: displacement added in the dense frame, sampled over the sparse frame; None for no displacement.
        inverse: displacement added in the sparse frame, sampled over the dense frame; None for no displacement.
    """

    affine: Floats
    forward: DisplacementGrid | None = None
    inverse: DisplacementGrid | None = None

    @classmethod
    def identity(cls) -> Transform:
        """Return the map of a slide whose two images share one frame."""
        return cls(np.eye(2, 3))

    @classmethod
    def with_inverse(cls, affine: Floats, forward: DisplacementGrid | None, dense_extent_um: Floats) -> Transform:
        """Return the transform with its inverse solved on a grid over the dense frame.

        Args:
            affine: (2, 3), sparse um to dense um.
            forward: displacement over the sparse frame.
            dense_extent_um: (2, 2), lower and upper corner of the part of the dense frame that matters.
        """
        if forward is None:
            return cls(affine)
        low, high = dense_extent_um[0] - GRID_MARGIN_UM, dense_extent_um[1] + GRID_MARGIN_UM
        grid = DisplacementGrid.covering(
            (float(low[0]), float(low[1])), (float(high[0]), float(high[1])), forward.spacing_um
        )
        nodes = grid.nodes_um()
        without = (nodes - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
        return cls(affine, forward, grid.with_values(solve_inverse(affine, forward, nodes) - without))

    def to_dense(self, points_xy_um: NDArray[Any]) -> Floats:
        """Return sparse points (N, 2) in um as dense points (N, 2) in um."""
        points = np.asarray(points_xy_um, np.float64)
        moved: Floats = points @ self.affine[:, :2].T + self.affine[:, 2]
        return moved if self.forward is None else moved + self.forward.at(points)

    def lattice_to_dense(self, x_um: NDArray[Any], y_um: NDArray[Any]) -> Floats:
        """Return dense points (2, H, W) in um, xy, of all sparse points in columns `x_um` (W,) and rows `y_um` (H,).

        The same as `to_dense`, many times faster, because a patch's pixels are such a lattice.
        """
        x, y = np.asarray(x_um, np.float64), np.asarray(y_um, np.float64)
        matrix, shift = self.affine[:, :2, None], self.affine[:, 2, None]
        moved: Floats = (matrix[:, 0] * x)[:, None, :] + (matrix[:, 1] * y + shift)[:, :, None]
        return moved if self.forward is None else moved + self.forward.on_lattice(x, y)

    def to_sparse(self, points_xy_um: NDArray[Any]) -> Floats:
        """Return dense points (N, 2) in um as sparse points (N, 2) in um."""
        points = np.asarray(points_xy_um, np.float64)
        moved: Floats = (points - self.affine[:, 2]) @ np.linalg.inv(self.affine[:, :2]).T
        return moved if self.inverse is None else moved + self.inverse.at(points)

    def round_trip_um(self, points_xy_um: NDArray[Any]) -> Floats:
        """Return distance (N,) in um between sparse points and themselves after there and back."""
        back = self.to_sparse(self.to_dense(points_xy_um))
        distance: Floats = np.linalg.norm(back - np.asarray(points_xy_um, np.float64), axis=1)
        return distance

    def jacobian_determinants(self) -> Floats:
        """Return Jacobian determinants of the forward map in the cells of its grid, (H-1, W-1); (1, 1) if affine.

        In um per um, so 1 keeps areas; a negative sign throughout is a mirror, a change of sign a fold.
        """
        if self.forward is None:
            return np.full((1, 1), np.linalg.det(self.affine[:, :2]))
        values = self.forward.values_um.astype(np.float64)
        along_x = (values[:, :-1, 1:] - values[:, :-1, :-1]) / self.forward.spacing_um
        along_y = (values[:, 1:, :-1] - values[:, :-1, :-1]) / self.forward.spacing_um
        matrix = self.affine[:, :2]
        determinants: Floats = (matrix[0, 0] + along_x[0]) * (matrix[1, 1] + along_y[1]) - (
            matrix[0, 1] + along_y[0]
        ) * (matrix[1, 0] + along_x[1])
        return determinants


def write_transform(path: Path, transform: Transform, provenance: Mapping[str, Any]) -> None:
    """Write `transform.zarr`: a Zarr v3 group with the grids as arrays and everything else as attributes."""
    import zarr

    with finished(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=3)
        group.attrs.update(
            {
                "schema": SCHEMA_VERSION,
                "kind": "transform",
                "direction": DIRECTION,
                "affine": transform.affine.tolist(),
                "provenance": dict(provenance),
            }
        )
        for name, grid in (("forward", transform.forward), ("inverse", transform.inverse)):
            if grid is None:
                continue
            chunks = (2, min(512, grid.values_um.shape[1]), min(512, grid.values_um.shape[2]))
            array = group.create_array(
                f"displacement/{name}", data=grid.values_um, chunks=chunks, dimension_names=["component", "y", "x"]
            )
            array.attrs.update(
                {"origin_um": list(grid.origin_um), "spacing_um": grid.spacing_um, "frame": _frame_of(name)}
            )


def checked_affine(values: Any, path: Path) -> Floats:
    """Return the affine part (2, 3) of a file as float64.

    Raises:
        StatedError: if it has another shape, numbers that are not finite, or no inverse.
    """
    try:
        affine = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise StatedError(file=path, expected="a matrix of numbers", found=str(error)) from None
    if affine.shape != (2, 3) or not np.isfinite(affine).all():
        raise StatedError(
            file=path, expected="an affine part of 2 x 3 finite numbers", found=f"{affine.tolist()!r:.120}"
        )
    if abs(np.linalg.det(affine[:, :2])) < 1e-6:
        raise StatedError(file=path, expected="a matrix that can be inverted", found=f"{affine.tolist()!r:.120}")
    return affine


def _frame_of(name: str) -> str:
    return "nodes in the sparse frame" if name == "forward" else "nodes in the dense frame"


def read_zarr_transform(path: Path) -> Transform:
    """Return the transform in a `transform.zarr`.

    Raises:
        StatedError: if it is broken, or not a transform that `write_transform` wrote.
    """
    import zarr

    try:
        with reading_zarr():
            group = zarr.open_group(path, mode="r")
            attributes = dict(group.attrs)
        if attributes.get("schema") != SCHEMA_VERSION or attributes.get("kind") != "transform":
            raise StatedError(
                file=path,
                expected=f"a transform of schema {SCHEMA_VERSION}",
                found=f"kind {attributes.get('kind')}, schema {attributes.get('schema')}",
            )
        grids = {name: _read_grid(group, name) for name in ("forward", "inverse")}
        absent = [name for name, grid in grids.items() if grid is None]
        if len(absent) == 1:
            raise ValueError(f"no displacement/{absent[0]}, so it leads one way only")
        return Transform(checked_affine(attributes.get("affine"), path), grids["forward"], grids["inverse"])
    except ValueError as error:
        raise StatedError(file=path, expected="a transform written by register", found=str(error)) from None


def _read_grid(group: Any, name: str) -> DisplacementGrid | None:
    key = f"displacement/{name}"
    with reading_zarr():
        if key not in group:
            return None
        array = group[key]
        attributes = dict(array.attrs)
        shape = getattr(array, "shape", None)
    if shape is None or len(shape) != 3 or shape[0] != 2 or prod(shape) > _MAX_GRID_VALUES:
        raise ValueError(f"{key} of shape {shape}, not (2, rows, columns)")
    with reading_zarr():
        values = np.asarray(array[:], np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"NaN or infinite values in {key}")
    grid = checked_as(attributes, _GridAttributes)
    return DisplacementGrid(grid.origin_um, grid.spacing_um, values)
