"""Label the parts of the overview, and decide which squares each label drops."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pipeline.tiling.grid import Grid, tissue_fraction
from pipeline.tissue.artefacts import fold_mask, pen_mask
from pipeline.tissue.mask import Overview, tissue_mask

# A pixel is one of these; where several hold it is the last of them.
GLASS, TISSUE, BLUR, FOLD, PEN, EXCLUDED = range(6)
REGIONS = {"tissue": TISSUE, "blur": BLUR, "fold": FOLD, "pen": PEN, "exclude": EXCLUDED}
# Why a square was dropped, as the counts call it.
REASONS = {GLASS: "no_tissue", EXCLUDED: "excluded", PEN: "pen", FOLD: "fold", BLUR: "blur"}

Regions = NDArray[np.uint8]


def find_regions(overview: Overview, drop: Collection[str], blur: NDArray[np.bool_] | None = None) -> Regions:
    """Return (h, w) uint8: glass, tissue and, of `pen` and `fold`, those in `drop`; the others count as tissue.

    Blur is `blur`, for nuclei, by which focus is judged, are smaller than a pixel of the overview: see `blur_mask`.
    """
    tissue = tissue_mask(overview)
    regions = np.where(tissue, TISSUE, GLASS).astype(np.uint8)
    pen = pen_mask(overview) if "pen" in drop else np.zeros_like(tissue)
    if blur is not None:
        regions[tissue & blur] = BLUR
    if "fold" in drop:
        regions[fold_mask(overview, tissue & ~pen)] = FOLD
    regions[pen] = PEN
    return regions


def drop_reasons(
    grid: Grid, regions: Regions, regions_mpp: float, min_tissue: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return what becomes of each square, and how much of it is tissue.

    All that is not glass counts first; then what is excluded, pen, folds and blur are taken away in this order. The
    step at which less than `min_tissue` is left is the one reason for which a square is dropped.

    Returns:
        (N,) uint8: TISSUE for squares that stay, otherwise GLASS, EXCLUDED, PEN, FOLD or BLUR; and (N,) float32: the
        share of the square that is tissue when all is taken away.
    """
    least = max(min_tissue, 1e-6)
    share = tissue_fraction(grid, regions > GLASS, regions_mpp)
    drop_reason = np.where(share >= least, TISSUE, GLASS).astype(np.uint8)
    for taken in (EXCLUDED, PEN, FOLD, BLUR):
        if (regions == taken).any():
            share = tissue_fraction(grid, (regions > GLASS) & (regions < taken), regions_mpp)
            drop_reason[(drop_reason == TISSUE) & (share < least)] = taken
    return drop_reason, share


def dropped(drop_reason: NDArray[np.uint8]) -> dict[str, int]:
    """Return number of squares by the reason for which they were dropped, all reasons in their order."""
    return {reason: int((drop_reason == region).sum()) for region, reason in REASONS.items()}
