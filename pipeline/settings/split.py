"""The section `split` of the configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.patients import patient_name
from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class SplitSettings:
    """Settings of the stage split."""

    by: Literal["auto", "patient", "slide", "block"] = Field(
        default="auto",
        description="what stays together: auto is patient where two or more have pairs, otherwise block; "
        "slide and block let a patient appear in several folds, which the result states",
    )
    folds: int = Field(default=4, ge=2, description="number of folds; fold 0 is held out for evaluation")
    test: tuple[str, ...] = Field(
        default=(),
        description="names of the patients or slides that form fold 0; empty lets the seed choose some that hold about "
        "1 / folds of the pairs, and half of them at most",
    )
    block_um: float = Field(default=1000.0, gt=0, description="side in um of the blocks where the split is by block")
    seed: int = Field(default=0, ge=0, description="seed of the assignment to folds")

    @field_validator("test")
    @classmethod
    def _spells_names_as_the_sheet_does(cls, test: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(patient_name(name) for name in test)
