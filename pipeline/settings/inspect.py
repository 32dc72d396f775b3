"""The section `inspect` of the configuration."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class InspectSettings:
    """Settings of the stage inspect."""

    mpp_tolerance: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="relative difference between the mpp of file and sheet above which inspect tells both in "
        "its log; the sheet's is taken either way",
    )
