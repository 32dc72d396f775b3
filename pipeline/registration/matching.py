"""Measure local shifts between an H&E image and a dense image on its grid by normalised block correlation.

One measurement serves the deformable step, the held-out score and the residual of a single patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.transform import Transform

# Nuclei are 5 to 10 um wide: what is finer is noise, what is coarser is stain and illumination.
NUCLEAR_FINE_UM = 0.8
NUCLEAR_COARSE_UM = 4.0
_MAP_STEP_PX = 8
_FLAT = 1e-6

# From a block and what it is looked for in to the shift xy in pixels, the peak, and its best rival.
ShiftOf = Callable[[NDArray[np.float32], NDArray[np.float32]], tuple[Floats, float, float]]


@dataclass(frozen=True, eq=False)
class Shifts:
    """What the blocks say.

    Attributes:
        centre_um: (N, 2), block centres in the sparse frame.
        shift_um: (N, 2), how far the dense block lies from the sparse one, in the sparse frame's axes.
        peak: (N,), normalised correlation at the best shift.
        rival: (N,), best normalised correlation elsewhere in the search, the block's own null.
    """

    centre_um: Floats
    shift_um: Floats
    peak: Floats
    rival: Floats

    def __len__(self) -> int:
        return len(self.peak)

    @property
    def confidence(self) -> Floats:
        """(N,) in [0, 1]: how far the peak stands above its best rival, relative to the peak; 0 for no peak."""
        return peak_confidence(self.peak, self.rival)

    @classmethod
    def joined(cls, parts: Sequence[Shifts]) -> Shifts:
        """Return all blocks of several parts."""
        empty = cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))
        names = ("centre_um", "shift_um", "peak", "rival")
        return cls(*(np.concatenate([getattr(part, name) for part in (empty, *parts)]) for name in names))

    def chosen(self, rows: NDArray[Any]) -> Shifts:
        """Return the blocks that an index or a mask picks."""
        return Shifts(self.centre_um[rows], self.shift_um[rows], self.peak[rows], self.rival[rows])


def peak_confidence(peak: Any, rival: Any) -> Floats:
    """Return how far a correlation peak stands above the best rival, relative to the peak, in [0, 1]."""
    height = np.maximum(np.asarray(peak, np.float64), 1e-9)
    below = np.maximum(np.asarray(rival, np.float64), 0)
    confidence: Floats = np.clip(1 - below / height, 0, 1)
    return np.where(np.asarray(peak) > 0, confidence, 0.0)


def nuclear_detail(values: NDArray[np.float32], mpp: float, coarsen: float = 1.0) -> NDArray[np.float32]:
    """Return the signal at the scale of nuclei, in its own unit: a difference of Gaussians.

    Args:
        values: float32 (H, W).
        mpp: um per pixel.
        coarsen: factor on both scales.
    """
    smooth: Any = cv2.GaussianBlur(values, (0, 0), max(NUCLEAR_FINE_UM * coarsen / mpp, 0.5))
    detail: NDArray[np.float32] = smooth - cv2.GaussianBlur(values, (0, 0), _coarse_px(mpp, coarsen))
    return detail


def _coarse_px(mpp: float, coarsen: float) -> float:
    return max(NUCLEAR_COARSE_UM * coarsen / mpp, 1.5)


def nuclear_band(values: NDArray[np.float32], mpp: float, coarsen: float = 1.0) -> NDArray[np.float32]:
    """Return band-passed signal in which nuclei stand out evenly: difference of Gaussians over the local contrast.

    Args:
        values: float32 (H, W).
        mpp: um per pixel.
        coarsen: factor on both scales, for groups of nuclei where pixels are too large for single ones.
    """
    band: Any = nuclear_detail(values, mpp, coarsen)
    coarse = _coarse_px(mpp, coarsen)
    power = cv2.GaussianBlur(band * band, (0, 0), 4 * coarse)
    floor = float(np.sqrt(np.mean(power))) * 0.25 + _FLAT
    flattened: NDArray[np.float32] = (band / (np.sqrt(power) + floor)).astype(np.float32)
    return flattened


def dense_under(dense: NuclearSource, transform: Transform, grid: NuclearImage, mpp: float) -> NuclearImage | None:
    """Return the part of the dense slide that lies under a sparse image; None where there is none.

    Args:
        dense: the dense slide.
        transform: from the sparse slide to it.
        grid: the sparse image.
        mpp: the wanted um per pixel of the part.
    """
    height, width = grid.inside.shape
    y, x = np.mgrid[0:1:17j, 0:1:17j]
    edge = np.stack([x.ravel() * (width - 1), y.ravel() * (height - 1)], axis=1)
    under = transform.to_dense(grid.to_um(edge))
    low, high = under.min(0) - 8 * mpp, under.max(0) + 8 * mpp
    if (high < dense.extent_um[0]).any() or (low > dense.extent_um[1]).any():
        return None
    low = np.maximum(low, dense.extent_um[0] - 4 * mpp)
    high = np.minimum(high, dense.extent_um[1] + 4 * mpp)
    return dense.read(mpp, np.stack([low, high]))


def laid_on(dense: NuclearImage, transform: Transform, grid: NuclearImage) -> NuclearImage:
    """Return the dense signal resampled bilinearly at the pixels of a sparse image."""
    height, width = grid.inside.shape
    rows, columns = height // _MAP_STEP_PX + 3, width // _MAP_STEP_PX + 3
    step = _MAP_STEP_PX
    # Nodes sit where cv2.resize has its source pixels; one extra ring keeps its edge handling out of sight.
    y, x = np.mgrid[0:rows, 0:columns] * float(step) + (step - 1) / 2 - step
    nodes = np.stack([x.ravel(), y.ravel()], axis=1)
    position = dense.to_px(transform.to_dense(grid.to_um(nodes))).astype(np.float32).reshape(rows, columns, 2)
    full = cv2.resize(position, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
    map_x, map_y = cv2.split(full[step : step + height, step : step + width])
    values: Any = cv2.remap(dense.values, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.remap(dense.inside.astype(np.uint8), map_x, map_y, cv2.INTER_NEAREST, borderValue=0) > 0
    return NuclearImage(values, inside & grid.inside, grid.origin_um, grid.mpp)


def block_shift(
    template: NDArray[np.float32], search: NDArray[np.float32], exclude_px: float
) -> tuple[Floats, float, float]:
    """Return shift of one block.

    Args:
        template: float32 (h, w) of the sparse side.
        search: float32 (h + 2r, w + 2r) of the dense side about the same centre.
        exclude_px: distance from the peak beyond which a correlation counts as a rival.

    Returns:
        shift xy in pixels (sub-pixel), the peak, and the highest rival.
    """
    scores = cv2.matchTemplate(search, template, cv2.TM_CCOEFF_NORMED)
    # NaN, of a flat place, compares false.
    return peak_of(np.where(np.abs(scores) <= 1.001, scores, np.float32(0)), exclude_px)


def peak_of(scores: NDArray[Any], exclude_px: float) -> tuple[Floats, float, float]:
    """Return the sub-pixel shift xy of the highest score from the middle, that score, and the highest rival."""
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    peak = float(scores[row, column])
    radius_y, radius_x = (scores.shape[0] - 1) / 2, (scores.shape[1] - 1) / 2
    near = int(exclude_px)
    top, left = max(int(row) - near, 0), max(int(column) - near, 0)
    away = scores.copy()
    about = away[top : int(row) + near + 1, left : int(column) + near + 1]
    y, x = np.arange(about.shape[0])[:, None] + (top - row), np.arange(about.shape[1]) + (left - column)
    about[y**2 + x**2 <= exclude_px**2] = -np.inf
    rival = float(away.max())
    rival = rival if np.isfinite(rival) else 1.0
    fraction = _vertex(scores, int(row), int(column))
    return np.array([column - radius_x + fraction[0], row - radius_y + fraction[1]]), peak, rival


def _vertex(scores: NDArray[Any], row: int, column: int) -> tuple[float, float]:
    """Return offset xy of the vertex of the quadratic surface through the 3 x 3 scores about the peak; 0 at an edge."""
    if not (0 < row < scores.shape[0] - 1 and 0 < column < scores.shape[1] - 1):
        return 0.0, 0.0
    z = scores[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)
    by_x, by_y = z.sum(0), z.sum(1)
    slope_x, slope_y = (by_x[2] - by_x[0]) / 6, (by_y[2] - by_y[0]) / 6
    bend_x, bend_y = (by_x[2] + by_x[0] - 2 * by_x[1]) / 3, (by_y[2] + by_y[0] - 2 * by_y[1]) / 3
    cross = (z[2, 2] + z[0, 0] - z[0, 2] - z[2, 0]) / 4
    determinant = bend_x * bend_y - cross**2
    if determinant <= 1e-12 or bend_x >= 0:
        return 0.0, 0.0
    x = (cross * slope_y - bend_y * slope_x) / determinant
    y = (cross * slope_x - bend_x * slope_y) / determinant
    return float(np.clip(x, -1, 1)), float(np.clip(y, -1, 1))


def match_blocks(
    sparse: NuclearImage,
    dense: NuclearImage,
    centres_px: NDArray[np.int64],
    size_um: float,
    reach_um: float,
    coarsen: float = 1.0,
) -> tuple[Shifts, NDArray[np.int64]]:
    """Return shifts of the blocks about given pixels, and the rows of `centres_px` that they are.

    Blocks that leave either image, or in which one of them shows nothing, are left out.

    Args:
        sparse: H&E nuclear signal.
        dense: dense nuclear signal on the same grid, as `laid_on` gives it.
        centres_px: (N, 2) xy.
        size_um: side of a block.
        reach_um: largest shift looked for along x and y.
        coarsen: see `nuclear_band`.
    """
    mpp = sparse.mpp
    exclude_px = NUCLEAR_COARSE_UM * coarsen * 1.5 / mpp
    first, second = nuclear_band(sparse.values, mpp, coarsen), nuclear_band(dense.values, mpp, coarsen)
    first[~sparse.inside] = 0
    second[~dense.inside] = 0
    bands = replace(sparse, values=first), replace(dense, values=second)
    return compare_blocks(*bands, centres_px, size_um, reach_um, partial(block_shift, exclude_px=exclude_px))


def compare_blocks(
    sparse: NuclearImage,
    dense: NuclearImage,
    centres_px: NDArray[np.int64],
    size_um: float,
    reach_um: float,
    shift_of: ShiftOf,
) -> tuple[Shifts, NDArray[np.int64]]:
    """Return the shifts of the blocks about given pixels by any comparison, and the rows of `centres_px` they are.

    Args:
        sparse: H&E signal.
        dense: dense signal on the same grid.
        centres_px: (N, 2) xy.
        size_um: side of a block.
        reach_um: largest shift looked for along x and y.
        shift_of: from a block and what it is looked for in to shift, peak and rival; see `block_shift`.
    """
    mpp, first, second = sparse.mpp, sparse.values, dense.values
    half, reach = max(8, round(size_um / mpp / 2)), max(3, round(reach_um / mpp))
    height, width = first.shape
    margin = half + reach
    kept, shifts, peaks, rivals = [], [], [], []
    for row, (x, y) in enumerate(centres_px.tolist()):
        if x < margin or y < margin or x + margin >= width or y + margin >= height:
            continue
        if not dense.inside[y - half : y + half + 1 : 8, x - half : x + half + 1 : 8].all():
            continue
        template = first[y - half : y + half + 1, x - half : x + half + 1]
        search = second[y - margin : y + margin + 1, x - margin : x + margin + 1]
        if min(float(cv2.meanStdDev(part)[1][0, 0]) for part in (template, search)) < 1e-3:
            continue
        shift, peak, rival = shift_of(template, search)
        kept.append(row)
        shifts.append(shift * mpp)
        peaks.append(peak)
        rivals.append(rival)
    rows = np.array(kept, np.int64)
    measured = Shifts(
        sparse.to_um(centres_px[rows].reshape(-1, 2)),
        np.array(shifts, np.float64).reshape(-1, 2),
        np.array(peaks, np.float64),
        np.array(rivals, np.float64),
    )
    return measured, rows
