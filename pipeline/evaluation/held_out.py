"""Hold the held-out patches of a cohort, their blocks of tissue, and the intervals these give to scores.

The interval of a score takes the tissue as it varies within slides and targets. That of a difference takes a block's
contribution as a whole, so that a target shown on a single block counts as one block, however plain it looks there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import (
    Interval,
    Parts,
    block_labels,
    block_sums,
    enough_blocks,
    intervals,
    joined_blocks,
    resample_counts,
)
from pipeline.evaluation.probed_rows import held_out
from pipeline.evaluation.reading import Cohort
from pipeline.evaluation.tissue_correlation import (
    UNRELATED,
    Correlation,
    Tissue,
    effective_blocks,
    not_below_usual,
)
from pipeline.settings import EvaluateSettings

Floats = NDArray[np.float64]

# What a score can reach: intervals end there.
_RANGES = {"pearson_r": (-1.0, 1.0)}
_SHARES = (0.0, 1.0)


@dataclass(frozen=True)
class Around:
    """What stands around one score or difference.

    Attributes:
        ends: its 95 % interval.
        correlation: of the contributions to it, across tissue.
        blocks: of tissue that show the target.
    """

    ends: Interval
    correlation: Correlation
    blocks: int


@dataclass(frozen=True)
class HeldOut:
    """The held-out patches that scores and intervals rest on.

    Attributes:
        slides: names.
        patches: of each slide.
        blocks: for each slide, the block of tissue (n,) of each patch.
        counts: for each slide, random halves of its blocks (resamples, blocks), see `resample_counts`.
        enough: whether the blocks suffice for an interval of what all patches show.
        position_um: for each slide, where its patches (n, 2) lie; without it blocks count as unrelated.
        block_um: side of the blocks.
    """

    slides: tuple[str, ...]
    patches: tuple[int, ...]
    blocks: tuple[NDArray[np.int64], ...]
    counts: tuple[NDArray[np.int64], ...]
    enough: bool
    position_um: tuple[Floats, ...] = ()
    block_um: float = math.nan

    @cached_property
    def halves(self) -> NDArray[np.int64]:
        """(resamples, blocks of all slides)."""
        return np.concatenate(self.counts, axis=1)

    @cached_property
    def tissue(self) -> Tissue | None:
        """Return what correlograms are taken over; None without positions."""
        return Tissue(self.position_um, self.block_um) if self.position_um else None

    def correlations(self, parts: Parts) -> list[Correlation]:
        """Return the correlation across tissue of the contributions to each score."""
        if self.tissue is None:
            return [UNRELATED] * parts.share.shape[1]
        return [self.tissue.correlation(u, w) for u, w in zip(parts.influence.T, parts.share.T, strict=True)]

    def around(self, parts: Parts, *, whole: bool) -> list[Around]:
        """Return what stands around each score.

        Args:
            parts: of the patches, the mean of the targets last.
            whole: whether a block's contribution counts as a whole, as differences need, or as it varies about the
                score of its slide and target.
        """
        labels, found = joined_blocks(self.blocks), self.correlations(parts)
        shares = block_sums(parts.share, labels, self.halves.shape[1])
        shown = (shares > 0).sum(axis=0).tolist()
        values = parts.contribution if whole else parts.influence + parts.share * parts.contribution.sum(axis=0)
        taken = [*not_below_usual(found[:-1]), *found[-1:]]
        widening = np.array([one.widening(size) for one, size in zip(taken, effective_blocks(shares), strict=True)])
        ends = intervals(block_sums(values, labels, self.halves.shape[1]), shares, self.halves, widening)
        return [Around(*item) for item in zip(ends, found, shown, strict=True)]

    @classmethod
    def of(cls, cohort: Cohort, settings: EvaluateSettings) -> HeldOut:
        """Return the held-out patches of a cohort."""
        slides = held_out(cohort)
        positions = tuple(slide.position_um[slide.held_out] for slide in slides)
        blocks = [block_labels(position, settings.block_um) for position in positions]
        counts = resample_counts([int(labels.max()) + 1 for labels in blocks], settings.bootstrap, settings.seed)
        return cls(
            tuple(slide.slide for slide in slides),
            tuple(map(len, blocks)),
            tuple(blocks),
            tuple(counts),
            enough_blocks(blocks),
            positions,
            settings.block_um,
        )


def clipped(ends: Interval, metric: str) -> Interval:
    """Cut an interval where its score ends."""
    low, high = _RANGES.get(metric, _SHARES)
    return ends if math.isnan(ends.low) else Interval(max(low, ends.low), min(high, ends.high))
