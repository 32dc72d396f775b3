"""One question about patients as arrays: who is asked for, what is known, and how predictions of it are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import FEWEST_BLOCKS, Parts, correlation_parts
from pipeline.evaluation.class_scores import area_parts
from pipeline.outcomes.concordance import concordance_parts
from pipeline.outcomes.cox import partial_likelihood
from pipeline.outcomes.table import Kind, Outcome

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

FEWEST_PATIENTS = 20
# Patients of each class, or with an event: with fewer no interval over patients can exclude anything.
FEWEST_OF_A_CLASS = FEWEST_BLOCKS

MEASURES: dict[Kind, str] = {"class": "auc", "number": "pearson_r", "survival": "c_index"}
_NUMBER_STRATA = 5


@dataclass(frozen=True)
class OutcomeTask:
    """One outcome of n patients; predictions of it are (n, K), of K classes or else of K = 1.

    Attributes:
        name: of the outcome.
        kind: `class`, `number` or `survival`.
        patients: n names.
        classes: names of the K classes, sorted; empty for other kinds.
        labels: (n,) number of the class; 0 for other kinds.
        values: (n,) the number, or the time; 0 for classes.
        events: (n,) whether the event was seen; true for other kinds.
    """

    name: str
    kind: Kind
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Integers
    values: Floats
    events: Flags

    @classmethod
    def of(cls, outcome: Outcome) -> OutcomeTask:
        """Return the task of an outcome."""
        patients = outcome.patients
        classes = tuple(sorted(set(outcome.classes.values())))
        number = {name: index for index, name in enumerate(classes)}
        return cls(
            outcome.name,
            outcome.kind,
            patients,
            classes,
            np.array([number[outcome.classes[name]] if classes else 0 for name in patients], dtype=np.int64),
            np.array([outcome.numbers.get(name, 0.0) for name in patients], dtype=np.float64),
            np.array([outcome.events.get(name, True) for name in patients], dtype=np.bool_),
        )

    @property
    def measure(self) -> str:
        """What the score is."""
        return MEASURES[self.kind]

    @property
    def width(self) -> int:
        """K, the columns of a prediction."""
        return max(1, len(self.classes))

    @property
    def counts(self) -> dict[str, int]:
        """How many patients there are of each class, or with and without an event."""
        if self.kind == "class":
            return {name: int((self.labels == index).sum()) for index, name in enumerate(self.classes)}
        if self.kind == "survival":
            return {"event": int(self.events.sum()), "censored": int((~self.events).sum())}
        return {}

    @property
    def too_few(self) -> str:
        """Why nothing is scored, where there are too few patients; else empty."""
        if len(self.patients) < FEWEST_PATIENTS:
            return f"too few: {len(self.patients)} patients, at least {FEWEST_PATIENTS} are needed"
        asked = {name: count for name, count in self.counts.items() if name != "censored" or self.kind == "class"}
        name, least = min(asked.items(), key=lambda item: item[1], default=("", FEWEST_OF_A_CLASS))
        if least < FEWEST_OF_A_CLASS:
            of_what = "with an event" if self.kind == "survival" else f"of class {name}"
            return f"too few: {least} patients {of_what}, at least {FEWEST_OF_A_CLASS} are needed"
        return ""

    def strata(self) -> Integers:
        """Return (n,) what folds are to hold alike: the class, the fifth of the numbers, or whether it was an event."""
        if self.kind == "number":
            ranks = np.argsort(np.argsort(self.values, kind="stable"), kind="stable")
            return np.asarray(ranks * _NUMBER_STRATA // len(ranks), dtype=np.int64)
        return self.labels if self.kind == "class" else self.events.astype(np.int64)

    def class_weights(self, rows: Integers) -> Floats:
        """Return (K,) weights by which classes count alike; over these patients they sum to the number of patients.

        A class that none of them has weighs 0.
        """
        present = Counter(self.labels[rows].tolist())
        return np.array([len(rows) / (len(present) * present[k]) if k in present else 0.0 for k in range(self.width)])

    def loss(self, predicted: Floats, rows: Integers) -> float:
        """Return what predictions (m, K) of these m patients miss, lower is better, to choose a penalty by.

        Cross-entropy in which classes count alike, squared error, or minus the log of the partial likelihood.
        """
        if self.kind == "class":
            own = predicted[np.arange(len(rows)), self.labels[rows]]
            weights = self.class_weights(rows)[self.labels[rows]]
            return float(-(weights * np.log(np.maximum(own, np.finfo(np.float64).tiny))).sum())
        if self.kind == "number":
            return float(((predicted[:, 0] - self.values[rows]) ** 2).sum())
        return partial_likelihood(predicted[:, 0], self.values[rows], self.events[rows])[0]

    def parts(self, predicted: Floats) -> Parts:
        """Return what each patient contributes to the score of predictions (n, K), in one column.

        The score is the area under the ROC curve of a class against the rest, as mean over classes; Pearson r; or
        Harrell's concordance of risk and time.
        """
        if self.kind == "class":
            own = area_parts(self.labels, predicted)
            return Parts(*(part.mean(axis=1, keepdims=True) for part in (own.contribution, own.influence, own.share)))
        if self.kind == "number":
            return correlation_parts([self.values[:, None]], [predicted])
        return concordance_parts(predicted[:, 0], self.values, self.events)

    def areas(self, predicted: Floats) -> dict[str, float]:
        """Return the area under the ROC curve of each class against the rest; empty for other kinds."""
        if self.kind != "class":
            return {}
        return dict(zip(self.classes, area_parts(self.labels, predicted).score.tolist(), strict=True))


def rows_of(patients: Sequence[str], among: Sequence[str]) -> Integers:
    """Return where each of these patients stands among others."""
    place = {name: index for index, name in enumerate(among)}
    return np.array([place[name] for name in patients], dtype=np.int64)
