"""What the dense side tells of a patch in a few numbers, made comparable between slides: what can be predicted of it.

Fluorescence: mean intensity of each marker. Brightfield: mean optical density of each stain. Mask: share of each class.
Gene counts: counts of each gene per 10,000 of the patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NO_CLASS = -1
# Counts of a patch after the normalisation of its library size, the usual choice for single cells and spots.
LIBRARY_SIZE = 10_000
_MAJORITY = 0.5


def comparable(values: Floats, dense_kind: str) -> Floats:
    """Return log(1 + x) of intensities and of normalised counts (n, T).

    Negative ones, which background-corrected images have, are taken as 0.

    Densities and shares, of the other kinds, are on scales of their own already and stay as they are.
    """
    return np.log1p(np.clip(values, 0, None)) if dense_kind in ("fluorescence", "counts") else values


def per_library(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Return counts (n, G, ...) of patches scaled to 10,000 each, float32; a patch without counts stays 0.

    The normalisation of library sizes as in scanpy's `normalize_total(target_sum=1e4)`, which `log1p` follows there.
    """
    total = counts.reshape(len(counts), -1).sum(axis=1, dtype=np.float64).reshape(-1, *[1] * (counts.ndim - 1))
    return np.asarray(counts * (LIBRARY_SIZE / np.maximum(total, 1)), dtype=np.float32)


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
