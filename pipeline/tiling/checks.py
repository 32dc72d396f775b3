"""Check patches once they are read: what the stage tile refuses or warns of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.settings import TileSettings
from pipeline.slides.record import SlideRecord
from pipeline.tiling.blocks import Evidence

# Where fewer of the patches that both slides show are pairs, the log says why.
_EXPECTED_PAIRS = 0.5


def check_corrupt(record: SlideRecord, corrupt: NDArray[np.bool_], settings: TileSettings) -> None:
    """Refuse a slide of which too many patches cannot be decoded."""
    if corrupt.all() or corrupt.mean() > settings.max_corrupt:
        raise StatedError(
            slide=record.slide,
            file=record.sparse.path,
            expected=f"at most {settings.max_corrupt:.2%} of the patches corrupt (tile.max_corrupt)",
            found=f"{corrupt.sum()} of {len(corrupt)}",
        )


def check_none_more(record: SlideRecord, corrupt: NDArray[np.bool_]) -> None:
    """Refuse patches that could be decoded once and not again: their rows are void, and would be read as black."""
    if corrupt.any():
        raise StatedError(
            slide=record.slide,
            file=record.sparse.path,
            expected="a slide that stays as it is while it is tiled",
            found=f"{corrupt.sum()} patches that could be decoded before and now cannot",
        )


def check_any_finite(record: SlideRecord, evidence: Evidence) -> None:
    """Refuse a dense side with nan or infinity in every patch, of which nothing could be learnt."""
    if record.dense is not None and not evidence.finite.any():
        raise StatedError(
            slide=record.slide,
            file=record.dense.path,
            expected="numbers in all pixels of some patch",
            found=f"nan or infinity in each of {len(evidence.finite)}",
        )


def tell_of_few_pairs(record: SlideRecord, counts: dict[str, int]) -> None:
    """Say so where most of the patches that both slides show are not pairs, which the verdict need not foretell."""
    shown = counts["kept"] - counts["pair_outside"] - counts["pair_not_imaged"] - counts["pair_not_finite"]
    pairs = shown - counts["pair_residual"]
    if pairs <= 0:
        reasons = ", ".join(f"{count} {name}" for name, count in counts.items() if count and name.startswith("pair_"))
        say(f"slide {record.slide}: none of {counts['kept']} patches is a pair ({reasons})")
    elif pairs < _EXPECTED_PAIRS * shown:
        say(
            f"tile {record.slide}: only {pairs} of the {shown} patches that both slides show are pairs; in the others "
            "nuclei are off or do not agree (residual_um, pair_quality): see residual.png of register"
        )
