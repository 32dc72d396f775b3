"""Average every probe's scores over all targets and, where runs left markers out, over these and the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Parts

Floats = NDArray[np.float64]

MEAN = "mean"
MEAN_UNSEEN = "mean of unseen"
MEAN_SEEN = "mean of seen"
MEANS = (MEAN, MEAN_UNSEEN, MEAN_SEEN)


@dataclass(frozen=True)
class Targets:
    """T targets and the G means over them, in the order of the columns of all scores.

    Attributes:
        names: of the targets.
        means: names of the means.
        members: (G, T) which targets each mean is taken over.
    """

    names: tuple[str, ...]
    means: tuple[str, ...]
    members: NDArray[np.bool_]

    @classmethod
    def of(cls, names: Sequence[str], unseen: Collection[str] = ()) -> Targets:
        """Return targets with their mean and, where `unseen` are some of them and not all, the means of both parts."""
        left_out = np.array([name in unseen for name in names], dtype=np.bool_)
        whole = np.ones(len(names), dtype=np.bool_)
        if not left_out.any() or left_out.all():
            return cls(tuple(names), (MEAN,), whole[None])
        return cls(tuple(names), MEANS, np.stack([whole, left_out, ~left_out]))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return how rows name the targets, then the means.

        A target that is itself called as a mean is, in whatever case, gets a name that cannot be taken for one.
        """
        own = [f"{name} (not the mean)" if name.strip().casefold() in MEANS else name for name in self.names]
        return (*own, *self.means)

    def parts(self, parts: Parts) -> Parts:
        """Return the parts with one more column for each mean, over those of its targets that are scored at all."""
        scored = (parts.share > 0).any(axis=0)
        kept = (self.members & scored).astype(np.float64)
        weights = (kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)).T
        return Parts(
            *(
                np.concatenate([values, values @ weights], axis=1)
                for values in (parts.contribution, parts.influence, parts.share)
            )
        )

    def known(self, values: Floats) -> Floats:
        """Return the columns (n, T + G), each mean over the known values of a row; nan where none is."""
        known = np.isfinite(values)
        filled = np.where(known, values, 0)
        count = known.astype(np.float64) @ self.members.T
        means = (filled @ self.members.T) / np.where(count > 0, count, np.nan)
        return np.concatenate([values, means], axis=1)

    def complete(self, values: Floats, scores: Floats) -> Floats:
        """Return the columns (n, T + G), a mean being nan where a row lacks a target that has a score (T,)."""
        found = [values]
        for member in self.members:
            scored = member & np.isfinite(scores)
            mean = values[:, scored].mean(axis=1) if scored.any() else np.full(len(values), np.nan)
            found.append(mean[:, None])
        return np.concatenate(found, axis=1)

    def only_means(self) -> Targets:
        """Return the means without the targets: of thousands, few-label rows tell no single one."""
        return Targets((), self.means, np.zeros((len(self.means), 0), dtype=np.bool_))
