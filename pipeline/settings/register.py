"""The section `register` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class RegisterSettings:
    """Settings of the stage register."""

    engine: Literal["sitk", "valis"] = Field(
        default="sitk", description="registration engine; valis needs an environment of its own: `make valis`, or conda"
    )
    mode: Literal["same-section", "serial"] = Field(
        default="same-section",
        description="same-section: both images show the same cells; serial: neighbouring sections, region-level only",
    )
    nuclear_channel: str | None = Field(
        default=None, description="dense channel that shows nuclei; null finds DAPI, Hoechst, DNA, … by name"
    )
    warn_residual_um: float = Field(
        default=3.0, gt=0, description="median held-out residual in um above which the verdict is warn"
    )
    fail_residual_um: float = Field(
        default=20.0, gt=0, description="median held-out residual in um above which the verdict is fail"
    )
