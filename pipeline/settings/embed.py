"""The section `embed` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class EmbedSettings:
    """Settings of the stage embed."""

    encoder: str = Field(
        default="distilled", min_length=1, description="name of a run, or path of an exported encoder folder"
    )
    batch_size: int = Field(default=128, ge=1, description="patches per forward pass")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="number format of the forward pass; auto is bf16 where the hardware gains from it and the "
        "encoder's features have been measured to stay the same (cosine 0.999)",
    )
