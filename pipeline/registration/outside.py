"""Measure how much tissue lies beyond the dense slide, or where it was never imaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.registration.areas import place_words
from pipeline.registration.images import NuclearImage
from pipeline.registration.pair import Pair
from pipeline.registration.quality import Quality
from pipeline.registration.transform import Transform

# Less is the rim of a section, and not worth a sentence.
SAID_OUTSIDE_SHARE = 0.05
# Of the overview, rows and pixels mapped at a time.
_STRIP_ROWS, _PLACES = 128, 1 << 18


def with_outside(quality: Quality, pair: Pair, transform: Transform, tissue: NuclearImage) -> Quality:
    """Return the quality with the shares of the tissue beyond the edge of the dense slide, and where it was not imaged.

    Large ones are among the reasons and leave the verdict as it is: a region that was scanned is not an error.
    """
    area_um2 = float(np.count_nonzero(tissue.inside)) * tissue.mpp**2
    if not quality.supported or not area_um2:
        return quality
    share = 1 - shared_area_um2(pair, transform, tissue) / area_um2
    reasons = quality.reasons
    if share > SAID_OUTSIDE_SHARE:
        reasons = (*reasons, f"{share:.0%} of the tissue lies beyond the edge of the dense slide")
    missed = _not_imaged(pair, transform, tissue)
    missed_share = float(np.count_nonzero(missed.inside)) * tissue.mpp**2 / area_um2
    if missed_share > SAID_OUTSIDE_SHARE:
        place = _place(missed, tissue, missed_share)
        reasons = (*reasons, f"{missed_share:.0%} of the tissue ({place}) lies where the dense slide was never imaged")
    return replace(quality, outside_share=share, not_imaged_share=missed_share, reasons=reasons)


def _not_imaged(pair: Pair, transform: Transform, tissue: NuclearImage) -> NuclearImage:
    """Return the tissue that a map puts within the dense slide, where that was never imaged."""
    inside = np.zeros_like(tissue.inside)
    if pair.dense.imaged is not None:
        (rows, columns), (low, high) = np.nonzero(tissue.inside), pair.dense.extent_um
        for start in range(0, len(rows), _PLACES):
            row, column = rows[start : start + _PLACES], columns[start : start + _PLACES]
            there = transform.to_dense(tissue.to_um(np.stack([column, row], axis=1)))
            within = ((there >= low) & (there <= high)).all(axis=1)
            inside[row, column] = within & ~pair.dense.imaged_at(there)
    return replace(tissue, inside=inside)


def _place(part: NuclearImage, tissue: NuclearImage, share: float) -> str:
    """Return where a part of the tissue lies, in words."""
    held, whole = (image.to_um(np.argwhere(image.inside)[:, ::-1]) for image in (part, tissue))
    box, around = (np.stack([points.min(0), points.max(0)]) for points in (held, whole))
    return place_words(box, held.mean(0), share, around)


def shared_area_um2(pair: Pair, transform: Transform, tissue: NuclearImage) -> float:
    """Return area of the tissue that a map puts on the dense slide."""
    (height, width), (low, high), count = tissue.inside.shape, pair.dense.extent_um[..., None, None], 0
    x = tissue.origin_um[0] + np.arange(width) * tissue.mpp
    for top in range(0, height, _STRIP_ROWS):
        held = tissue.inside[top : top + _STRIP_ROWS]
        there = transform.lattice_to_dense(x, tissue.origin_um[1] + (np.arange(len(held)) + top) * tissue.mpp)
        count += int(np.count_nonzero(((there >= low) & (there <= high)).all(axis=0) & held))
    return count * tissue.mpp**2
