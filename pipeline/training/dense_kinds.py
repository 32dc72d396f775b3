"""Define training's part of each kind of dense side: reading, measuring, normalising, augmenting, encoding.

A kind is one class here; all other modules of this package ask it and never for its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import StatedError
from pipeline.marker_names import Panel
from pipeline.slides.kinds.counts import per_library
from pipeline.training.augmentation import Augmentation, drop_channels, jitter_intensity, jitter_stain
from pipeline.training.draws import Draws
from pipeline.training.encoders import GENE_FEATURES, build_encoder, build_gene_encoder, feature_width
from pipeline.training.model_arguments import ModelArguments
from pipeline.training.normalisation import (
    Blocks,
    ColourStatistics,
    MarkerStatistics,
    Normalisation,
    Sum,
    colour_statistics,
    marker_statistics,
)

NormalisedBy = Literal["markers", "colour", "nothing"]
Resampling = Literal["bilinear", "nearest"]
Measured = tuple[tuple[MarkerStatistics, ...], ColourStatistics | None]


class DenseInput(Protocol):
    """What training asks of a kind of dense side; `pipeline.slides.kinds.base.DenseKind` is what all others ask."""

    @property
    def has_panel(self) -> bool:
        """Whether its channels are markers of the panel, which differ from slide to slide and can be chosen."""

    @property
    def normalised_by(self) -> NormalisedBy:
        """Which statistics of the training patches normalise it."""

    @property
    def resampling(self) -> Resampling | None:
        """How a view is interpolated; None where a patch is not an image."""

    def channels(self, markers: int) -> int:
        """Return the number of channels of a patch, of a panel of that many markers."""

    def side_px(self, size_px: int) -> int:
        """Return the side of a dense patch beside an H&E patch of `size_px`."""

    def channel_indices(self, panel: Panel, slide: str) -> NDArray[np.int64]:
        """Return for each stored value of a slide the channel that it fills, or `UNUSED`."""

    def of_panel(self, stored: NDArray[Any], used: NDArray[np.int64]) -> NDArray[Any]:
        """Return (M', P, P) values of a stored patch (C, P, P), of the values at `used`."""

    def measure(self, markers: Sequence[str], blocks: Blocks, total: Sum) -> Measured:
        """Return statistics of the markers, and of the colours, as far as this kind is normalised by them."""

    def prepare(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        """Return patches (n, M, P, P) as they are resampled; may overwrite them."""

    def recolour(
        self, view: Tensor, present: Tensor, augmentation: Augmentation, normalisation: Normalisation, draws: Draws
    ) -> Tensor:
        """Return a resampled view (n, M, P, P) with changed intensities; 0 where `present` (n, M) is false."""

    def normalise(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        """Return patches as an encoder sees them without augmentation; may overwrite them."""

    def to_published_scale(self, dense: Tensor) -> Tensor:
        """Return patches on the scale 0 to 255, for the published views."""

    def normalise_published(self, view: Tensor, normalisation: Normalisation, indices: Tensor | None) -> Tensor:
        """Return a published view, 0 to 255, as its encoder gets it; `indices` are its markers, None for all."""

    def build_encoder(
        self, architecture: str, model_args: ModelArguments, channels: int, size_px: int
    ) -> tuple[nn.Module, int]:
        """Return an untrained encoder and the length of its feature vectors."""


class _ImageInput:
    """What the kinds have in common whose patches are images of the panel's markers."""

    has_panel = True
    resampling: Resampling | None = "bilinear"

    def channels(self, markers: int) -> int:
        return markers

    def side_px(self, size_px: int) -> int:
        return size_px

    def channel_indices(self, panel: Panel, slide: str) -> NDArray[np.int64]:
        return np.array(panel.indices.get(slide, ()), dtype=np.int64)

    def of_panel(self, stored: NDArray[Any], used: NDArray[np.int64]) -> NDArray[Any]:
        return stored[used]

    def to_published_scale(self, dense: Tensor) -> Tensor:
        return dense

    def build_encoder(
        self, architecture: str, model_args: ModelArguments, channels: int, size_px: int
    ) -> tuple[nn.Module, int]:
        built = build_encoder(architecture, in_chans=channels, size_px=size_px, model_args=model_args)
        return built, feature_width(built, in_chans=channels, size_px=size_px)


class FluorescenceInput(_ImageInput):
    """Raw intensities of the panel's markers, compressed and standardised by marker."""

    normalised_by: NormalisedBy = "markers"

    def measure(self, markers: Sequence[str], blocks: Blocks, total: Sum) -> Measured:
        return marker_statistics(markers, blocks, total), None

    def prepare(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return normalisation.dense(dense)

    def recolour(
        self, view: Tensor, present: Tensor, augmentation: Augmentation, normalisation: Normalisation, draws: Draws
    ) -> Tensor:
        return jitter_intensity(view, present, augmentation.dense_colour, augmentation.channel_dropout, draws)

    def normalise(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return normalisation.dense(dense)

    def normalise_published(self, view: Tensor, normalisation: Normalisation, indices: Tensor | None) -> Tensor:
        return normalisation.dense(view, indices)


class BrightfieldInput(_ImageInput):
    """R, G, B of an immunohistochemical slide, 0 to 255, standardised by colour."""

    has_panel = False
    normalised_by: NormalisedBy = "colour"

    def channels(self, markers: int) -> int:
        return 3

    def channel_indices(self, panel: Panel, slide: str) -> NDArray[np.int64]:
        return np.arange(3)

    def measure(self, markers: Sequence[str], blocks: Blocks, total: Sum) -> Measured:
        pixels = (np.moveaxis(values, 1, -1).astype(np.uint8) for values, _ in blocks())
        return (), colour_statistics(pixels, total)

    def prepare(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return dense.div_(255)

    def recolour(
        self, view: Tensor, present: Tensor, augmentation: Augmentation, normalisation: Normalisation, draws: Draws
    ) -> Tensor:
        standard = normalisation.brightfield(jitter_stain(view, augmentation.dense_colour, draws))
        return torch.where(present[:, :, None, None], standard, 0.0)

    def normalise(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return normalisation.brightfield(dense / 255)

    def normalise_published(self, view: Tensor, normalisation: Normalisation, indices: Tensor | None) -> Tensor:
        return normalisation.brightfield(view / 255)


class MaskInput(_ImageInput):
    """1 where the panel's class is, 0 elsewhere."""

    normalised_by: NormalisedBy = "nothing"
    # Between two classes there is none.
    resampling: Resampling | None = "nearest"

    def of_panel(self, stored: NDArray[Any], used: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(stored == used[:, None, None] + 1)

    def measure(self, markers: Sequence[str], blocks: Blocks, total: Sum) -> Measured:
        return (), None

    def prepare(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return dense

    def recolour(
        self, view: Tensor, present: Tensor, augmentation: Augmentation, normalisation: Normalisation, draws: Draws
    ) -> Tensor:
        return drop_channels(view, present, augmentation.channel_dropout, draws)

    def normalise(self, dense: Tensor, normalisation: Normalisation) -> Tensor:
        return dense

    def to_published_scale(self, dense: Tensor) -> Tensor:
        return dense * 255

    def normalise_published(self, view: Tensor, normalisation: Normalisation, indices: Tensor | None) -> Tensor:
        return view / 255


class CellsInput(FluorescenceInput):
    """Values of the cells of a patch, compressed and standardised one by one: a vector, no image."""

    resampling = None

    def side_px(self, size_px: int) -> int:
        return 1

    def recolour(
        self, view: Tensor, present: Tensor, augmentation: Augmentation, normalisation: Normalisation, draws: Draws
    ) -> Tensor:
        return drop_channels(view, present, augmentation.channel_dropout, draws)

    def build_encoder(
        self, architecture: str, model_args: ModelArguments, channels: int, size_px: int
    ) -> tuple[nn.Module, int]:
        return build_gene_encoder(channels), GENE_FEATURES


class CountsInput(CellsInput):
    """Counts of genes per 10,000 of all that the patch has, compressed by log(1 + x): a vector, no image."""

    def of_panel(self, stored: NDArray[Any], used: NDArray[np.int64]) -> NDArray[Any]:
        found: NDArray[Any] = per_library(stored[None])[0, used]
        return found

    def measure(self, markers: Sequence[str], blocks: Blocks, total: Sum) -> Measured:
        return marker_statistics(markers, blocks, total, cofactor_of_all=1.0), None


_KINDS: dict[str, DenseInput] = {
    "fluorescence": FluorescenceInput(),
    "brightfield": BrightfieldInput(),
    "mask": MaskInput(),
    "counts": CountsInput(),
    "cells": CellsInput(),
    # Of runs without a dense branch, whose panel is empty.
    "": FluorescenceInput(),
}


def dense_kind(name: str) -> DenseInput:
    """Return the kind of that name.

    Raises:
        StatedError: for a name that no kind has.
    """
    if name not in _KINDS:
        raise StatedError(expected=f"a kind of dense side ({', '.join(filter(None, _KINDS))})", found=repr(name))
    return _KINDS[name]
