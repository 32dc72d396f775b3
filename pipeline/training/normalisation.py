"""Statistics of the training patches, and the normalisation of pixels by them.

Dense intensities span decades and differ in unit from scanner to scanner. Each marker is divided by its own mean
absolute intensity, compressed by the symmetric logarithm sign(x) log(1 + |x|) (logarithmic far above that mean, linear
around zero, defined for background-subtracted negatives) and standardised. The outcome does not depend on the unit.
Counts of genes per 10,000 of their patch have one unit: their cofactor is 1, which makes it log(1 + x).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Blocks = Callable[[], Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]]]
Sum = Callable[[NDArray[Any]], NDArray[Any]]

_SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class ColourStatistics:
    """Mean and standard deviation of R, G, B over the training pixels, on the scale 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class MarkerStatistics:
    """How one marker is normalised: (symlog(x / cofactor) - mean) / std, with symlog(x) = sign(x) log(1 + |x|).

    Attributes:
        marker: its name.
        cofactor: mean absolute intensity over the training pixels of the slides that have the marker; of a gene 1.
        mean: of symlog(x / cofactor).
        std: of the same.
        patches: number of training patches behind these figures.
    """

    marker: str
    cofactor: float
    mean: float
    std: float
    patches: int


def _alone(values: NDArray[Any]) -> NDArray[Any]:
    return values


def colour_statistics(blocks: Iterable[NDArray[np.uint8]], total: Sum = _alone) -> ColourStatistics:
    """Return exact statistics of (n, P, P, 3) uint8 blocks, from a histogram of each channel.

    Args:
        blocks: the pixels, or this process's share of them.
        total: sums an array over the processes.
    """
    histogram = np.zeros((3, 256), dtype=np.int64)
    for block in blocks:
        for channel in range(3):
            histogram[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    histogram = total(histogram)
    values = np.arange(256) / 255
    weight = histogram / histogram.sum(axis=1, keepdims=True)
    mean = weight @ values
    std = np.sqrt(np.maximum((weight * (values - mean[:, None]) ** 2).sum(axis=1), _SMALLEST_STD**2))
    return ColourStatistics(tuple(mean.tolist()), tuple(std.tolist()))


def marker_statistics(
    markers: Sequence[str], blocks: Blocks, total: Sum = _alone, *, cofactor_of_all: float | None = None
) -> tuple[MarkerStatistics, ...]:
    """Return statistics of each marker over the patches that show it.

    Args:
        markers: names, in channel order.
        blocks: opens a pass over (n, M, P, P) float32 pixels with (n, M) bool, whether the slide has the marker;
            two passes are made.
        total: sums an array over the processes, each of which passes over a share.
        cofactor_of_all: cofactor of values that have a unit in common: 1 of normalised counts, for their log(1 + x).
    """
    absolute, pixels, patches = np.zeros(len(markers)), np.zeros(len(markers)), np.zeros(len(markers), dtype=np.int64)
    for values, present in blocks():
        absolute += (np.abs(values).mean(axis=(2, 3), dtype=np.float64) * present).sum(axis=0)
        patches += present.sum(axis=0)
        pixels += present.sum(axis=0) * values.shape[2] * values.shape[3]
    absolute, pixels, patches = total(absolute), total(pixels), total(patches)
    cofactor = absolute / np.maximum(patches, 1)
    cofactor[cofactor <= 0] = 1.0
    if cofactor_of_all is not None:
        cofactor[:] = cofactor_of_all
    sums, squares = np.zeros(len(markers)), np.zeros(len(markers))
    for values, present in blocks():
        compressed = _compress(torch.from_numpy(values), torch.from_numpy(cofactor)).double()
        compressed *= torch.from_numpy(present)[:, :, None, None]
        sums += compressed.sum(dim=(0, 2, 3)).numpy()
        squares += compressed.square_().sum(dim=(0, 2, 3)).numpy()
    sums, squares = total(sums), total(squares)
    mean = sums / np.maximum(pixels, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(pixels, 1) - mean**2, 0))
    std[std < _SMALLEST_STD] = 1.0
    return tuple(
        MarkerStatistics(marker, *figures)
        for marker, *figures in zip(
            markers, cofactor.tolist(), mean.tolist(), std.tolist(), patches.tolist(), strict=True
        )
    )


class Normalisation:
    """The normalisation of both modalities.

    Attributes:
        device: where the pixels are.

    Args:
        colour: statistics of the sparse side.
        markers: statistics of the dense side where it is fluorescence or counts, otherwise empty.
        device: where the pixels will be.
        dense_colour: statistics of the dense side where it is brightfield.
    """

    def __init__(
        self,
        colour: ColourStatistics,
        markers: Sequence[MarkerStatistics],
        device: torch.device,
        dense_colour: ColourStatistics | None = None,
    ) -> None:
        self.device = device
        self._colour = _colour_tensors(colour, device)
        self._dense_colour = None if dense_colour is None else _colour_tensors(dense_colour, device)
        self._cofactor = torch.tensor([item.cofactor for item in markers], device=device)
        self._mean = torch.tensor([item.mean for item in markers], device=device).view(1, -1, 1, 1)
        self._std = torch.tensor([item.std for item in markers], device=device).view(1, -1, 1, 1)

    @property
    def colour(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of R, G, B on the scale 0 to 1, each (1, 3, 1, 1)."""
        return self._colour

    def sparse(self, rgb: Tensor) -> Tensor:
        """Return (n, 3, P, P) on the scale 0 to 1, standardised."""
        mean, std = self._colour
        return (rgb - mean) / std

    def brightfield(self, rgb: Tensor) -> Tensor:
        """Return (n, 3, P, P) of a brightfield dense side on the scale 0 to 1, standardised."""
        if self._dense_colour is None:
            raise ValueError("no statistics of a brightfield dense side were given")
        mean, std = self._dense_colour
        return (rgb - mean) / std

    def dense(self, intensity: Tensor, indices: Tensor | None = None) -> Tensor:
        """Return (n, M, P, P) raw intensities, compressed and standardised; `intensity` is overwritten.

        Args:
            intensity: of all markers, or of those at `indices`.
            indices: (M,) which markers; default all, in order.
        """
        cofactor, mean, std = self._cofactor, self._mean, self._std
        if indices is not None:
            cofactor, mean, std = cofactor[indices], mean[:, indices], std[:, indices]
        return _compress(intensity, cofactor).sub_(mean).div_(std)


def _colour_tensors(colour: ColourStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (colour.mean, colour.std))
    return mean, std


def _compress(intensity: Tensor, cofactor: Tensor) -> Tensor:
    scaled = intensity.div_(cofactor.to(intensity.dtype).view(1, -1, 1, 1))
    return torch.copysign(scaled.abs().log1p_(), scaled)
