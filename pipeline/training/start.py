"""An encoder to start from: a folder as this project writes, or as timm writes for `local-dir:`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pipeline.errors import BROKEN_INPUT, StatedError
from pipeline.json_file import read_json
from pipeline.training.encoders import CONFIG_NAME, WEIGHTS_NAME
from pipeline.training.normalisation import ColourStatistics


@dataclass(frozen=True)
class Start:
    """Weights of a sparse encoder, and the normalisation of pixels that they were trained with."""

    weights: dict[str, Tensor]
    colour: ColourStatistics


def read_start(folder: Path, architecture: str, size_px: int) -> Start:
    """The encoder in a folder with `config.json` and `model.safetensors`, position embeddings resampled to `size_px`.

    Raises:
        StatedError: if there is none, if it is of another architecture, does not say how its pixels are normalised, or
            holds numbers that are not finite.
    """
    try:
        config = read_json(folder / CONFIG_NAME)
        found, known = str(config["architecture"]), config["pretrained_cfg"]
        colour = ColourStatistics(tuple(map(float, known["mean"])), tuple(map(float, known["std"])))
        if len(colour.mean) != 3 or len(colour.std) != 3 or min(colour.std) <= 0:
            raise ValueError(f"mean {colour.mean}, std {colour.std}")
    except BROKEN_INPUT as error:
        expected = "architecture and pretrained_cfg with mean and std of R, G, B"
        raise StatedError(file=folder / CONFIG_NAME, expected=expected, found=repr(error)) from None
    if found != architecture:
        raise StatedError(file=folder, expected=f"weights of {architecture}, the run's encoder", found=found)
    size: dict[str, Any] = {"img_size": size_px} if _is_of_fixed_size(architecture) else {}
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0, **size)
    except (*BROKEN_INPUT, SafetensorError) as error:
        expected = f"weights that fit {architecture} at {size_px} px"
        raise StatedError(file=folder / WEIGHTS_NAME, expected=expected, found=str(error)) from None
    weights = network.state_dict()
    bad = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise StatedError(file=folder / WEIGHTS_NAME, expected="finite weights", found=f"nan or infinity in {bad[0]}")
    return Start(weights, colour)


def give_weights(encoder: nn.Module, start: Start, folder: Path, architecture: str) -> None:
    """Gives an encoder the weights that it starts from, in place.

    Raises:
        StatedError: if they are of a network that the architecture's name alone does not build, because `model_args` of
            the folder's config.json change it.
    """
    own = {name: value.shape for name, value in encoder.state_dict().items()}
    given = {name: value.shape for name, value in start.weights.items()}
    other = [name for name in {**own, **given} if own.get(name) != given.get(name)]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise StatedError(
            file=folder / CONFIG_NAME,
            expected=f"the network that timm builds by the name {architecture}, no model_args that change it",
            found=f"another {other[0]}{more}",
        )
    encoder.load_state_dict(start.weights)


def _is_of_fixed_size(architecture: str) -> bool:
    known = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    return known is not None and bool(known.fixed_input_size)
