"""Measure local shifts by mutual information, for dense channels with structures but no nuclei."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.registration.coarse import density
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import Shifts, compare_blocks, laid_on, peak_of
from pipeline.registration.transform import Transform

# Few classes: a block of some thousand pixels fills their joint histogram.
_CLASSES = 6
_VIEW_CLASSES = 3
_POSE_SIDE_PX = 128
_LEAST_SHARED = 0.45
# Structures without nuclei are broad, and so are their peaks.
_RIVAL_UM = 24.0


def match_by_information(
    sparse: NuclearImage, dense: NuclearImage, centres_px: NDArray[np.int64], size_um: float, reach_um: float
) -> tuple[Shifts, NDArray[np.int64]]:
    """Return the shifts of highest mutual information of blocks about given pixels, and the rows they are.

    Args:
        sparse: H&E signal.
        dense: dense signal on the same grid, as `laid_on` gives it.
        centres_px: (N, 2) xy.
        size_um: side of a block.
        reach_um: largest shift looked for along x and y.
    """
    shift_of = partial(information_shift, exclude_px=_RIVAL_UM / sparse.mpp)
    return compare_blocks(sparse, dense, centres_px, size_um, reach_um, shift_of)


def information_shift(
    template: NDArray[np.float32], search: NDArray[np.float32], exclude_px: float
) -> tuple[Floats, float, float]:
    """Return the shift of one block, the peak, and its rival, as `block_shift` does, by mutual information.

    Unrelated blocks share some information too, so the median over all shifts is taken as zero.
    """
    information = information_of_shifts(template, search)
    return peak_of(information - np.median(information), exclude_px)


def information_of_shifts(template: NDArray[np.float32], search: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mutual information in nats of a block (h, w) and each place in another (H, W): (H-h+1, W-w+1).

    The joint histogram of a place counts pixels by class of either image, which is a correlation of class masks.
    """
    frame = tuple(scipy.fft.next_fast_len(side, real=True) for side in search.shape)
    rows, columns = (large - small + 1 for large, small in zip(search.shape, template.shape, strict=True))
    first = np.conj(scipy.fft.rfft2(_class_masks(template), frame))
    second = scipy.fft.rfft2(_class_masks(search), frame)
    counts = scipy.fft.irfft2(first[:, None] * second[None], frame)[..., :rows, :columns]
    joint = np.maximum(counts, 0) / template.size
    information: NDArray[np.float32] = (
        _entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.reshape(-1, rows, columns))
    )
    return information


def shared_information(views: tuple[NuclearImage, NuclearImage], dense: NuclearImage, affine: Floats) -> float:
    """Return how much two views of the H&E together tell of a dense image under an affine map, in nats.

    Args:
        views: of the H&E, on one grid.
        dense: the dense image.
        affine: (2, 3), sparse um to dense um.

    Returns:
        0 where less than 45 % of the smaller slide is shared.
    """
    mpp = max(max(image.inside.shape) * image.mpp for image in (views[0], dense)) / _POSE_SIDE_PX
    mpp = max(mpp, views[0].mpp, dense.mpp)
    fixed, moving = [density(view, mpp) for view in views], density(dense, mpp)
    laid = laid_on(moving, Transform(affine), fixed[0])
    both = laid.inside & fixed[0].inside & fixed[1].inside
    area_um2 = np.count_nonzero(both) * fixed[0].mpp ** 2
    areas = [np.count_nonzero(image.inside) * image.mpp**2 for image in (fixed[0], moving)]
    if area_um2 < _LEAST_SHARED * min(areas):
        return 0.0
    first, second = (_classes(view.values[both], _VIEW_CLASSES) for view in fixed)
    third = _classes(laid.values[both], _CLASSES)
    shape = (_VIEW_CLASSES**2, _CLASSES)
    counts = np.bincount((first * _VIEW_CLASSES + second) * _CLASSES + third, minlength=shape[0] * shape[1])
    joint = (counts.reshape(shape) / counts.sum()).astype(np.float32)
    return float(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint.ravel()))


def _classes(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the class of each value; the classes hold about as many values each."""
    return np.searchsorted(np.quantile(values, np.arange(1, count) / count), values)


def _class_masks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (classes, H, W), 1 where a pixel belongs to a class; the classes hold about as many pixels each."""
    numbers = np.arange(_CLASSES)[:, None, None]
    masks: NDArray[np.float32] = (_classes(values, _CLASSES) == numbers).astype(np.float32)
    return masks


def _entropy(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    total: NDArray[np.float32] = -(shares * np.log(np.maximum(shares, 1e-12))).sum(0)
    return total
