"""Prototypes: typical feature vectors of the training patches, and how a slide's patches share out among them.

A slide's mean says nothing of its composition. Counting to which of a few typical patches each patch is nearest does;
the typical ones are the centres of k-means over patches of the training folds, so no held-out patch shapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.splitting.table import HELD_OUT_FOLD

_SAMPLE = 20_000
_BLOCK_ROWS = 8192
_SEED = 0
_PATCHES_PER_PROTOTYPE = 2


@dataclass(frozen=True)
class Prototypes:
    """Typical patches.

    Attributes:
        scale: (D,) float64 standard deviation of each feature over the sample; features are divided by it.
        centres: (K, D) float64, in scaled features, the most frequent first.
    """

    scale: NDArray[np.float64]
    centres: NDArray[np.float64]

    def shares(self, features: h5py.Dataset | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (K,) float32 shares, summing to 1, of the rows of (N, D) that are nearest to each prototype."""
        counts = np.zeros(len(self.centres), dtype=np.int64)
        for start in range(0, len(features), _BLOCK_ROWS):
            block = np.asarray(features[start : start + _BLOCK_ROWS], dtype=np.float64) / self.scale
            # The squared distance less the row's own square, which is the same for all centres.
            distance = (self.centres**2).sum(axis=1) - 2 * block @ self.centres.T
            counts += np.bincount(distance.argmin(axis=1), minlength=len(self.centres))
        return np.asarray(counts / max(1, len(features)), dtype=np.float32)


def fit_prototypes(features: Mapping[str, Path], split: pd.DataFrame, count: int) -> Prototypes | None:
    """Return the prototypes of the training patches.

    K-means++ over at most 20,000 of them, drawn evenly over the slides.

    Of few training patches there are fewer prototypes: half as many as different patches at most, and none (None) of
    less than two.

    Args:
        features: by slide, the file that embed wrote.
        split: the table of patches and folds; only slides of this table with patches outside fold 0 take part.
        count: how many prototypes are wanted.

    Raises:
        StatedError: if a file lacks rows of the table.
    """
    training = split[(split["fold"] != HELD_OUT_FOLD) & split["slide"].isin(list(features))]
    slides = training.groupby("slide", sort=False)["row"]
    most = max(1, _SAMPLE // max(1, len(slides)))
    sample = [_drawn(str(slide), features[str(slide)], rows.to_numpy(np.int64), most) for slide, rows in slides]
    values = np.concatenate(sample) if sample else np.empty((0, 0))
    # A cluster of one patch is not a type, and k-means makes no more clusters than there are different rows.
    most_prototypes = len(np.unique(values, axis=0)) // _PATCHES_PER_PROTOTYPE
    if most_prototypes < count:
        say(
            f"embed-slides: {min(count, most_prototypes)} prototypes instead of {count}, for {len(values)} training "
            f"patches are too few ({_PATCHES_PER_PROTOTYPE} different ones to a prototype)"
        )
    if not most_prototypes:
        return None
    count = min(count, most_prototypes)
    scale = values.std(axis=0)
    # Each feature is judged by its own size: a constant one has a spread of rounding error only, and is left out.
    scale[scale <= 8 * np.finfo(np.float32).eps * np.abs(values).max(axis=0)] = np.inf
    centres, labels = kmeans2(values / scale, count, minit="++", rng=np.random.default_rng(_SEED))
    order = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
    return Prototypes(scale, centres[order])


def _drawn(slide: str, path: Path, rows: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """Return at most `most` of these rows, evenly spread."""
    rows = np.sort(rows)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]
    with h5py.File(path) as file:
        features = file["features"]
        if rows.max() >= len(features):
            expected = f"features of at least {rows.max() + 1} patches, as in the split"
            raise StatedError(slide=slide, file=path, expected=expected, found=str(len(features)))
        return np.asarray(features[rows], dtype=np.float64)
