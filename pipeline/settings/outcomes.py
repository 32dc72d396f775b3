"""The section `outcomes` of the configuration."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class OutcomesSettings:
    """Settings of the stage outcomes."""

    table: str = Field(
        default="",
        description="path of the table of patients (CSV, or TSV by its ending): a column `patient`, one line for each "
        "patient of the sheet, and a column for each thing that is known of them; an empty cell is not known. Empty: "
        "nothing is asked of patients",
    )
    classes: tuple[str, ...] = Field(
        default=("label",), description="columns of the table that hold classes, each asked for on its own"
    )
    numbers: tuple[str, ...] = Field(default=(), description="columns that hold numbers")
    survival: dict[str, tuple[str, str]] = Field(
        default_factory=dict,
        description="survival by a name of your choice: the columns of time (any unit, from 0) and of event (1 seen, "
        "0 censored), e.g. `{overall: [months, death]}`",
    )
    folds: int = Field(
        default=5, ge=3, le=20, description="parts of the patients, each predicted by what was fitted on the others"
    )
    repeats: int = Field(
        default=3,
        ge=1,
        description="how often the patients are parted anew; predictions are the means. Attention starts from other "
        "weights each time",
    )
    penalties: tuple[float, ...] = Field(
        default=(0.01, 0.1, 1.0, 10.0),
        min_length=1,
        description="ridge penalties of the linear probes, on slide vectors of length about 1, to choose from among "
        "the patients fitted on",
    )
    attention_epochs: int = Field(
        default=30,
        ge=0,
        description="epochs of the gated-attention probe, which sees every patch of a patient; 0 leaves it out",
    )
    attention_patches: int = Field(
        default=1000,
        ge=16,
        description="patches of each patient that attention is fitted on at most, drawn anew for every repeat; it "
        "predicts from all patches",
    )
    bootstrap: int = Field(default=1000, ge=20, description="random halves of the patients, for the 95 % intervals")
    seed: int = Field(default=0, ge=0, description="seed of the parts, the draws, the halves and the initial weights")

    @model_validator(mode="after")
    def _names_once(self) -> OutcomesSettings:
        names = [*self.classes, *self.numbers, *self.survival]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"classes, numbers and survival must differ in their names; repeated: {repeated}")
        if not names:
            raise ValueError("classes, numbers and survival must name something to ask for")
        if any(penalty <= 0 for penalty in self.penalties):
            raise ValueError("penalties must be above 0")
        return self
