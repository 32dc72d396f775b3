"""Pairs by what slides show: the coarse search of register, for every H&E against every dense side that is left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.coarse import search
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.pair import overview, sparse_overview, without_glass
from pipeline.registration.stain import nuclear_channel
from pipeline.slides.opening import SHOWN_AS, open_slide
from pipeline.tools.init.recognise import Recognised

# A comparison takes about 0.15 s.
MOST_COMPARISONS = 300
# Correlation of nuclear density that two images of one section reach (0.84 to 0.92 on the demo, others up to 0.72), and
# by how much it must be ahead of either one's next best partner.
_LEAST_NCC, _LEAST_LEAD = 0.75, 0.1
# The search's pixels and angles may be coarser, since only the correlation is asked for.
_COARSEN = 2


def pairs_by_content(sparse: Sequence[Recognised], dense: Sequence[Recognised]) -> list[tuple[int, int]]:
    """Return the indices of pairs that correlate well, and clearly better than either side with any other.

    Files without um per pixel or without a nuclear channel, and those whose pixels cannot be read, find no partner.
    """
    if len(sparse) * len(dense) > MOST_COMPARISONS:
        return []
    shown = [[_nuclei(item) for item in side] for side in (sparse, dense)]
    ncc = np.array([[_agreement(one, other) for other in shown[1]] for one in shown[0]])
    return [(i, j) for i in range(len(sparse)) for j in range(len(dense)) if _is_clear(ncc, i, j)]


def _is_clear(ncc: NDArray[np.float64], i: int, j: int) -> bool:
    rivals = np.concatenate([np.delete(ncc[i], j), np.delete(ncc[:, j], i), [0.0]])
    return bool(ncc[i, j] >= _LEAST_NCC and ncc[i, j] >= rivals.max() + _LEAST_LEAD)


def _agreement(sparse: NuclearImage | None, dense: NuclearImage | None) -> float:
    if sparse is None or dense is None:
        return 0.0
    return max((pose.ncc for pose in search(sparse, dense, coarsen=_COARSEN)), default=0.0)


def _nuclei(item: Recognised) -> NuclearImage | None:
    """Return the nuclear signal of a slide as register first sees it; None where it shows none."""
    if item.mpp is None or item.needs:
        return None
    try:
        with open_slide(item.path, shows=SHOWN_AS.get(item.dense_kind, "file")) as slide:
            if slide.header.is_rgb:
                return without_glass(sparse_overview(NuclearSource(slide, item.mpp, None)))
            return without_glass(overview(NuclearSource(slide, item.mpp, nuclear_channel(slide.header.channels, None))))
    except StatedError:
        # What is wrong with the pixels is for the stages to say; here the file only stays alone.
        return None
