"""Measure how far contributions of patches to a score correlate across tissue, which widens intervals over blocks.

Blocks are resampled as if neighbours had nothing in common. Where what patches contribute is alike over distances near
the side of a block, or beyond it, their intervals would be too narrow. The correlogram of the contributions, over
all pairs of patches of a slide, tells the range, and by how much the variance of the score exceeds that of unrelated
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import KDTree
from scipy.stats import t as students

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CELLS_PER_BLOCK = 8  # finer patches are put together: the correlogram need not be finer
_SMALL = 0.05  # correlation below which patches count as unrelated
_MOST_KNOWN = 64
_TOWARDS_USUAL = 2 / 3  # on drawn tissue, 0 gives 0.08 false verdicts of a class on 25 blocks, 1 gives 0.03 of others
_STEPS = 8  # of the correction for the mean; it changes by less than a hundredth from the fifth


@dataclass(frozen=True)
class Correlation:
    """What the correlogram of one score says.

    Attributes:
        range_um: distance from which the correlation is below 0.05; 0 where neighbours are unrelated.
        inflation: variance of the score over that of unrelated blocks, 1 or more.
    """

    range_um: float
    inflation: float

    def widening(self, blocks: float) -> float:
        """Return the factor for the half width of an interval over so many blocks, see `effective_blocks`.

        The standard error grows, and blocks that are alike count as fewer: both by Student's t.
        """
        if self.inflation <= 1:
            return 1.0
        freedom = max(1.0, blocks / self.inflation - 1), max(1.0, blocks - 1)
        alike, unrelated = students.ppf(0.975, freedom)
        return float(np.sqrt(self.inflation) * alike / unrelated)


UNRELATED = Correlation(0.0, 1.0)


def effective_blocks(shares: Floats) -> Floats:
    """Return (T,): as how many blocks of one size those of shares (B, T) count (Kish, 1965); 0 where there are none."""
    total, squares = shares.sum(axis=0), (shares**2).sum(axis=0)
    return np.asarray(np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1), 0.0))


def not_below_usual(found: Sequence[Correlation]) -> list[Correlation]:
    """Return correlations of targets, of which those with less inflation than usual are taken most of the way to it.

    What one target tells of its inflation is uncertain (its logarithm by 0.4 on 25 blocks) and too small just where a
    score strays far, for the mean is taken off; the errors of one run are alike over about the same tissue in all its
    targets. Usual is the geometric mean. What is above it stays, for a target may differ from the others.
    """
    if not found:
        return []
    logarithms = np.log([one.inflation for one in found])
    drawn = logarithms + _TOWARDS_USUAL * (logarithms.mean() - logarithms)
    taken = np.exp(np.maximum(logarithms, drawn)).tolist()
    return [replace(one, inflation=inflation) for one, inflation in zip(found, taken, strict=True)]


@dataclass(frozen=True)
class _Grid:
    """The patches of one slide on a grid of square cells.

    Attributes:
        first: the first of them among the patches of all slides.
        cells: (n,) flat index of the cell of each patch.
        shape_yx: of the grid.
        padded_yx: of its Fourier transform, so that no pair is met around the border.
        distance: (padded) distance of each lag in cells, rounded.
        same_block: (padded) share of the pairs at each lag that lie in one block.
    """

    first: int
    cells: Integers
    shape_yx: tuple[int, int]
    padded_yx: tuple[int, int]
    distance: Integers
    same_block: Floats

    @property
    def part(self) -> slice:
        """Where its patches are among those of all slides."""
        return slice(self.first, self.first + len(self.cells))

    def by_distance(self, lags: Floats, length: int) -> Floats:
        """Sum lags (padded) by distance: (length,)."""
        return np.asarray(np.bincount(self.distance.reshape(-1), lags.reshape(-1), length), dtype=np.float64)

    def products(self, values: Floats) -> Floats:
        """Sum the products of all pairs of cells at each lag (padded), for values (n,) of the patches."""
        image = np.bincount(self.cells, values, self.shape_yx[0] * self.shape_yx[1]).reshape(self.shape_yx)
        spectrum = fft.rfft2(image, s=self.padded_yx)
        return np.asarray(fft.irfft2(np.abs(spectrum) ** 2, s=self.padded_yx))


class Tissue:
    """Where the held-out patches of all slides lie, for correlograms over them."""

    def __init__(self, positions_um: Sequence[Floats], block_um: float) -> None:
        """Place the patches of each slide, at positions (n, 2), on a grid with the same cells for all."""
        step = _spacing(positions_um)
        self._cell_um = step * max(1, int(block_um / _CELLS_PER_BLOCK / step)) if step > 0 else block_um
        starts = np.cumsum([0, *map(len, positions_um)]).tolist()
        self._grids = [
            _grid(start, position, self._cell_um, block_um)
            for start, position in zip(starts, positions_um, strict=False)
            if len(position)
        ]
        self._length = max((int(grid.distance.max()) for grid in self._grids), default=0) + 1
        self._known: dict[bytes, tuple[Floats, Floats, Floats]] = {}

    def correlation(self, influence: Floats, share: Floats) -> Correlation:
        """Return the correlation of what patches contribute to one score.

        Args:
            influence: (n,) of the patches, slide after slide; see `Parts`.
            share: (n,) likewise, 0 where the target is not shown. Influences are taken to vary as the shares do.
        """
        products, (expected, within, pairs) = np.zeros(self._length), self._of_pairs(share)
        for grid in self._grids:
            products += grid.by_distance(grid.products(influence[grid.part]), self._length)
        return self._of(products, expected, within, pairs)

    def _of_pairs(self, share: Floats) -> tuple[Floats, Floats, Floats]:
        """Return by distance what alike patches give, that within blocks, and the pairs; the same for most scores."""
        key = share.tobytes()
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            weights, shown = share / max(float(share.max(initial=0)), 1e-300), (share > 0).astype(np.float64)
            expected, within, pairs = np.zeros((3, self._length))
            for grid in self._grids:
                alike = grid.products(weights[grid.part])
                expected += grid.by_distance(alike, self._length)
                within += grid.by_distance(alike * grid.same_block, self._length)
                pairs += grid.by_distance(np.rint(grid.products(shown[grid.part])), self._length)
            self._known[key] = (expected, within, pairs)
        return self._known[key]

    def _of(self, products: Floats, expected: Floats, within: Floats, pairs: Floats) -> Correlation:
        if len(products) < 2 or products[0] <= 0 or pairs[1] <= 0:
            return UNRELATED
        known = expected > 1e-9 * expected[0]
        found = np.where(known, products / np.where(known, expected, 1), 0.0) * expected[0] / products[0]
        # Pairs of neighbours count twice. Twice the error of a correlation of nothing.
        if found[1] < 2 * np.sqrt(2 / pairs[1]):
            return UNRELATED
        # Taking off the mean lowers all correlations by the variance of that mean, here put back step by step.
        values, last = found, 1
        for _ in range(_STEPS):
            last = int(np.argmax(values <= 0)) if (values <= 0).any() else len(values)
            mean = min(0.9, float(values[:last] @ expected[:last]) / float(expected.sum()))
            values = found + mean * (1 - found)
        far = int(np.argmax(values < _SMALL)) if (values < _SMALL).any() else len(values)
        inflation = float(values[:last] @ expected[:last]) / float(values[:last] @ within[:last])
        return Correlation(far * self._cell_um, max(1.0, inflation))


def _spacing(positions_um: Sequence[Floats]) -> float:
    """Return median distance from a patch to its nearest neighbour; 0 where no slide has two at different places."""
    nearest = [
        KDTree(position).query(position, k=2)[0][:, 1]
        for position in positions_um
        if len(np.unique(position, axis=0)) > 1
    ]
    return float(np.median(np.concatenate(nearest))) if nearest else 0.0


def _grid(first: int, position_um: Floats, cell_um: float, block_um: float) -> _Grid:
    cells = np.floor((position_um - position_um.min(axis=0)) / cell_um + 1e-6).astype(np.int64)
    width, height = (cells.max(axis=0) + 1).tolist()
    padded = fft.next_fast_len(2 * height, real=True), fft.next_fast_len(2 * width, real=True)
    y, x = (np.minimum(np.arange(size), size - np.arange(size)) for size in padded)
    side = block_um / cell_um
    same = np.clip(1 - y / side, 0, 1)[:, None] * np.clip(1 - x / side, 0, 1)[None]
    distance = np.rint(np.hypot(y[:, None], x[None])).astype(np.int64)
    return _Grid(first, cells[:, 1] * width + cells[:, 0], (height, width), padded, distance, same)
