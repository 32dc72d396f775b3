"""The section `containers` of the configuration."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class ContainerSettings:
    """Images that the rules run in under `--sdm apptainer`. Our own code comes from the checkout, not from them."""

    slides: str = Field(
        default="",
        description="image for the stages that read slides (built from envs/slides.Dockerfile): a `.sif` file or a "
        "`docker://` address",
    )
    torch: str = Field(default="", description="image for the stages after the stores (envs/torch.Dockerfile)")
    valis: str = Field(default="", description="image for `register.engine: valis` (envs/valis.Dockerfile)")

    @model_validator(mode="after")
    def _slides_and_torch_go_together(self) -> ContainerSettings:
        if bool(self.slides) != bool(self.torch):
            given, absent = ("slides", "torch") if self.slides else ("torch", "slides")
            raise ValueError(f"{given} names an image, {absent} none: give both or neither")
        return self
