"""Define the targets of prediction: a few numbers per patch of the dense side, comparable between slides.

Fluorescence: mean intensity of each marker. Brightfield: mean optical density of each stain. Mask: share of each class.
Gene counts: counts of each gene per 10,000 of the patch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.kinds import kind_named

Floats = NDArray[np.float64]

NO_CLASS = -1
_MAJORITY = 0.5


def comparable(values: Floats, dense_kind: str) -> Floats:
    """Return values (n, T) of a kind of dense side on the scale on which they are predicted and compared.

    log(1 + x) of intensities and normalised counts; densities and shares stay as they are.
    """
    return kind_named(dense_kind).comparable(values)


def standardised(values: Floats) -> Floats:
    """Return the values of one slide (n, T), each column with mean 0 and standard deviation 1.

    Nan where it is constant.
    """
    mean, spread = values.mean(axis=0), values.std(axis=0)
    usable = spread > 1e-9 * np.maximum(np.abs(mean), 1e-300)
    return np.where(usable, (values - mean) / np.where(usable, spread, 1), np.nan)


def majority_class(shares: Floats) -> NDArray[np.int64]:
    """Return (n,) the class that covers more than half of a patch, of shares (n, T); `NO_CLASS` where none does."""
    share = np.nan_to_num(shares)
    return np.where(share.max(axis=1) > _MAJORITY, share.argmax(axis=1), NO_CLASS).astype(np.int64)
