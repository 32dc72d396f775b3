"""Collect what a run trains on: patches, targets, statistics, and the views made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.settings import RunSettings
from pipeline.training.augmentation import Augmentation
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.normalisation import (
    ColourStatistics,
    MarkerStatistics,
    Normalisation,
    colour_statistics,
)
from pipeline.training.order import Rows
from pipeline.training.patches import MEMORY_BUDGET_BYTES, TrainingPatches
from pipeline.training.processes import Processes
from pipeline.training.published_views import PublishedViewMaker
from pipeline.training.rows import TrainingRows
from pipeline.training.views import MakeViews, ViewMaker

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training pixels, by which views are normalised.

    Attributes:
        colour: of the sparse side.
        markers: of the dense side where it is fluorescence or counts, otherwise empty.
        dense_colour: of the dense side where it is brightfield, otherwise None.
    """

    colour: ColourStatistics
    markers: tuple[MarkerStatistics, ...] = ()
    dense_colour: ColourStatistics | None = None


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The patches of a run, their statistics, and what makes one view per branch of a batch of them."""

    patches: TrainingPatches
    statistics: Statistics
    make_views: MakeViews


def read_data(
    rows: TrainingRows,
    settings: RunSettings,
    *,
    size_px: int,
    targets: Floats | None,
    pretrained_colour: ColourStatistics | None,
    device: torch.device,
    processes: Processes,
) -> TrainingData:
    """Open the training patches, measure their statistics and set up their views.

    Args:
        rows: the training patches.
        settings: of the run.
        size_px: side of a view.
        targets: (N, T), what a target branch predicts; None without one.
        pretrained_colour: normalisation that a pretrained encoder brings along; None takes that of the patches.
        device: where views are made.
        processes: which of how many this is; the statistics are those of all patches.

    Raises:
        StatedError: if the published views are asked for and a dense side is not of uint8.
    """
    has_dense = "dense" in settings.modalities
    if settings.augmentation == "mfl" and has_dense:
        _check_eight_bits(rows)
    budget_bytes = MEMORY_BUDGET_BYTES // processes.local_count
    patches = TrainingPatches(rows, dense=has_dense, targets=targets, budget_bytes=budget_bytes)
    found = _statistics(patches, settings, processes)
    statistics = Statistics(pretrained_colour or found.colour, found.markers, found.dense_colour)
    normalisation = Normalisation(statistics.colour, statistics.markers, device, statistics.dense_colour)
    return TrainingData(patches, statistics, _view_maker(settings, size_px, normalisation, rows))


def _view_maker(settings: RunSettings, size_px: int, normalisation: Normalisation, rows: TrainingRows) -> MakeViews:
    if settings.augmentation == "mfl":
        return PublishedViewMaker(
            settings.encoded,
            size_px,
            normalisation=normalisation,
            dense_kind=rows.dense_kind,
            components=rows.components,
        )
    dense_colour = settings.colour if settings.dense_colour is None else settings.dense_colour
    return ViewMaker(
        settings.encoded,
        Augmentation(size_px, settings.crop, settings.colour, settings.blur, settings.channel_dropout, dense_colour),
        shared_geometry=settings.shared_geometry,
        normalisation=normalisation,
        dense_kind=rows.dense_kind,
        components=rows.components,
    )


def _check_eight_bits(rows: TrainingRows) -> None:
    """Refuse dense sides in which 255 is not white, because the published views invert and clip there."""
    for slide in rows.slides:
        if slide.store.dense_dtype != np.uint8:
            raise StatedError(
                slide=slide.store.attributes.slide,
                file=slide.store.path,
                expected="a dense side of uint8, for augmentation mfl",
                found=str(slide.store.dense_dtype),
            )


def _statistics(patches: TrainingPatches, settings: RunSettings, processes: Processes) -> Statistics:
    """Measure the sparse side and, where it is normalised by statistics, the dense side."""

    def share() -> Iterator[Rows]:
        return islice(patches.blocks(), processes.rank, None, processes.count)

    colour = colour_statistics((patches.sparse(block) for block in share()), processes.sum)
    if "dense" not in settings.modalities:
        return Statistics(colour)

    def dense_blocks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        return (patches.dense(block) for block in share())

    kind = dense_kind(patches.rows.dense_kind)
    return Statistics(colour, *kind.measure(patches.rows.markers, dense_blocks, processes.sum))
