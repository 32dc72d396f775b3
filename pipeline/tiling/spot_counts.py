"""Gene counts as the dense side of patches: the sums over the spots whose centre lies in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.transform import Transform
from pipeline.slides.record import SlideRecord
from pipeline.slides.spots import read_counts, read_spots
from pipeline.tiling.grid import Grid
from pipeline.tiling.sampling import DensePatch

_LARGEST_SUM = 2**32 - 1
# Places are rounded to a millionth of a pixel, so that a spot on the edge of two patches lies in one whatever the unit.
_DECIMALS = 6


class SpotCounts:
    """The counts of one slide, its spots where they lie on the sparse slide; in memory, safe from several threads.

    Args:
        slide: name of the slide.
        path: file that they are of, both for errors.
        counts: CSR matrix (S, G) of uint32.
        position_um: (S, 2), centres of the spots in the sparse frame.
        mpp_level0: um per level-0 pixel of the sparse slide.
    """

    def __init__(
        self, slide: str, path: Path, counts: Any, position_um: NDArray[np.float64], mpp_level0: float
    ) -> None:
        # Level-0 pixels from the outer edge of pixel (0, 0), where the squares' corners are whole numbers.
        position_px = np.round(position_um / mpp_level0 + 0.5, _DECIMALS)
        order = np.argsort(position_px[:, 1], kind="stable")
        self._slide, self._path = slide, path
        self._x, self._y = position_px[order].T
        self._counts = counts[order]

    @classmethod
    def open(cls, record: SlideRecord, transform: Transform) -> Self:
        """Return the counts of a slide, its spots carried to the sparse frame.

        Raises:
            StatedError: if they cannot be read, or are not what was inspected.
        """
        if record.dense is None:
            raise ValueError("a slide without a dense side")
        path = Path(record.dense.path)
        try:
            spots, counts = read_spots(path), read_counts(path)
        except StatedError as error:
            raise StatedError(slide=record.slide, file=path, expected=error.expected, found=error.found) from None
        if len(spots.genes) != len(record.dense.channels):
            raise StatedError(
                slide=record.slide,
                file=path,
                expected=f"the {len(record.dense.channels)} genes as inspected",
                found=str(len(spots.genes)),
            )
        position_um = transform.to_sparse(spots.position * record.dense.mpp)
        return cls(record.slide, path, counts, position_um, record.sparse.mpp)

    def check_any_in(self, grid: Grid) -> None:
        """Refuse spots of which none lies in a patch, as those in another unit do.

        Raises:
            StatedError: if that is so.
        """
        if any(len(self._within(grid, corner)) for corner in grid.position_px):
            return
        x_um, y_um = ((values - 0.5) * grid.mpp_level0 for values in (self._x, self._y))
        raise StatedError(
            slide=self._slide,
            file=self._path,
            expected="a spot in some patch (dense_mpp is um per unit of obsm/spatial, whose origin is the slide's)",
            found=f"{len(x_um)} spots at x {x_um.min():.0f} to {x_um.max():.0f}, y {y_um.min():.0f} to "
            f"{y_um.max():.0f} um, none of them in any of {len(grid.position_px)} patches",
        )

    def patch(self, grid: Grid, corner_px: NDArray[np.int64]) -> DensePatch:
        """Return (G, 1, 1) uint32 of the square at `corner_px`, which is inside where it holds a spot.

        Its left and upper edges belong to it, its right and lower ones do not.
        """
        found = self._within(grid, corner_px)
        total = np.asarray(self._counts[found].sum(axis=0, dtype=np.uint64)).reshape(-1, 1, 1)
        if total.max(initial=0) > _LARGEST_SUM:
            raise StatedError(
                slide=self._slide,
                file=self._path,
                expected=f"at most {_LARGEST_SUM} counts of a gene in a patch",
                found=str(total.max()),
            )
        return DensePatch(total.astype(np.uint32), float(len(found) > 0))

    def _within(self, grid: Grid, corner_px: NDArray[np.int64]) -> NDArray[np.int64]:
        left, top = (int(side) for side in corner_px)
        side = grid.size_level0_px
        first, stop = np.searchsorted(self._y, [top, round(top + side, _DECIMALS)])
        x = self._x[first:stop]
        found: NDArray[np.int64] = first + np.flatnonzero((x >= left) & (x < round(left + side, _DECIMALS)))
        return found
