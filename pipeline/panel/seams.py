"""Find stitching seams: steps of mean brightness at equally spaced columns or rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter1d, median_filter

from pipeline.panel.block_sums import Sums

# Fields of view of microscopes, from one of 40x to one of 4x.
_SHORTEST_UM, _LONGEST_UM = 150.0, 3500.0
# Seams of a slide's width there must be to speak of equal distances.
_FEWEST = 3
# Of noise the best of all distances and phases stays below this many standard errors; a seam counts from there on.
_CLEAR = 12.0
# Smaller steps, as share of a channel's range, are not told.
SMALLEST_STEP = 0.01
_AROUND_PX = 31
# Distances are whole pixels here and need not be so on the slide: a seam may lie this many beside its place.
_BESIDE_PX = 2


@dataclass(frozen=True)
class Seam:
    """The step at seams as share of a channel's range, and their distance; 0 and 0 where there are none."""

    step: float
    distance_um: float


def seam_of(profiles: Sequence[Sums], range_: float, mpp: float) -> Seam:
    """Return the clearest seam in the mean profiles of a channel along x and along y.

    A step is the difference of neighbouring means beyond what differences around it usually are.

    Args:
        profiles: mean of each column, and of each row; nan where nothing was imaged.
        range_: of the channel; the step is given as a share of it.
        mpp: um per pixel.
    """
    found = [Seam(0.0, 0.0)]
    if range_ > 0:
        found += [_in_profile(np.asarray(values), range_, mpp) for values in profiles]
    return max(found, key=lambda seam: seam.step)


def _in_profile(values: Sums, range_: float, mpp: float) -> Seam:
    steps = np.abs(np.diff(values))
    steps[~np.isfinite(steps)] = 0
    steps = np.maximum(steps - median_filter(steps, _AROUND_PX, mode="nearest"), 0)
    steps = maximum_filter1d(steps, 2 * _BESIDE_PX + 1)
    usual = float(np.median(steps))
    spread = max(1.4826 * float(np.median(np.abs(steps - usual))), 1e-12)
    best, score = (0, 0), _CLEAR
    for distance in range(max(8, round(_SHORTEST_UM / mpp)), min(round(_LONGEST_UM / mpp), len(steps) // _FEWEST) + 1):
        lines = len(steps) // distance
        # The median asks most of the lines to show it: one edge of the tissue is no seam.
        folded = np.median(steps[: lines * distance].reshape(lines, distance), axis=0)
        phase = int(folded.argmax())
        found = float((folded[phase] - usual) / spread * np.sqrt(lines))
        if found > score:
            best, score = (distance, phase), found
    distance, phase = best
    step = float(np.median(steps[phase::distance])) / range_ if distance else 0.0
    return Seam(step, distance * mpp) if step >= SMALLEST_STEP else Seam(0.0, 0.0)
