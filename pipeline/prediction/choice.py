"""Choose the markers to predict by held-out score: a bad probe draws as pretty a map as a good one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import StatedError
from pipeline.evaluation.probe_file import MarkerProbe, Probe
from pipeline.settings import PredictSettings

MOST_DRAWN = 24  # markers in pictures and images: genes are thousands
_MOST_NAMES = 8
_MOST_SCORES = 64  # markers of a probe up to which each left-out marker is listed with its score


@dataclass(frozen=True)
class Choice:
    """The markers of a probe, parted.

    Attributes:
        columns: of the probe, those to predict.
        markers: what is known of these, in the same order.
        left_out: why each other marker is not predicted, by name.
    """

    columns: tuple[int, ...]
    markers: tuple[MarkerProbe, ...]
    left_out: dict[str, str]


def choose(probe: Probe, settings: PredictSettings) -> Choice:
    """Return the markers that are asked for by name or, where none is, those that reach `min_score`.

    Raises:
        StatedError: if a marker is asked for that the probe does not have, or that it was not fitted for.
    """
    names = [item.marker for item in probe.markers]
    for wanted in settings.markers:
        if wanted not in names or not probe.markers[names.index(wanted)].train_patches:
            fitted = ", ".join(item.marker for item in probe.markers if item.train_patches)
            raise StatedError(file="predict.markers", expected=f"markers of the probe ({fitted})", found=wanted)
    many = len(names) > _MOST_SCORES
    reasons = {item.marker: _reason(item, settings, many=many) for item in probe.markers}
    columns = tuple(column for column, name in enumerate(names) if not reasons[name])
    left_out = {name: reason for name, reason in reasons.items() if reason}
    return Choice(columns, tuple(probe.markers[column] for column in columns), left_out)


def by_reason(left_out: dict[str, str]) -> dict[str, list[str]]:
    """Return the markers that are left out for each reason.

    Of a slide that is unlike as a whole it is the same for all, as it is of a probe of thousands of markers.
    """
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason, []).append(name)
    return found


def best_columns(markers: Sequence[MarkerProbe], most: int = MOST_DRAWN) -> list[int]:
    """Return which markers are drawn, in their order: all or, of many, those with the best held-out score."""
    ranked = sorted(range(len(markers)), key=lambda i: math.inf if math.isnan(markers[i].score) else -markers[i].score)
    return sorted(ranked[:most])


def listed(names: Sequence[str]) -> str:
    """Return names in a sentence; of many the first, and how many more."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def _reason(item: MarkerProbe, settings: PredictSettings, *, many: bool) -> str:
    """Return why a marker is left out, of `many` without its score; empty where it is not."""
    if settings.markers:
        return "" if item.marker in settings.markers else "not among predict.markers"
    if not item.train_patches:
        return "no slide to fit on has it"
    if math.isnan(item.score):
        return "no held-out slide has it, so its score is not known"
    if item.score < settings.min_score:
        return f"held-out {'r' if many else item.scored()} is below predict.min_score {settings.min_score:g}"
    return ""
