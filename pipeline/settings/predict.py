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
    markers: tuple[str, ...] = Field(
        default=(), description="markers to predict whatever their score; empty: all that reach `min_score`"
    )
