"""The section `register` of the configuration."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED

# A nucleus is 6 to 10 um wide: a pair of one section under 3 um shows the same cells, one over 20 um other ones.
# Neighbouring sections share regions. Where a person had marked both, the error was two to three times the residual:
# some 40 um at 15, so that patches of 125 um still share most of what they show, and at 50 hardly anything.
LIMITS_UM = {"same-section": (3.0, 20.0), "serial": (15.0, 50.0)}


@dataclass(frozen=True, config=CLOSED)
class RegisterSettings:
    """Settings of the stage register."""

    engine: Literal["blocks", "sitk", "valis"] = Field(
        default="blocks",
        description="blocks: block matching on nuclei; sitk: mutual information, for dense sides without nuclei too; "
        "valis: VALIS, in a separate environment (`make valis`, or conda)",
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
    warn_residual_um: float | None = Field(
        default=None,
        gt=0,
        description="median held-out residual in um above which the verdict is warn; null is 3, in mode serial 15",
    )
    fail_residual_um: float | None = Field(
        default=None,
        gt=0,
        description="median held-out residual in um above which the verdict is fail; null is 20, in mode serial 50",
    )

    @property
    def limits_um(self) -> tuple[float, float]:
        """Median held-out residuals in um above which the verdict is warn and fail, as set or as the mode has them."""
        warn, fail = LIMITS_UM[self.mode]
        return (
            warn if self.warn_residual_um is None else self.warn_residual_um,
            fail if self.fail_residual_um is None else self.fail_residual_um,
        )

    @model_validator(mode="after")
    def _registers_other_channels_by_sitk(self) -> Self:
        if self.channel is not None and self.engine != "sitk":
            raise ValueError(f"channel needs engine: sitk, found {self.engine}, which matches nuclei (nuclear_channel)")
        return self
