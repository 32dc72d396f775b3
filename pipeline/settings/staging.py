"""The section `staging` of the configuration: slides that lie elsewhere, fetched while they are worked on."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class StagingSettings:
    """Settings of the stage stage, which fetches slides that lie elsewhere."""

    max_gb: float = Field(
        default=200.0,
        gt=0,
        description="room in GB (1e9 bytes) for fetched slides; more wait until the workflow has removed those that it "
        "is done with",
    )
    keep: bool = Field(
        default=False,
        description="whether fetched slides stay in `resources/staged`: a later run with other settings then fetches "
        "nothing; `max_gb` must hold them all",
    )
    max_wait_h: float = Field(
        default=24.0,
        gt=0,
        description="hours that a slide waits for room before that is an error",
    )
    connections: int = Field(
        default=4,
        ge=1,
        le=32,
        description="ranges of a file that are asked for at once",
    )
