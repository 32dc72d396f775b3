"""Build encoders: timm architectures without a classifier, randomly initialised; nothing is downloaded."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import nn

from pipeline.errors import StatedError
from pipeline.training.model_arguments import AS_NAMED, ModelArguments

# Of the encoder of gene counts, which are not an image.
GENE_FEATURES = 512
_GENE_LAYERS = 2


def architecture_arguments(
    name: str, *, in_chans: int, size_px: int, model_args: ModelArguments = AS_NAMED
) -> dict[str, Any]:
    """Return the arguments with which timm builds the architecture for patches of `size_px`, changed by `model_args`.

    Raises:
        StatedError: if timm does not know the name.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; near to it: {', '.join(near)}" if near else ""
        raise StatedError(expected="the name of a timm architecture", found=f"{name!r}{hint}")
    arguments: dict[str, Any] = {**model_args, "num_classes": 0, "in_chans": in_chans}
    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is not None and known.fixed_input_size:
        arguments["img_size"] = size_px
    return arguments


def build_encoder(name: str, *, in_chans: int, size_px: int, model_args: ModelArguments = AS_NAMED) -> nn.Module:
    """Return a freshly initialised encoder that maps (n, in_chans, size_px, size_px) to (n, features).

    Raises:
        StatedError: if timm does not know the name, or the architecture cannot take such patches.
    """
    arguments = architecture_arguments(name, in_chans=in_chans, size_px=size_px, model_args=model_args)
    expected = f"an architecture that turns patches of {size_px} px with {in_chans} channels into vectors"
    try:
        encoder: nn.Module = timm.create_model(name, pretrained=False, **arguments)
        features = _probe(encoder, in_chans, size_px)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise StatedError(expected=expected, found=f"{name}: {error}") from None
    if features.ndim != 2:
        raise StatedError(expected=expected, found=f"{name} gives shape {tuple(features.shape)}")
    return encoder


def build_gene_encoder(genes: int) -> nn.Sequential:
    """Return a perceptron from normalised counts (n, genes, 1, 1) to features (n, 512).

    Each of its two layers is linear, batch-normalised and ends in ReLU; its size was not tuned.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = genes
    for _ in range(_GENE_LAYERS):
        layers += [nn.Linear(width, GENE_FEATURES, bias=False), nn.BatchNorm1d(GENE_FEATURES), nn.ReLU(inplace=True)]
        width = GENE_FEATURES
    return nn.Sequential(*layers)


def feature_width(encoder: nn.Module, *, in_chans: int, size_px: int) -> int:
    """Return length of the encoder's feature vectors, on whatever device it is."""
    return _probe(encoder, in_chans, size_px).shape[1]


def _probe(encoder: nn.Module, in_chans: int, size_px: int) -> torch.Tensor:
    training, device = encoder.training, next(encoder.parameters()).device
    with torch.inference_mode():
        features: torch.Tensor = encoder.eval()(torch.zeros(1, in_chans, size_px, size_px, device=device))
    encoder.train(training)
    return features
