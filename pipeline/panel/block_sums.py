"""Sum what one block of a dense slide shows of its channels; sums of blocks add up to the slide's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.panel.dense_level import DenseLevel
from pipeline.slides.base import Pixels
from pipeline.slides.imaged import LARGEST_SPECKS, void_of

Floats = NDArray[np.float32]
Sums = NDArray[np.float64]
# Detail is what a pixel differs by from the mean of a square around it, of this side: cells stay, regions go.
DETAIL_PX = 15
# Float pixels fall into as many bins as uint16 has values: by their first 16 bits, which order positive numbers and
# are as wide as 0.4 to 0.8 % of the value.
_FLOAT_BITS = 16


@dataclass(frozen=True, eq=False)
class Ceiling:
    """How often a channel's largest value occurs among the pixels that were looked at, by channel (C,)."""

    largest: Sums
    pixels: Sums
    total: int


@dataclass(frozen=True, eq=False)
class Profiles:
    """Sums over the imaged pixels of some columns or rows, the place of the first of them, and how many there were."""

    start: int
    sums: Floats
    pixels: Floats


@dataclass(frozen=True, eq=False)
class BlockSums:
    """What blocks tell of C channels.

    Attributes:
        pixels: how many there are.
        imaged: how many of them were imaged; all else is about these.
        not_finite: (C,) how many of those are NaN or infinite.
        histograms: by channel, counts of each bin; see `bin_values`.
        ceiling: of single pixels of level 0.
        detail: (C,) sum of the squares of the detail.
        detail_beside: (C,) sum of the products of the detail with that of the next pixel; of both axes, halved.
        columns: mean profiles along x, by block.
        rows: the same along y.
        values: (C, n) a sample of the pixels.
        details: (C, n) the detail of the same pixels.
    """

    pixels: int
    imaged: int
    not_finite: Sums
    histograms: tuple[NDArray[np.int64], ...]
    ceiling: Ceiling
    detail: Sums
    detail_beside: Sums
    columns: tuple[Profiles, ...]
    rows: tuple[Profiles, ...]
    values: Floats
    details: Floats


def block_sums(block_cyx: Pixels, corner_xy: tuple[int, int], level: DenseLevel, stride: int) -> BlockSums:
    """Return what a block tells.

    Args:
        block_cyx: its pixels.
        corner_xy: its first pixel.
        level: which can read single pixels of level 0 there.
        stride: of the sample, along both axes.
    """
    cv2.setNumThreads(1)
    imaged = _imaged(block_cyx)
    finite = np.isfinite(block_cyx).all(axis=0) if block_cyx.dtype.kind == "f" else None
    used = imaged if finite is None else imaged & finite
    every = (slice(None, None, stride), slice(None, None, stride))
    taken = used[every]
    weights = np.asarray(cv2.blur(used.astype(np.float32), (DETAIL_PX, DETAIL_PX)), dtype=np.float32)
    sums: list[tuple[Any, ...]] = []
    for plane in block_cyx:
        values = np.where(used, plane, 0).astype(np.float32)
        detail = _detail(values, used, weights)
        beside = (float((detail[:, :-1] * detail[:, 1:]).sum()) + float((detail[:-1] * detail[1:]).sum())) / 2
        sums.append(
            (
                _histogram(plane[used]),
                float((detail * detail).sum()),
                beside,
                values.sum(axis=0),
                values.sum(axis=1),
                values[every][taken],
                detail[every][taken],
                0 if finite is None else np.count_nonzero(imaged & ~np.isfinite(plane)),
            )
        )
    histograms, squares, besides, columns, rows, values_, details, wrong = zip(*sums, strict=True)
    left, top = corner_xy
    return BlockSums(
        pixels=used.size,
        imaged=int(np.count_nonzero(imaged)),
        not_finite=np.array(wrong, np.float64),
        histograms=tuple(histograms),
        ceiling=_ceiling(level.window(corner_xy, (block_cyx.shape[1], block_cyx.shape[2])), len(block_cyx)),
        detail=np.array(squares, np.float64),
        detail_beside=np.array(besides, np.float64),
        columns=(Profiles(left, np.stack(columns), used.sum(axis=0, dtype=np.float32)),),
        rows=(Profiles(top, np.stack(rows), used.sum(axis=1, dtype=np.float32)),),
        values=np.stack(values_),
        details=np.stack(details),
    )


def added(parts: Sequence[BlockSums]) -> BlockSums:
    """Return what several blocks tell together; their order matters to the sample's only."""
    return BlockSums(
        pixels=sum(part.pixels for part in parts),
        imaged=sum(part.imaged for part in parts),
        not_finite=_total(part.not_finite for part in parts),
        histograms=tuple(_longest_total(counts) for counts in zip(*(part.histograms for part in parts), strict=True)),
        ceiling=_highest([part.ceiling for part in parts]),
        detail=_total(part.detail for part in parts),
        detail_beside=_total(part.detail_beside for part in parts),
        columns=tuple(profile for part in parts for profile in part.columns),
        rows=tuple(profile for part in parts for profile in part.rows),
        values=np.concatenate([part.values for part in parts], axis=1),
        details=np.concatenate([part.details for part in parts], axis=1),
    )


def bin_values(bins: NDArray[np.int64], dtype: str) -> NDArray[np.float64]:
    """Return the value that each bin of a histogram stands for: itself for whole numbers, else the bin's middle."""
    if np.dtype(dtype).kind != "f":
        return bins.astype(np.float64)
    edges = (np.stack([bins, bins + 1]).astype(np.uint32) << _FLOAT_BITS).view(np.float32).astype(np.float64)
    return np.where(bins == 0, 0.0, edges.mean(axis=0))


def profile(parts: Sequence[Profiles], length: int) -> Sums:
    """Return the mean over the imaged pixels of each column, or row, of the whole slide (C, length).

    Nan where none was imaged.
    """
    sums, pixels = np.zeros((len(parts[0].sums), length)), np.zeros(length)
    for part in parts:
        place = slice(part.start, part.start + len(part.pixels))
        sums[:, place] += part.sums
        pixels[place] += part.pixels
    return np.asarray(np.where(pixels > 0, sums / np.maximum(pixels, 1), np.nan))


def _imaged(block_cyx: Pixels) -> NDArray[np.bool_]:
    """Return (h, w) where the block was imaged; all of it where the image itself reaches the value of what was not."""
    void = void_of(np.moveaxis(block_cyx, 0, -1), is_rgb=False)
    if void is None or void.specks > LARGEST_SPECKS:
        return np.ones(block_cyx.shape[1:], dtype=np.bool_)
    return ~void.mask


def _detail(values: Floats, used: NDArray[np.bool_], weights: Floats) -> Floats:
    """Return the difference of each used pixel from the mean of the used ones around it; 0 elsewhere."""
    around = cv2.blur(values, (DETAIL_PX, DETAIL_PX)) / np.maximum(weights, 1e-6)
    return np.asarray(np.where(used, values - around, 0), dtype=np.float32)


def _histogram(values: Pixels) -> NDArray[np.int64]:
    if values.dtype.kind == "f":
        # Negative values count as 0: of intensities they are what a subtraction left of the noise.
        values = np.maximum(values, 0).astype(np.float32).view(np.uint32) >> _FLOAT_BITS
    return np.bincount(values, minlength=1).astype(np.int64)


def _ceiling(window_cyx: Pixels | None, channels: int) -> Ceiling:
    if window_cyx is None:
        return Ceiling(np.full(channels, -np.inf), np.zeros(channels), 0)
    flat = window_cyx.reshape(len(window_cyx), -1)
    largest = np.where(np.isfinite(flat), flat, -np.inf).max(axis=1).astype(np.float64)
    return Ceiling(largest, (flat == largest[:, None]).sum(axis=1).astype(np.float64), flat.shape[1])


def _highest(parts: Sequence[Ceiling]) -> Ceiling:
    largest = np.max([part.largest for part in parts], axis=0)
    pixels = _total(np.where(part.largest == largest, part.pixels, 0) for part in parts)
    return Ceiling(largest, pixels, sum(part.total for part in parts))


def _total(values: Iterable[Sums]) -> Sums:
    return np.asarray(np.sum(list(values), axis=0), dtype=np.float64)


def _longest_total(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    total = np.zeros(max(map(len, counts)), dtype=np.int64)
    for part in counts:
        total[: len(part)] += part
    return total
