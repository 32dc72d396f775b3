"""Load a pretrained encoder from a folder of this project, or of timm (`local-dir:`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import PositiveFloat
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import StatedError
from pipeline.json_file import checked_as, read_json
from pipeline.training.encoder_folder import CONFIG_NAME, WEIGHTS_NAME
from pipeline.training.model_arguments import ModelArguments, checked_model_arguments
from pipeline.training.normalisation import ColourStatistics


@dataclass(frozen=True)
class _Colours:
    mean: tuple[float, float, float]
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


@dataclass(frozen=True)
class _PretrainedConfig:
    architecture: str
    pretrained_cfg: _Colours


@dataclass(frozen=True)
class Start:
    """Weights of a sparse encoder, the normalisation of pixels that they were trained with, and what they need built.

    Attributes:
        weights: by timm's name of each tensor.
        colour: mean and standard deviation of R, G, B on the scale 0 to 1.
        model_args: what the network has other than timm's architecture of that name.
    """

    weights: dict[str, Tensor]
    colour: ColourStatistics
    model_args: ModelArguments


def read_start(folder: Path, architecture: str, size_px: int) -> Start:
    """Return the encoder in a folder, its position embeddings resampled to `size_px`.

    Raises:
        StatedError: if there is none, if it is of another architecture, does not say how its pixels are normalised,
            changes the architecture in ways that are not known here, or holds numbers that are not finite.
    """
    try:
        value = read_json(folder / CONFIG_NAME)
        config = checked_as(value, _PretrainedConfig)
        model_args = checked_model_arguments(value)
    except (OSError, ValueError) as error:
        expected = "architecture, pretrained_cfg with mean and std of R, G, B, and model_args as docs/encoders.md says"
        raise StatedError(file=folder / CONFIG_NAME, expected=expected, found=str(error)) from None
    colour = ColourStatistics(config.pretrained_cfg.mean, config.pretrained_cfg.std)
    if config.architecture != architecture:
        expected = f"weights of {architecture}, the run's encoder"
        raise StatedError(file=folder, expected=expected, found=config.architecture)
    size: dict[str, Any] = {"img_size": size_px} if _is_of_fixed_size(architecture) else {}
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **size)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AssertionError, SafetensorError) as error:
        # timm builds by what the file says of the network, and asserts what fits together.
        expected = f"weights that fit {architecture} at {size_px} px"
        raise StatedError(file=folder / WEIGHTS_NAME, expected=expected, found=str(error)) from None
    weights = network.state_dict()
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise StatedError(file=folder / WEIGHTS_NAME, expected="finite weights", found=f"nan or infinity in {bad[0]}")
    return Start(weights, colour, model_args)


def _is_of_fixed_size(architecture: str) -> bool:
    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    return known is not None and bool(known.fixed_input_size)
