"""The section `report` of the configuration."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class ReportSettings:
    """Settings of the stage report."""

    title: str = Field(default="More From Less", min_length=1, description="title of the page")
    note: str = Field(
        default="",
        description="a sentence on the cohort that readers must know, shown at its head and among the limits",
    )
    picture_px: int = Field(
        default=900,
        ge=200,
        le=4000,
        description="longest side of a picture in pixels; smaller in cohorts of more than 8 slides, to bound the page",
    )
    map_patches: int = Field(
        default=3000, ge=10, description="patches drawn in the embedding map and used to fit its axes, over all slides"
    )
