"""Measure how far a slide lies outside what the probe was fitted on, and leave out maps by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probe_file import UNIT, MarkerProbe, Probe
from pipeline.prediction.choice import Choice
from pipeline.settings import PredictSettings
from pipeline.training.feature_range import UNKNOWN, named, outside_in_words, outside_share


@dataclass(frozen=True)
class SlideRange:
    """A slide beside what the probe was fitted on.

    Attributes:
        known: whether the probe says what it was fitted on.
        outside: share of the patches outside the range of its features; nan where it is not known.
        distance_median: median distance, in multiples of the limit; nan where it is not known.
        words: the same, in a sentence.
    """

    known: bool
    outside: float
    distance_median: float
    words: str


@dataclass(frozen=True)
class MarkerRange:
    """The predictions of one marker over a slide beside those on the patches that it was fitted or scored on.

    Attributes:
        beyond: share of the predictions outside their range; nan where that is not known.
        mean: of the predictions, in `UNIT`.
    """

    beyond: float
    mean: float


def slide_range(probe: Probe, distance: NDArray[np.float32] | None) -> SlideRange:
    """Return what there is to say of a slide at these distances (N,); None is a probe that does not know its range."""
    if probe.fitted is None or distance is None:
        return SlideRange(False, float("nan"), float("nan"), f"The probe is of an older version: {UNKNOWN}.")
    words = f"{outside_in_words(distance, probe.fitted, 'the probe')}."
    return SlideRange(True, outside_share(distance), float(np.median(distance)), words)


def marker_range(marker: MarkerProbe, values: NDArray[np.float32]) -> MarkerRange:
    """Return what there is to say of the predictions (N,) of one marker."""
    mean = float(values.mean(dtype=np.float64))
    if np.isnan(marker.range_low):
        return MarkerRange(float("nan"), mean)
    return MarkerRange(float(((values < marker.range_low) | (values > marker.range_high)).mean()), mean)


def out_of_range(
    choice: Choice, slide: SlideRange, ranges: tuple[MarkerRange, ...], settings: PredictSettings
) -> dict[str, str]:
    """Return for each chosen marker that is out of range on this slide the reason."""
    reasons = {}
    for marker, found in zip(choice.markers, ranges, strict=True):
        if slide.outside > settings.max_outside:
            reasons[marker.marker] = (
                f"{slide.outside:.0%} of the slide's patches are unlike those that the probe was fitted on, "
                f"more than predict.max_outside {settings.max_outside:.0%}"
            )
        elif found.beyond > settings.max_outside:
            reasons[marker.marker] = f"{beyond_in_words(marker, found)}, more than predict.max_outside allows"
    return reasons


def beyond_in_words(marker: MarkerProbe, found: MarkerRange) -> str:
    """Return by how much the predictions of a marker leave the range of those it was fitted or scored on."""
    if np.isnan(found.beyond):
        return f"mean {found.mean:+.1f} {UNIT}"
    return (
        f"{found.beyond:.0%} of the predictions (mean {found.mean:+.1f} {UNIT}) leave the range of 99 % of those "
        f"it was fitted or scored on, {marker.range_low:+.1f} to {marker.range_high:+.1f}"
    )


def scored_on(marker: MarkerProbe) -> str:
    """Return the patients that a marker's score comes from."""
    if not marker.patients:
        return "nothing says on which patients"
    return f"on {named(marker.patients, 'patient', 'patients', most=3)}"
