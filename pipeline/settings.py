"""The configuration: every key, its type, range, default and meaning, checked once at the door.

The Snakefile and the command line read it through the same classes, so both refuse the same mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from pipeline.errors import StatedError

_CLOSED = ConfigDict(extra="forbid")

Modality = Literal["sparse", "dense"]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


@dataclass(frozen=True, config=_CLOSED)
class InspectSettings:
    """Settings of the stage inspect."""

    mpp_tolerance: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="largest relative difference allowed between the mpp of the file and of the sheet",
    )


@dataclass(frozen=True, config=_CLOSED)
class RegisterSettings:
    """Settings of the stage register."""

    engine: Literal["sitk"] = Field(default="sitk", description="registration engine")
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


@dataclass(frozen=True, config=_CLOSED)
class TileSettings:
    """Settings of the stage tile."""

    size_px: int = Field(default=256, ge=16, le=4096, description="side of a patch in pixels")
    mpp: float | Literal["native"] = Field(
        default="native", description="um per pixel of the patches; native takes the sparse slide's level 0"
    )
    min_tissue: float = Field(
        default=0.5, ge=0, le=1, description="smallest fraction of tissue in a patch that is kept"
    )
    max_residual_um: float = Field(
        default=8.0,
        gt=0,
        description="pairs whose measured shift is larger are kept in the store but not used as pairs",
    )
    grid: Literal["auto", "lattice", "exact"] = Field(
        default="auto",
        description="lattice: the squares are whole JPEG tiles of the slide, an error where they cannot be; exact: "
        "decoded and, where need be, resampled, at any size and mpp; auto: lattice where it fits, otherwise exact",
    )
    codec: Literal["auto", "zstd"] = Field(
        default="auto",
        description="how sparse patches are stored; auto: the scanner's own JPEG bytes where a patch of the lattice is "
        "one tile, otherwise zstd; zstd: always decoded",
    )


@dataclass(frozen=True, config=_CLOSED)
class SplitSettings:
    """Settings of the stage split."""

    by: Literal["auto", "patient", "slide", "block"] = Field(
        default="auto",
        description="what stays together: auto is patient where two or more have pairs, otherwise block; "
        "slide and block let a patient appear in several folds, and the result says so",
    )
    folds: int = Field(default=4, ge=2, description="number of folds; fold 0 is held out for evaluation")
    test: tuple[str, ...] = Field(
        default=(), description="names of the patients or slides that form fold 0; empty lets the seed choose"
    )
    block_um: float = Field(default=1000.0, gt=0, description="side in um of the blocks where the split is by block")
    seed: int = Field(default=0, ge=0, description="seed of the assignment to folds")


@dataclass(frozen=True, config=_CLOSED)
class RunSettings:
    """Settings of one training run, the stage train."""

    branches: tuple[Modality, ...] = Field(
        default=("sparse", "dense"),
        min_length=2,
        description="modality of each branch; branches of one modality share their encoder",
    )
    objective: Literal["vicreg"] = Field(default="vicreg", description="loss between the branches")
    convention: Literal["vicreg", "mfl"] = Field(
        default="vicreg", description="weights of the VICReg terms: as its authors code them, or as More From Less does"
    )
    encoder: str = Field(default="resnet18", min_length=1, description="timm name of the encoders' architecture")
    projector: tuple[int, ...] = Field(
        default=(1024, 1024, 1024), min_length=1, description="widths of the projector's layers"
    )
    pairing: Literal["true", "shuffled", "blank"] = Field(
        default="true", description="true pairs, or the controls: dense patches permuted, or made blank"
    )
    epochs: int = Field(default=20, ge=1, description="passes over the training patches")
    batch_size: int = Field(default=128, ge=2, description="patches per step")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay of AdamW")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="fraction of the steps in which the learning rate rises")
    seed: int = Field(default=0, ge=0, description="seed of weights, order and augmentation")
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
    shared_geometry: bool = Field(
        default=True,
        description="whether a sparse and a dense branch see the same window of the patch; turns and mirrors are "
        "drawn for each branch in any case",
    )
    crop: float = Field(
        default=0.75, gt=0, le=1, description="smallest side of an augmented window as a fraction of size_px"
    )
    colour: float = Field(
        default=1.0, ge=0, le=2, description="strength of stain, colour and intensity changes; 0 switches them off"
    )
    blur: float = Field(default=0.0, ge=0, le=1, description="probability that a sparse view is blurred")

    @field_validator("branches")
    @classmethod
    def _yields_a_sparse_encoder(cls, branches: tuple[Modality, ...]) -> tuple[Modality, ...]:
        if "sparse" not in branches:
            raise ValueError("at least one branch must be sparse, for the sparse encoder is what a run yields")
        return branches


@dataclass(frozen=True, config=_CLOSED)
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


@dataclass(frozen=True, config=_CLOSED)
class EvaluateSettings:
    """Settings of the stage evaluate."""

    neighbours: int = Field(default=20, ge=1, description="k of the kNN probe")
    ridge: tuple[float, ...] = Field(
        default=(0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0),
        min_length=1,
        description="ridge penalties to choose from within the training folds",
    )
    bootstrap: int = Field(default=1000, ge=10, description="resamples for the 95 % intervals")
    block_um: float = Field(
        default=500.0, gt=0, description="side in um of the tissue blocks that are resampled together"
    )
    baseline: str = Field(default="sparse-only", description="run that the others are compared with")
    max_train_patches: int = Field(
        default=50_000,
        ge=10,
        description="patches that the probes are fitted on at most, drawn evenly from the slides; bounds the memory",
    )
    seed: int = Field(default=0, ge=0, description="seed of the bootstrap and of the draw of patches to fit on")


@dataclass(frozen=True, config=_CLOSED)
class ReportSettings:
    """Settings of the stage report."""

    title: str = Field(default="More From Less", min_length=1, description="title of the page")
    note: str = Field(
        default="",
        description="a sentence on the cohort that readers must know, shown at its head and among the limits",
    )
    picture_px: int = Field(
        default=900,
        ge=200,
        le=4000,
        description="longest side of a picture in pixels; smaller in cohorts of more than 8 slides, to bound the page",
    )
    map_patches: int = Field(
        default=3000, ge=10, description="patches drawn in the embedding map and used to fit its axes, over all slides"
    )


@dataclass(frozen=True, config=_CLOSED)
class Settings:
    """The whole configuration, one section per stage."""

    slides: str = Field(default="config/slides.tsv", description="the sheet of slides")
    inspect: InspectSettings = field(default_factory=InspectSettings)
    register: RegisterSettings = field(default_factory=RegisterSettings)
    tile: TileSettings = field(default_factory=TileSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    runs: dict[RunName, RunSettings] = Field(default_factory=dict, description="the trainings, by name")
    embed: EmbedSettings = field(default_factory=EmbedSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    report: ReportSettings = field(default_factory=ReportSettings)


S = TypeVar("S")


def build(kind: type[S], values: Mapping[str, Any], *, source: str) -> S:
    """The checked settings of type `kind`.

    Args:
        kind: one of the classes of this module.
        values: keys and values as read from YAML or JSON; missing keys take their defaults.
        source: what to call the values in an error, usually a path.

    Raises:
        StatedError: naming every unknown key and every value of wrong type or range at once.
    """
    try:
        return TypeAdapter(kind).validate_python(_words(values))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or '(top)'}: {item['msg']} (value {item['input']!r:.60})"
            for item in error.errors(include_url=False)
        ]
        raise StatedError(file=source, expected="a valid configuration", found="; ".join(problems)) from None


def load(path: Path) -> Settings:
    """The checked settings of a YAML configuration file.

    Raises:
        StatedError: if the file is absent, is no YAML mapping or breaks a rule of `Settings`.
    """
    return build(Settings, read_mapping(path), source=str(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level mapping of a YAML or JSON file, unchecked."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StatedError(file=path, expected="a readable YAML file", found=str(error)) from None
    except yaml.YAMLError as error:
        raise StatedError(file=path, expected="valid YAML", found=str(error)) from None
    if not isinstance(values, dict):
        raise StatedError(file=path, expected="a mapping of keys to values", found=type(values).__name__)
    return values


def to_json(settings: object) -> str:
    """One line of JSON with all keys, sorted: what a rule hands to the command line."""
    return json.dumps(asdict(settings), sort_keys=True, separators=(",", ":"))  # type: ignore[call-overload]


def _words(values: Any) -> Any:
    """`pairing: true` is a boolean to YAML and a word to us; nothing else is touched."""
    if isinstance(values, Mapping):
        return {key: "true" if key == "pairing" and value is True else _words(value) for key, value in values.items()}
    return values
