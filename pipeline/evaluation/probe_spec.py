"""Identify a probe: its question, side and number of labelled patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Side = Literal["sparse", "dense"]

MARKERS = "markers"
# The name of a score's mean over targets, where it differs from the score's name.
_MEAN_METRICS = {"recall": "balanced_accuracy", "auc": "macro_auc"}


@dataclass(frozen=True)
class ProbeSpec:
    """One probe. Its name is made from these values and never taken apart again.

    Attributes:
        side: whose features it reads; `dense` is a reference, no contender.
        target: `markers`, or the column of the tables of classes that it predicts.
        kind: `ridge` or `knn` for markers; `linear`, `knn` or `mlp` for classes.
        metric: of its scores: `pearson_r`, `recall` or `auc`.
        labels: labelled patches that it was fitted on; None for all that there are.
    """

    side: Side
    target: str
    kind: str
    metric: str
    labels: int | None = None

    @property
    def name(self) -> str:
        """Return the name in tables, such as `ridge`, `class-knn-auc`, `dense-ridge` or `ridge-100-labels`."""
        parts = [
            "dense" if self.side == "dense" else "",
            self.target if self.target != MARKERS else "",
            self.kind,
            "auc" if self.metric == "auc" else "",
            "" if self.labels is None else f"{self.labels}-labels",
        ]
        return "-".join(part for part in parts if part)

    @property
    def mean_metric(self) -> str:
        """Return the name of the mean of its scores over targets."""
        return _MEAN_METRICS.get(self.metric, self.metric)

    def on(self, labels: int | None) -> ProbeSpec:
        """Return the same probe, fitted on so many labelled patches."""
        return replace(self, labels=labels)


def marker_probe_spec(kind: str, side: Side = "sparse") -> ProbeSpec:
    """Return the probe of markers of that kind."""
    return ProbeSpec(side, MARKERS, kind, "pearson_r")
