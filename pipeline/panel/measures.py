"""Compute the measures of each channel of a dense slide from the sums of all blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.panel.block_sums import BlockSums, Sums, bin_values, profile
from pipeline.panel.seams import seam_of

PERCENTILES = (1.0, 25.0, 50.0, 75.0, 99.0, 99.9)
# Of a source's brightest pixels, the share that is looked at for what it lends to others, and the lower edge there.
_BRIGHT = 99.0
_EDGE, _WITHIN = 2.0, 25.0
# Fewer bright pixels than these say nothing of an edge.
_FEWEST_BRIGHT = 50


@dataclass(frozen=True)
class ChannelMeasures:
    """What the whole slide says of one channel, in its own units unless said otherwise.

    Attributes:
        background: the most frequent value up to the median.
        percentiles: by their number.
        largest: value of the brightest single pixel of the windows of level 0.
        saturated: share of the pixels of these windows that hold it.
        not_finite: share of the imaged pixels that are NaN or infinite.
        structure: correlation of a pixel's detail with its neighbour's: 0 for noise.
        seam: step at stitching seams, as share of the channel's range; 0 where there are none.
        seam_um: distance of these seams; 0 where there are none.
    """

    background: float
    percentiles: Mapping[str, float]
    largest: float
    saturated: float
    not_finite: float
    structure: float
    seam: float
    seam_um: float

    @property
    def range(self) -> float:
        """From the background to the 99.9th percentile."""
        return max(self.percentiles["99.9"] - self.background, 0.0)


@dataclass(frozen=True, eq=False)
class PanelMeasures:
    """What the whole slide says of its C channels.

    Attributes:
        imaged: share of the slide that was imaged.
        channels: each alone.
        correlation: (C, C) Pearson r of the details.
        slope: (C, C) of the regression of channel b's detail (column) on channel a's (row).
        lent: (C, C) what b (column) shows at least, above its background, per unit of a (row) where a is brightest:
            the 2nd percentile of the ratio over the brightest 1 % of a.
        tightness: (C, C) the same over the 25th percentile: 1 where b follows a, 0 where it may lack.
    """

    imaged: float
    channels: tuple[ChannelMeasures, ...]
    correlation: Sums
    slope: Sums
    lent: Sums
    tightness: Sums


def measures_of(sums: BlockSums, size_xy: tuple[int, int], dtype: str, mpp: float) -> PanelMeasures:
    """Return the measures of a slide.

    Args:
        sums: of all its blocks.
        size_xy: width and height in pixels of the blocks together.
        dtype: numpy name of the pixel type.
        mpp: um per pixel of the blocks.
    """
    columns, rows = profile(sums.columns, size_xy[0]), profile(sums.rows, size_xy[1])
    structure = sums.detail_beside / np.maximum(sums.detail, 1e-30)
    channels = []
    for number, counts in enumerate(sums.histograms):
        background, percentiles = _levels(counts, dtype)
        range_ = max(percentiles["99.9"] - background, 0.0)
        seam = seam_of((columns[number], rows[number]), range_, mpp)
        channels.append(
            ChannelMeasures(
                background=background,
                percentiles=percentiles,
                largest=float(sums.ceiling.largest[number]) if sums.ceiling.total else 0.0,
                saturated=float(sums.ceiling.pixels[number] / max(sums.ceiling.total, 1)),
                not_finite=float(sums.not_finite[number] / max(sums.imaged, 1)),
                structure=float(structure[number]) if sums.detail[number] > 0 else 0.0,
                seam=seam.step,
                seam_um=seam.distance_um,
            )
        )
    backgrounds = np.array([channel.background for channel in channels])
    lent, tightness = _lower_edges(sums.values - backgrounds[:, None].astype(np.float32))
    correlation, slope = _regressions(sums.details)
    return PanelMeasures(
        imaged=sums.imaged / max(sums.pixels, 1),
        channels=tuple(channels),
        correlation=correlation,
        slope=slope,
        lent=lent,
        tightness=tightness,
    )


def _levels(counts: NDArray[np.int64], dtype: str) -> tuple[float, dict[str, float]]:
    """Return background and percentiles of a histogram."""
    total = int(counts.sum())
    if not total:
        return 0.0, {f"{number:g}": 0.0 for number in PERCENTILES}
    upto = counts.cumsum()
    bins = np.array([int(np.searchsorted(upto, total * number / 100)) for number in PERCENTILES])
    values = bin_values(np.minimum(bins, len(counts) - 1), dtype).tolist()
    median = int(bins[PERCENTILES.index(50.0)])
    # Counts of single values jump where an image was stretched; over a fiftieth of the way to the median they do not.
    width = max(1, median // 50)
    smooth = np.convolve(counts[: median + 1], np.ones(width), mode="same")
    background = float(bin_values(np.array([int(smooth.argmax())]), dtype)[0])
    return background, {f"{number:g}": value for number, value in zip(PERCENTILES, values, strict=True)}


def _regressions(details: NDArray[np.float32]) -> tuple[Sums, Sums]:
    """Return correlation and slope (C, C) of the details; 0 where a channel is constant."""
    count = details.shape[1]
    covariance = (details @ details.T).astype(np.float64) / max(count, 1)
    variance = np.diag(covariance)
    spread = np.sqrt(variance)
    both = spread[:, None] * spread[None]
    correlation = np.where(both > 0, covariance / np.maximum(both, 1e-30), 0.0)
    slope = np.where(variance[:, None] > 0, covariance / np.maximum(variance[:, None], 1e-30), 0.0)
    return np.clip(correlation, -1, 1), slope


def _lower_edges(above: NDArray[np.float32]) -> tuple[Sums, Sums]:
    """Return `lent` and `tightness` (C, C) of values above the background (C, n)."""
    channels, count = above.shape
    lent, tightness = np.zeros((channels, channels)), np.zeros((channels, channels))
    for source in range(channels):
        if count * (100 - _BRIGHT) / 100 < _FEWEST_BRIGHT:
            break
        bright = above[source] >= max(np.percentile(above[source], _BRIGHT), np.finfo(np.float32).tiny)
        if np.count_nonzero(bright) < _FEWEST_BRIGHT:
            continue
        ratios = above[:, bright] / above[source, bright]
        edge, within = np.percentile(ratios, (_EDGE, _WITHIN), axis=1)
        lent[source] = np.maximum(edge, 0)
        tightness[source] = np.where(edge > 0, edge / np.maximum(within, 1e-30), 0)
    np.fill_diagonal(lent, 0)
    np.fill_diagonal(tightness, 0)
    return lent, tightness
