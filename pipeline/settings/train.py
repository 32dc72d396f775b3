"""The entries of the section `runs`: the stage train."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.branches import Branch, BranchEntry, Modality, branch_graph, checked_branches
from pipeline.settings.closed import CLOSED

Seed = Annotated[int, Field(ge=0)]
Width = Annotated[int, Field(ge=1)]
# Of a target branch beside others: on ORION the features then predict markers at least as well as supervised ones.
TARGET_WEIGHT = 5.0
# What `augmentation: mfl` does not ask for.
_OF_STANDARD_VIEWS = ("size_px", "shared_geometry", "crop", "colour", "dense_colour", "channel_dropout", "blur")


@dataclass(frozen=True, config=CLOSED)
class RunSettings:
    """Settings of one training run, the stage train."""

    branches: tuple[BranchEntry, ...] = Field(
        default=("sparse", "dense"),
        description="modality of each branch; branches of one modality share their encoder. A mapping says more of a "
        "branch (`runs.branches`). A target branch has the sparse encoder learn to predict `target`, too, by a linear "
        "head on its features; alone, as `[sparse, target]`, it is the supervised reference",
    )
    objective: Literal["vicreg", "barlow-twins", "infonce", "nt-xent"] = Field(
        default="vicreg",
        description="loss between the branches, summed over all pairs of them. A target branch is in no pair: it adds "
        "squared error or cross-entropy",
    )
    target: Literal["values", "class", "label"] = Field(
        default="values",
        description="what a target branch holds: values (of fluorescence the log mean of each marker, of brightfield "
        "the density of each stain, of a mask the share of each class, of gene counts the log of each, normalised), "
        "class (of a mask, that of most of the patch) or label (the class that the sheet's table `classes` gives the "
        "patch; those without one are left out, or beside other branches teach these alone)",
    )
    target_weight: float | None = Field(
        default=None,
        gt=0,
        description="weight of a target branch in the loss, where those of VICReg's terms are 25, 25 and 1; null is 5 "
        "beside other branches, 1 alone",
    )
    convention: Literal["vicreg", "mfl"] = Field(
        default="vicreg", description="weights of the VICReg terms: as its authors code them, or as More From Less does"
    )
    alignment: Literal["whole", "parts"] = Field(
        default="whole",
        description="whole: every pair of branches is aligned, in all of the embedding. parts, of three branches or "
        "more: the first branch is aligned with each of the others, in an equal part of the embedding each (SpliCER)",
    )
    pair_weights: tuple[float, ...] = Field(
        default=(),
        description="weight of each pair of branches in the loss, in the order 1-2, 1-3, …, 2-3, … (of alignment parts "
        "1-2, 1-3, …), a target branch not counted; empty weighs all 1. Beside a target branch all may be 0",
    )
    temperature: float = Field(default=0.5, gt=0, description="temperature of infonce and nt-xent")
    encoder: str = Field(default="resnet18", min_length=1, description="timm name of the encoders' architecture")
    weights: str = Field(
        default="",
        description="folder of an encoder that the sparse one starts from (`config.json`, `model.safetensors`; ours or "
        "timm's); its normalisation of pixels is kept. Empty: random weights. With 0 epochs it is evaluated as it is",
    )
    low_rank: int = Field(
        default=0,
        ge=0,
        description="rank of a low-rank adaptation (LoRA) of the sparse encoder's attention, all else in it "
        "staying as in `weights`; 0 trains all of it",
    )
    projector: tuple[Width, ...] = Field(
        default=(1024, 1024, 1024), min_length=1, description="widths of the projector's layers"
    )
    pairing: Literal["true", "shuffled", "blank"] = Field(
        default="true", description="true pairs, or the controls: dense patches permuted, or made blank"
    )
    markers: tuple[str, ...] = Field(
        default=(),
        description="markers that the dense branches see; empty: all that any training slide has. What a slide lacks "
        "is masked (0, the mean of a normalised marker)",
    )
    epochs: int = Field(
        default=20,
        ge=0,
        description="passes over the training patches; 0 leaves the random initial weights, a baseline",
    )
    batch_size: int = Field(default=128, ge=2, description="patches per step")
    order: Literal["permutation", "blocks"] = Field(
        default="permutation",
        description="in which order an epoch takes the patches: permutation, each from anywhere; blocks, for stores on "
        "a network disk or larger than memory: blocks of 96 neighbouring rows are shuffled, then the rows of 32 blocks "
        "at a time, so that each block is read in one go",
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay of AdamW")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="fraction of the steps in which the learning rate rises")
    seed: int = Field(default=0, ge=0, description="seed of weights, order and augmentation")
    seeds: tuple[Seed, ...] = Field(
        default=(),
        description="several seeds: the run {run} gets the first, further runs {run}-seed{seed} the others; evaluate "
        "scores them together",
    )
    repeats: str = Field(
        default="", description="the run that this one repeats with another seed; `seeds` sets it for the runs it adds"
    )
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient in a step")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="number format of the forward pass; auto is bf16 where the hardware gains from it",
    )
    size_px: int | None = Field(
        default=None,
        ge=16,
        description="side in pixels of the crop that the encoder sees; null is the side of the patch",
    )
    augmentation: Literal["standard", "mfl"] = Field(
        default="standard",
        description="how views are made: standard, by the keys below; mfl, as the published code of More From Less "
        "does, oddities included, of whole patches with a dense side of 8 bits; with mfl neither size_px nor the keys "
        "below may be set",
    )
    shared_geometry: bool = Field(
        default=True,
        description="whether a sparse and a dense branch see the same window of the patch; turns and mirrors are "
        "drawn for each branch in any case",
    )
    crop: float = Field(
        default=0.75, gt=0, le=1, description="smallest side of an augmented window as a fraction of size_px"
    )
    colour: float = Field(
        default=1.0,
        ge=0,
        le=2,
        description="strength of stain and colour changes of a sparse view; 0 switches them off",
    )
    dense_colour: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="the same of a dense view, or of fluorescence the strength of changes of each marker's gain and "
        "offset, which hide how much of a marker there is; null is the strength of colour",
    )
    channel_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="probability that a marker is masked in a dense view, never all of them; 0 switches it off",
    )
    blur: float = Field(default=0.0, ge=0, le=1, description="probability that a sparse view is blurred")

    @field_validator("branches")
    @classmethod
    def _yields_a_sparse_encoder(cls, branches: tuple[Modality | Branch, ...]) -> tuple[Modality | Branch, ...]:
        return checked_branches(branches)

    @model_validator(mode="after")
    def _adapts_something(self) -> Self:
        if self.low_rank and not self.weights:
            raise ValueError("low_rank adapts weights, which are not given")
        return self

    @model_validator(mode="after")
    def _has_targets_to_learn(self) -> Self:
        if "target" in self.branches and self.pairing == "blank":
            raise ValueError("pairing blank leaves nothing to predict; shuffled is the control of a target branch")
        if "target" not in self.branches and self.target_weight is not None:
            raise ValueError("target_weight weighs a target branch, and branches has none")
        return self

    @model_validator(mode="after")
    def _has_parts_to_align(self) -> Self:
        parts = len(self.encoded) - 1
        if self.alignment == "parts" and (parts < 2 or self.projector[-1] % parts or self.projector[-1] < 2 * parts):
            raise ValueError(
                "alignment parts needs three branches or more besides a target, and a last width of the projector that "
                "is a multiple of their number less one, two columns a part at least"
            )
        return self

    @model_validator(mode="after")
    def _weighs_every_pair(self) -> Self:
        if self.pair_weights and len(self.pair_weights) != self.pairs:
            raise ValueError(f"pair_weights needs {self.pairs} weights, one per pair of {len(self.encoded)} branches")
        idle = not any(self.pair_weights or (1,)) and "target" not in self.branches
        if idle or any(not 0 <= weight < math.inf for weight in self.pair_weights):
            raise ValueError("pair_weights must be finite and not negative, one at least above 0")
        return self

    @model_validator(mode="after")
    def _sets_no_key_without_a_say(self) -> Self:
        if self.augmentation == "mfl":
            defaults = RunSettings()
            idle = [key for key in _OF_STANDARD_VIEWS if getattr(self, key) != getattr(defaults, key)]
            if idle:
                raise ValueError(f"augmentation mfl leaves {', '.join(idle)} no say")
        return self

    @model_validator(mode="after")
    def _names_each_seed_once(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ")
        if self.seeds and self.repeats:
            raise ValueError("a run that repeats another has one seed; set seeds in the run that it repeats")
        return self

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modality of each branch."""
        return tuple(branch.modality for branch in branch_graph(self.branches))

    @property
    def encoded(self) -> tuple[Modality | Branch, ...]:
        """The branches that have an encoder: all but a target."""
        return tuple(branch for branch in self.branches if branch != "target")

    @property
    def weight_of_target(self) -> float:
        """Weight of a target branch in the loss."""
        if self.target_weight is not None:
            return self.target_weight
        return TARGET_WEIGHT if len(self.encoded) > 1 else 1.0

    @property
    def learns_labels(self) -> bool:
        """Whether the run needs tables of classes."""
        return "target" in self.modalities and self.target == "label"

    @property
    def pairs(self) -> int:
        """How many pairs of branches the loss is summed over."""
        branches = len(self.encoded)
        return branches - 1 if self.alignment == "parts" else branches * (branches - 1) // 2
