"""The section `predict` of the configuration."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class PredictSettings:
    """Settings of the stage predict."""

    probe: str = Field(
        default="",
        description="path of a probe's folder, for an encoder from elsewhere; empty: the probe that this cohort's own "
        "training gives, and no predictions where nothing is trained",
    )
    min_score: float = Field(
        default=0.3,
        ge=-1,
        le=1,
        description="held-out Pearson r that a marker needs to be predicted at all; what stays below is named with its "
        "score and left out",
    )
    max_outside: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a slide's patches that may lie outside the range of features that the probe was fitted "
        "on, and of a marker's predictions outside the range of those it was fitted or scored on; a map with more is "
        "named and left out; 1 draws all",
    )
    markers: tuple[str, ...] = Field(
        default=(),
        description="markers to predict whatever their score, within `max_outside`; empty: all that reach `min_score`",
    )
