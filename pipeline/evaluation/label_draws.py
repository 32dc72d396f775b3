"""Draw the training patches of few-label probes, the same for every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import say
from pipeline.settings import EvaluateSettings

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class LabelDraws:
    """Random orders of the training patches; a draw of n labels takes the first n that can be labelled.

    Draws of more labels hold those of fewer, so that curves over the number of labels are smooth.

    Attributes:
        counts: numbers of labels that are asked for, below all.
        ranks: one (n,) order per draw: the place of each training patch.
    """

    counts: tuple[int, ...]
    ranks: tuple[Integers, ...]

    @classmethod
    def of(
        cls, settings: EvaluateSettings, rows: int, labelled: int | None = None, fewest: int = 1, what: str = "markers"
    ) -> LabelDraws:
        """Return the draws among training patches, and say which counts are left out.

        Args:
            settings: of the stage.
            rows: training patches.
            labelled: those of them that have a label; None for all.
            fewest: labels that a probe needs, one of each class.
            what: is predicted, for the message.
        """
        there = rows if labelled is None else labelled
        asked = sorted(count for count in settings.labels if count != "all")
        counts = tuple(count for count in asked if fewest <= count < there)
        for why, left_out in (
            (f"{there} training patches have one, which `all` stands for", [n for n in asked if n >= there]),
            (f"there are {fewest} classes", [n for n in asked if n < fewest and n < there]),
        ):
            if left_out:
                say(f"evaluate: {what}: labels {', '.join(map(str, left_out))} are left out: {why}")
        rng = np.random.default_rng([settings.seed, 3])
        return cls(counts, tuple(rng.permutation(rows) for _ in range(settings.label_draws)))

    def among(self, draw: int, rows: Integers, count: int) -> Integers:
        """Return `count` of these training rows, sorted."""
        order = np.argsort(self.ranks[draw][rows], kind="stable")
        return np.sort(rows[order[:count]])

    def evenly(self, draw: int, labels: Integers, count: int) -> Integers:
        """Return `count` rows with as many of each class as there are, the rest being made up by other classes.

        Args:
            draw: number of the draw.
            labels: (n,) class of each training row, from 0; below 0 for none.
            count: labels wanted, at least one a class.
        """
        classes = int(labels.max()) + 1
        by_class = [np.flatnonzero(labels == index) for index in range(classes)]
        shares = even_shares([len(rows) for rows in by_class], count)
        return np.concatenate(
            [self.among(draw, rows, share) for rows, share in zip(by_class, shares, strict=True)], dtype=np.int64
        )


def even_shares(available: Sequence[int], count: int) -> list[int]:
    """Return how many of each class make up `count` as evenly as their numbers allow; more than there are gives all."""
    shares = [0] * len(available)
    left = min(count, sum(available))
    while left:
        open_classes = [index for index, own in enumerate(available) if shares[index] < own]
        each = max(1, left // len(open_classes))
        for index in open_classes:
            more = min(each, available[index] - shares[index], left)
            shares[index] += more
            left -= more
    return shares
