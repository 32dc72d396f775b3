"""Judge a pair by its neighbours: one patch may hold too few nuclei, its neighbourhood rarely.

A patch is read together with the patches around it. A shift that cannot be measured means one of two things: too few
nuclei, and then the neighbourhood decides, or plenty of nuclei without agreement, and then the two sides do not show
the same cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.frame import Floats

# A shift is believed from this confidence on.
BELIEVED_CONFIDENCE = 0.3
# Neighbours lie within this distance, or are the eight adjacent patches where patches are larger.
NEIGHBOUR_REACH_UM = 180.0
NEIGHBOUR_REACH_PITCHES = 1.5
# Shifts that differ by less than half a nucleus are the same shift.
SAME_SHIFT_UM = 4.0
# Shares of the neighbours: to speak for a patch that shows nothing itself, and to leave one that does alone.
SPEAKING_SHARE = 2 / 3
BEARING_SHARE = 1 / 3
# Neighbours that show shifts of several kinds, as between the fields of a mosaic, still say that the sides match here.
MATCHING_SHARE = 0.75
MIN_SPEAKERS = 3
# A neighbourhood is settled where one shift is shown by this share of what a typical clear patch has around it.
SETTLED_SHARE = 0.75
# Share of good pairs that may be taken for wrong because they show nothing in spite of their nuclei.
FALSE_ALARMS = 0.01


@dataclass(frozen=True, eq=False)
class Measurements:
    """What each patch of a slide shows on its own evidence.

    Attributes:
        centre_um: (N, 2) centres of the patches, sparse frame.
        shift_um: (N, 2) measured shift xy of the dense side; nan where there is none.
        confidence: (N,) of the shift, in [0, 1].
        contrast: (N,) of the nuclei on the H&E; nan where nuclei are not a measure: of masks, of neighbouring sections.
    """

    centre_um: Floats
    shift_um: NDArray[Any]
    confidence: NDArray[Any]
    contrast: NDArray[Any]

    @property
    def clear(self) -> NDArray[np.bool_]:
        """(N,) patches whose shift can be believed."""
        clear: NDArray[np.bool_] = np.isfinite(self.shift_um).all(axis=1) & (self.confidence >= BELIEVED_CONFIDENCE)
        return clear


@dataclass(frozen=True, eq=False)
class Agreement:
    """What patches and their neighbours say together.

    Attributes:
        residual_um: (N,) length of the shift, of the patch itself or, where it holds too few nuclei, of its neighbours;
            nan where neither tells, or where nuclei abound and nothing agrees.
        clear: (N,) whether the patch shows its shift itself.
        borne: (N,) whether the neighbours bear it out; true where nuclei are not a measure.
    """

    residual_um: NDArray[np.float32]
    clear: NDArray[np.bool_]
    borne: NDArray[np.bool_]


def agreement(measured: Measurements, pitch_um: float) -> Agreement:
    """Return the residual of each patch as it and its neighbours show it.

    Args:
        measured: all patches of a slide.
        pitch_um: distance of adjacent patches.
    """
    clear = measured.clear
    own_um = np.where(clear, np.linalg.norm(measured.shift_um, axis=1), np.nan)
    first, second = _neighbours(measured.centre_um, max(NEIGHBOUR_REACH_UM, NEIGHBOUR_REACH_PITCHES * pitch_um))
    around = _typical_shift(measured.shift_um, clear, first, second)
    same = _share_at(around, measured.shift_um, clear, np.ones_like(clear), first, second)
    settled = same >= SETTLED_SHARE * float(np.median(same[clear])) if clear.any() else clear
    telling = clear | (measured.contrast >= telling_contrast(measured.contrast, clear, settled))
    spoken_for = _share_at(around, measured.shift_um, clear, telling, first, second) >= SPEAKING_SHARE
    alike = _share_at(measured.shift_um, measured.shift_um, clear, telling, first, second)
    evidence = np.bincount(first, telling[second], len(clear))
    alone = evidence == 0
    matching = np.bincount(first, clear[second], len(clear)) >= MATCHING_SHARE * evidence
    no_measure = np.isnan(measured.contrast)
    lent = ~telling & spoken_for & ~no_measure
    residual = np.where(clear, own_um, np.where(lent, np.linalg.norm(around, axis=1), np.nan))
    borne = np.where(clear, alone | matching | (alike >= BEARING_SHARE), lent | no_measure)
    return Agreement(residual.astype(np.float32), clear, borne)


def telling_contrast(contrast: NDArray[Any], clear: NDArray[np.bool_], settled: NDArray[np.bool_]) -> float:
    """Return the contrast of nuclei from which a patch without a clear shift speaks against its pair.

    Of the patches in settled neighbourhoods, at most `FALSE_ALARMS` have no clear shift and a contrast above it.

    Args:
        contrast: (N,) of the nuclei; nan counts as none.
        clear: (N,) whether a shift was measured.
        settled: (N,) whether the neighbours agree, so that there is something to measure.
    """
    silent = np.sort(np.nan_to_num(contrast[settled & ~clear], nan=-np.inf))
    allowed = int(FALSE_ALARMS * np.count_nonzero(settled))
    if allowed < len(silent):
        return float(np.nextafter(silent[-1 - allowed], np.inf))
    # Less contrast than any clear patch has is not known to be enough.
    return float(np.min(contrast[settled & clear], initial=np.inf)) if settled.any() else -np.inf


def _neighbours(centre_um: Floats, reach_um: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all ordered pairs of different patches within reach, sorted by the first."""
    if len(centre_um) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    pairs = cKDTree(centre_um).query_pairs(reach_um * (1 + 1e-9), output_type="ndarray")
    first, second = np.concatenate([pairs, pairs[:, ::-1]]).T.astype(np.int64)
    order = np.lexsort((second, first))
    return first[order], second[order]


def _typical_shift(
    shift_um: NDArray[Any], clear: NDArray[np.bool_], first: NDArray[np.int64], second: NDArray[np.int64]
) -> Floats:
    """Return the median along x and y of the neighbours' clear shifts (N, 2); nan where too few have one."""
    held = clear[second]
    first, second = first[held], second[held]
    count = np.bincount(first, minlength=len(clear))
    start = np.cumsum(count) - count
    typical = np.full((len(clear), 2), np.nan)
    known = count >= MIN_SPEAKERS
    for axis in range(2):
        value = np.asarray(shift_um[second, axis], np.float64)
        ranked = value[np.lexsort((value, first))]
        low, high = start + (count - 1) // 2, start + count // 2
        typical[known, axis] = (ranked[low[known]] + ranked[high[known]]) / 2
    return typical


def _share_at(
    wanted_um: NDArray[Any],
    shift_um: NDArray[Any],
    clear: NDArray[np.bool_],
    heard: NDArray[np.bool_],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> Floats:
    """Return which share (N,) of the neighbours that are heard show the wanted shift; 0 where none is heard."""
    total = np.bincount(first, heard[second], len(clear))
    with np.errstate(invalid="ignore"):
        near = np.linalg.norm(wanted_um[first] - shift_um[second], axis=1) <= SAME_SHIFT_UM
    same = np.bincount(first, near & clear[second], len(clear))
    share: Floats = same / np.maximum(total, 1)
    return share
