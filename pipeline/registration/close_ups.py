"""Draw small parts of a pair at the scale of nuclei: in a 10-um overview, 12 um of error are invisible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import dense_under, laid_on
from pipeline.registration.pair import Pair
from pipeline.registration.quality import Quality
from pipeline.registration.transform import Transform

SIDE_UM = 128.0
_MPP = 0.5
_SHOWN = ((0.5, "median shift"), (0.9, "9 in 10 below"), (1.0, "largest shift"))


@dataclass(frozen=True, eq=False)
class CloseUp:
    """A square of `SIDE_UM` of both sides.

    Attributes:
        rgb: uint8 (H, W, 3), the H&E.
        sparse: its nuclear signal.
        dense: the dense nuclear signal under the transform, on the same grid.
        caption: which place it is.
    """

    rgb: NDArray[np.uint8]
    sparse: NuclearImage
    dense: NuclearImage
    caption: str


def close_ups(pair: Pair, transform: Transform, quality: Quality) -> tuple[CloseUp, ...]:
    """Return the places of the median, the 90th percentile and the largest shift left between the two sides.

    Where fewer than three blocks could be measured, blocks without a clear peak stand in their place. Empty where no
    block was looked at, as of masks and spots, or where the dense slide does not reach.
    """
    if pair.classes or not len(quality.block_um):
        return ()
    found = (_close_up(pair, transform, centre_um, caption) for centre_um, caption in _places(quality))
    return tuple(item for item in found if item is not None)


def _places(quality: Quality) -> list[tuple[NDArray[np.float64], str]]:
    """Return the centres (2,), xy in um of the sparse frame, and their captions."""
    residual_um = quality.block_residual_um
    measured = np.flatnonzero(np.isfinite(residual_um))
    if len(measured) >= len(_SHOWN):
        order = measured[np.argsort(residual_um[measured], kind="stable")]
        chosen = [(order[round(share * (len(order) - 1))], label) for share, label in _SHOWN]
        return [(quality.block_um[block], f"{label}: {residual_um[block]:.2g} um") for block, label in chosen]
    spread = np.unique(np.linspace(0, len(residual_um) - 1, len(_SHOWN)).round().astype(int))
    return [
        (quality.block_um[block], "no clear peak" if np.isnan(residual_um[block]) else f"{residual_um[block]:.2g} um")
        for block in spread
    ]


def _close_up(pair: Pair, transform: Transform, centre_um: NDArray[np.float64], caption: str) -> CloseUp | None:
    mpp = max(_MPP, pair.sparse.mpp)
    low, high = pair.sparse.extent_um
    corner = np.clip(centre_um - SIDE_UM / 2, low, np.maximum(low, high - SIDE_UM))
    rgb, signal = pair.sparse.read_colour(mpp, np.stack([corner, np.minimum(corner + SIDE_UM, high)]))
    under = dense_under(pair.dense, transform, signal, max(mpp, pair.dense.mpp))
    return None if under is None else CloseUp(rgb, signal, laid_on(under, transform, signal), caption)
