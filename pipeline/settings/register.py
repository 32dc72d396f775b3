"""The section `register` of the configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class RegisterSettings:
    """Settings of the stage register."""

    engine: Literal["blocks", "sitk", "valis"] = Field(
        default="blocks",
        description="blocks: block matching on nuclei; sitk: mutual information, for dense sides without nuclei too; "
        "valis: VALIS, in an environment of its own (`make valis`, or conda)",
    )
    mode: Literal["same-section", "serial"] = Field(
        default="same-section",
        description="same-section: both images show the same cells; serial: neighbouring sections, region-level only",
    )
    nuclear_channel: str | None = Field(
        default=None, description="dense channel that shows nuclei; null finds DAPI, Hoechst, DNA, … by name"
    )
    channel: str | None = Field(
        default=None,
        description="dense channel that `engine: sitk` registers by, nuclei or not (autofluorescence, SHG, …); "
        "null takes the nuclear one",
    )
    warn_residual_um: float = Field(
        default=3.0, gt=0, description="median held-out residual in um above which the verdict is warn"
    )
    fail_residual_um: float = Field(
        default=20.0, gt=0, description="median held-out residual in um above which the verdict is fail"
    )

    @model_validator(mode="after")
    def _registers_other_channels_by_sitk(self) -> Self:
        if self.channel is not None and self.engine != "sitk":
            raise ValueError(f"channel needs engine: sitk, found {self.engine}, which matches nuclei (nuclear_channel)")
        return self
