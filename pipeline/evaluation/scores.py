"""Define the scores of one probe on held-out patches, with each patch's contribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import Parts
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.label_efficiency import CurvePoint
from pipeline.evaluation.probe_spec import ProbeSpec

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of one run and probe: S seeds, and C columns, which are the targets and then their means.

    Attributes:
        point: (S, C).
        contribution: (S, n, C) of each held-out patch, see `Parts`.
        influence: (S, n, C).
        share: (S, n, C).
        per_slide: (S, slides, C), nan where a slide does not show the target, or the mean not all of them.
        r2: (S, C).
        spearman: (S, C).
        draw_std: (S, C), spread over draws of patches to fit on; nan where none are drawn.
    """

    point: Floats
    contribution: Floats
    influence: Floats
    share: Floats
    per_slide: Floats
    r2: Floats
    spearman: Floats
    draw_std: Floats

    @cached_property
    def parts(self) -> Parts:
        """Return what patches contribute to the mean over the seeds."""
        return Parts(*(values.mean(axis=0) for values in (self.contribution, self.influence, self.share)))

    def last(self, columns: int) -> Scores:
        """Return the last columns alone, of one seed without an axis for it."""
        return Scores(*(getattr(self, item.name)[..., -columns:] for item in fields(self)))


@dataclass(frozen=True)
class FittedProbe:
    """What a run's probes were fitted on: `train_patches` (T,), and the `penalty` (T,) chosen, where one is."""

    train_patches: NDArray[np.int64]
    penalty: Floats | None


@dataclass(frozen=True)
class ProbedTargets:
    """One probe of one training, scored.

    Attributes:
        spec: the probe.
        targets: what it predicts.
        scores: of one seed, without an axis for it; of several draws of patches to fit on their means.
        fitted: what it was fitted on.
        patches: held-out patches of each slide that it was asked for.
        curve: its place on the curve of scores over labels; None for probes that have none.
    """

    spec: ProbeSpec
    targets: Targets
    scores: Scores
    fitted: FittedProbe
    patches: tuple[int, ...]
    curve: CurvePoint | None = None


def stacked(seeds: Sequence[Scores]) -> Scores:
    """Return the scores of several seeds, of which each has S = 1 and no axis for it."""
    return Scores(*(np.stack([getattr(one, item.name) for one in seeds]) for item in fields(Scores)))


def over_draws(draws: Sequence[Scores]) -> Scores:
    """Return the mean of scores with several draws of patches to fit on, each without an axis for seeds."""
    if len(draws) == 1:
        return draws[0]
    together = stacked(draws)
    means = {item.name: getattr(together, item.name).mean(axis=0) for item in fields(Scores)}
    return Scores(**means | {"draw_std": together.point.std(axis=0, ddof=1)})


def curve_point(draws: Sequence[Scores], targets: Targets, fitted_on: NDArray[np.int64], tested: HeldOut) -> CurvePoint:
    """Return the place on the curve over labels of scores with each draw.

    Args:
        draws: the scores, without an axis for seeds.
        targets: their columns.
        fitted_on: (T,) patches that each target was fitted on; of means without targets one number.
        tested: the held-out patches.
    """
    if targets.names:
        means = [fitted_on[member].max(initial=0) for member in targets.members]
        labels = np.concatenate([fitted_on, np.array(means, dtype=np.int64)])
    else:
        labels = np.repeat(fitted_on, len(targets.means))
    return CurvePoint.of(labels, [one.contribution for one in draws], draws[0].share, tested)
