"""Read a table of points as dense patches: the combined values of the points centred in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.registration.transform import Transform
from pipeline.slides.kinds.base import PointKind, PointTable
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.tiling.grid import Grid
from pipeline.tiling.sampling import DensePatch

# Places are rounded to a millionth of a pixel: a point on the edge of two patches lies in one, whatever the unit.
_DECIMALS = 6
# A table in pixels that is taken for one in um, of slides of 0.65 um per pixel or finer, puts more outside.
_MOSTLY_OUTSIDE = 0.5
# Of exchanged places: the share that then lies on tissue, and by how much it is larger; points that are looked at.
_MOSTLY, _CLEARLY, _LOOKED_AT = 0.5, 0.2, 20_000


class PointPatches:
    """The points of one slide where they lie on the sparse slide; in memory, safe from several threads.

    Args:
        slide: name of the slide.
        path: file that the points are of, both for errors.
        kind: what they are.
        table: the points, in any frame.
        position_um: (S, 2), the points in the sparse frame.
        mpp_level0: um per level-0 pixel of the sparse slide.
    """

    def __init__(
        self,
        slide: str,
        path: Path,
        kind: PointKind,
        table: PointTable,
        position_um: NDArray[np.float64],
        mpp_level0: float,
    ) -> None:
        # Level-0 pixels from the outer edge of pixel (0, 0), where the squares' corners are whole numbers.
        position_px = np.round(position_um / mpp_level0 + 0.5, _DECIMALS)
        self._order = np.argsort(position_px[:, 1], kind="stable")
        self._slide, self._path, self._kind, self._table = slide, path, kind, table
        self._x, self._y = position_px[self._order].T

    @classmethod
    def open(cls, record: SlideRecord, side: SideRecord, kind: PointKind, transform: Transform) -> Self:
        """Return the points of a slide, carried to the sparse frame.

        Raises:
            StatedError: if they cannot be read, or are not what was inspected.
        """
        path = Path(side.path)
        try:
            table = kind.read_table(path, side.columns)
        except StatedError as error:
            raise StatedError(slide=record.slide, file=path, expected=error.expected, found=error.found) from None
        if table.values != len(side.channels):
            raise StatedError(
                slide=record.slide,
                file=path,
                expected=f"the {len(side.channels)} {kind.words.many} as inspected",
                found=str(table.values),
            )
        position_um = transform.to_sparse(table.position * side.mpp)
        found = cls(record.slide, path, kind, table, position_um, record.sparse.mpp)
        found._check_on_slide(record.sparse)
        return found

    def check_on_tissue(self, grid: Grid, transform: Transform, mpp: float) -> None:
        """Refuse points whose x and y are exchanged, which shows where tissue is not as wide as it is high.

        Args:
            grid: the squares that hold tissue.
            transform: from the sparse to the dense frame.
            mpp: um per unit of the table's places.

        Raises:
            StatedError: if most points would lie on tissue with x and y exchanged, and clearly fewer do as they are.
        """
        some = self._table.position[:: max(1, len(self._table.position) // _LOOKED_AT)] * mpp
        as_told, exchanged = (_share_in(grid, transform.to_sparse(points)) for points in (some, some[:, ::-1]))
        where = f"{as_told:.0%} of {len(self._x)} {self._kind.points} in patches with tissue"
        if exchanged >= _MOSTLY and exchanged > as_told + _CLEARLY:
            raise StatedError(
                slide=self._slide,
                file=self._path,
                expected=f"x and y of the {self._kind.points} in that order",
                found=f"{where}, {exchanged:.0%} with x and y exchanged",
            )
        if as_told < _MOSTLY:
            say(f"tile {self._slide}, file {self._path}: only {where}")

    def _check_on_slide(self, sparse: SideRecord) -> None:
        """Refuse points of which most lie outside the slide, as those in another unit do."""
        width, height = sparse.size_xy
        outside = ~((self._x >= 0) & (self._x < width) & (self._y >= 0) & (self._y < height))
        if outside.mean() > _MOSTLY_OUTSIDE:
            x_um, y_um = ((values - 0.5) * sparse.mpp for values in (self._x, self._y))
            raise StatedError(
                slide=self._slide,
                file=self._path,
                expected=f"{self._kind.points} on the slide of {width * sparse.mpp:.0f} x {height * sparse.mpp:.0f} um "
                f"(dense_mpp is um per unit of {self._kind.unit}, whose origin is the slide's)",
                found=f"{np.count_nonzero(outside)} of {len(outside)} outside, at x {x_um.min():.0f} to "
                f"{x_um.max():.0f}, y {y_um.min():.0f} to {y_um.max():.0f} um",
            )

    def check_any_in(self, grid: Grid) -> None:
        """Refuse points of which none lies in a patch, as those in another unit do.

        Raises:
            StatedError: if that is so.
        """
        if any(len(self._within(grid, corner)) for corner in grid.position_px):
            return
        x_um, y_um = ((values - 0.5) * grid.mpp_level0 for values in (self._x, self._y))
        kind = self._kind
        raise StatedError(
            slide=self._slide,
            file=self._path,
            expected=f"a {kind.point} in some patch (dense_mpp is um per unit of {kind.unit}, whose origin is the "
            "slide's)",
            found=f"{len(x_um)} {kind.points} at x {x_um.min():.0f} to {x_um.max():.0f}, y {y_um.min():.0f} to "
            f"{y_um.max():.0f} um, none of them in any of {len(grid.position_px)} patches",
        )

    def patch(self, grid: Grid, corner_px: NDArray[np.int64]) -> DensePatch:
        """Return the values (T, 1, 1) of the square at `corner_px`, which is inside where it holds a point.

        Its left and upper edges belong to it, its right and lower ones do not.
        """
        found = self._within(grid, corner_px)
        try:
            values: NDArray[Any] = self._table.combined(self._order[found])
        except StatedError as error:
            raise StatedError(slide=self._slide, file=self._path, expected=error.expected, found=error.found) from None
        return DensePatch(values.reshape(-1, 1, 1), float(len(found) > 0))

    def _within(self, grid: Grid, corner_px: NDArray[np.int64]) -> NDArray[np.int64]:
        left, top = (int(side) for side in corner_px)
        side = grid.size_level0_px
        first, stop = np.searchsorted(self._y, [top, round(top + side, _DECIMALS)])
        x = self._x[first:stop]
        found: NDArray[np.int64] = first + np.flatnonzero((x >= left) & (x < round(left + side, _DECIMALS)))
        return found


def _share_in(grid: Grid, position_um: NDArray[np.float64]) -> float:
    """Return the share of points that lie in squares of a grid."""
    side = grid.size_level0_px
    squares = np.rint(grid.position_px / side).astype(np.int64)
    width, height = squares.max(axis=0) + 1
    taken = np.zeros((height, width), dtype=np.bool_)
    taken[squares[:, 1], squares[:, 0]] = True
    x, y = np.floor((position_um / grid.mpp_level0 + 0.5) / side).astype(np.int64).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float(np.count_nonzero(taken[y[inside], x[inside]]) / len(position_um))
