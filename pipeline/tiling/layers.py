"""Find where two places of the H&E slide claim one place of the dense slide: folds have two layers."""

from __future__ import annotations

import numpy as np

from pipeline.frame import Floats
from pipeline.registration.quality import fold_fraction
from pipeline.registration.transform import Transform

# The dense slide is divided into cells, and the patches into samples, at least two along a cell.
_CELL_UM, _SAMPLE_UM = 32.0, 16.0
# Samples of one layer in one cell come from places nearer to each other than this.
_APART_UM = 3 * _CELL_UM


def layered_share(transform: Transform, centre_um: Floats, side_um: float) -> Floats:
    """Return which share (N,) of each patch lies on dense places that another part of the tissue claims as well.

    Only patches claim places: glass between two fragments, which the map carries along, hides nothing.

    Args:
        transform: the map of the slide.
        centre_um: (N, 2) centres of all patches with tissue, sparse frame.
        side_um: side of a patch.
    """
    if not len(centre_um) or fold_fraction(transform) == 0:
        return np.zeros(len(centre_um))
    steps = int(np.ceil(side_um / _SAMPLE_UM))
    offset = ((np.arange(steps) + 0.5) / steps - 0.5) * side_um
    points = (centre_um[:, None] + np.stack(np.meshgrid(offset, offset), axis=-1).reshape(-1, 2)).reshape(-1, 2)
    there = transform.to_dense(points)
    column, row = np.floor((there - there.min(axis=0)) / _CELL_UM).astype(np.int64).T
    cells, cell = np.unique(row * (column.max() + 1) + column, return_inverse=True)
    low, high = np.full((len(cells), 2), np.inf), np.full((len(cells), 2), -np.inf)
    np.minimum.at(low, cell, points)
    np.maximum.at(high, cell, points)
    layered = (high - low).max(axis=1) > _APART_UM
    share: Floats = layered[cell].reshape(len(centre_um), -1).mean(axis=1)
    return share
