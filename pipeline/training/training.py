"""The stage train: from the stores and the split to a sparse encoder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.provenance import file_digest, finished
from pipeline.settings import RunSettings
from pipeline.settings.branches import branch_graph
from pipeline.training.augmentation import Augmentation
from pipeline.training.branches import BranchNetwork
from pipeline.training.curve import write_curve
from pipeline.training.encoders import WEIGHTS_NAME
from pipeline.training.export import TrainedEncoder, write_encoder
from pipeline.training.features import encoder_range, pixel_batches
from pipeline.training.kept_branches import BRANCHES_NAME, write_branches
from pipeline.training.loop import Trainer
from pipeline.training.low_rank import add_low_rank, merge_low_rank
from pipeline.training.model_arguments import AS_NAMED
from pipeline.training.normalisation import (
    ColourStatistics,
    MarkerStatistics,
    Normalisation,
    colour_statistics,
    marker_statistics,
)
from pipeline.training.order import Rows
from pipeline.training.patches import MEMORY_BUDGET_BYTES, TrainingPatches
from pipeline.training.precision import autocast, resolve_precision
from pipeline.training.processes import Processes
from pipeline.training.published_views import PublishedViewMaker
from pipeline.training.rows import TrainingRows
from pipeline.training.start import read_start
from pipeline.training.state import TrainingState, agreed_state, json_lines, load_state, recipe_of
from pipeline.training.supervised import training_targets
from pipeline.training.views import MakeViews, ViewMaker

_COSINE_PATCHES = 256
_COSINE_PIXELS = 256 * 256**2
_COLLAPSED_RANK = 2.0


@dataclass(frozen=True)
class TrainingOutputs:
    """Where the results go; the other branches and the state of an unfinished training lie beside the encoder."""

    encoder: Path
    metrics: Path
    curve: Path

    @property
    def branches(self) -> Path:
        """File of what was trained besides the encoder."""
        return self.encoder.parent / BRANCHES_NAME

    @property
    def state(self) -> Path:
        """Folder of the state."""
        return self.encoder.parent / "state"


def store_digests(rows: TrainingRows) -> dict[str, str]:
    """Hash by `tile/{slide}.zarr` of what each store says of itself, which names its sources and its recipe."""
    return {
        f"tile/{item.store.attributes.slide}.zarr": file_digest(item.store.path / "zarr.json") for item in rows.slides
    }


def train(
    run: str,
    rows: TrainingRows,
    settings: RunSettings,
    outputs: TrainingOutputs,
    provenance: dict[str, Any],
    processes: Processes,
) -> None:
    """Trains one run, or goes on with it where it was interrupted, and writes its results.

    Raises:
        StatedError: for targets or weights that are not there or do not fit, an architecture that timm does not know
            or that cannot take the patches, a batch that the processes cannot share, non-finite pixels or a loss that
            is not finite.
    """
    size_px = settings.size_px or rows.size_px
    if size_px > rows.size_px:
        raise StatedError(expected=f"size_px of run {run} up to the patches' {rows.size_px}", found=str(size_px))
    if settings.augmentation == "mfl" and "dense" in settings.modalities:
        _check_eight_bits(rows)
    processes.rows(settings.batch_size)
    device = processes.device()
    torch.backends.cudnn.benchmark = True
    # Views are made by threads of our own, as many as torch has.
    cv2.setNumThreads(1)
    supervised = "target" in settings.modalities
    targets = training_targets(rows, settings.target) if supervised else None
    start = read_start(Path(settings.weights), settings.encoder, size_px) if settings.weights else None
    network = BranchNetwork(
        settings.encoded,
        encoder=settings.encoder,
        model_args=start.model_args if start else AS_NAMED,
        channels={branch.encoder: rows.channels_of(branch) for branch in branch_graph(settings.encoded)},
        size_px=size_px,
        dense_kind=rows.dense_kind,
        projector=settings.projector if targets is None else targets.shape[1:],
        seed=settings.seed,
    )
    if start:
        network.yielded.load_state_dict(start.weights)
    if settings.low_rank:
        add_low_rank(network.yielded, settings.low_rank, settings.seed)
    network.to(memory_format=torch.channels_last).to(device)
    precision = resolve_precision(settings.precision, network, device)
    budget_bytes = MEMORY_BUDGET_BYTES // processes.local_count
    patches = TrainingPatches(rows, dense="dense" in settings.modalities, targets=targets, budget_bytes=budget_bytes)
    colour, markers, dense_colour = _statistics(patches, settings, processes)
    colour = start.colour if start else colour
    normalisation = Normalisation(colour, markers, device, dense_colour)
    make_views = _view_maker(settings, size_px, normalisation, rows)
    recipe = recipe_of({"settings": asdict(settings), "precision": precision, "provenance": provenance})
    state = TrainingState()
    if processes.first:
        state = load_state(outputs.state, recipe) or state
        say(_opening_line(run, patches, precision, device, state, processes))
    state = agreed_state(state, processes)
    trainer = Trainer(
        run, network, patches, make_views, settings, precision=precision, device=device, processes=processes
    )
    history = trainer.fit(state, outputs.state, recipe)
    if not processes.first:
        return
    encoder = network.yielded.eval()
    merge_low_rank(encoder)
    trained = TrainedEncoder(
        run=run,
        network=encoder,
        settings=settings,
        model_args=start.model_args if start else AS_NAMED,
        size_px=size_px,
        colour=colour,
        markers=markers,
        dense_colour=dense_colour,
        rows=rows,
        precision=precision,
        bf16_cosine=_bf16_cosine(encoder, patches, colour, size_px, device),
        fitted=encoder_range(encoder, patches, colour, size_px, device),
        last=history[-1] if history else None,
    )
    _write(run, trained, history, outputs, provenance)
    write_branches(outputs.branches, network, file_digest(outputs.encoder / WEIGHTS_NAME))
    shutil.rmtree(outputs.state, ignore_errors=True)


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
    """Refuses dense sides of which 255 is not white, because the published views invert and cut there."""
    for slide in rows.slides:
        if slide.store.dense_dtype != np.uint8:
            raise StatedError(
                slide=slide.store.attributes.slide,
                file=slide.store.path,
                expected="a dense side of uint8, for augmentation mfl",
                found=str(slide.store.dense_dtype),
            )


def _statistics(
    patches: TrainingPatches, settings: RunSettings, processes: Processes
) -> tuple[ColourStatistics, tuple[MarkerStatistics, ...], ColourStatistics | None]:
    """Of the sparse side, and of the dense side where it is no mask; labels need none."""

    def share() -> Iterator[Rows]:
        return islice(patches.blocks(), processes.rank, None, processes.count)

    colour = colour_statistics((patches.sparse(block) for block in share()), processes.sum)
    if "dense" not in settings.modalities or patches.rows.dense_kind == "mask":
        return colour, (), None
    if patches.rows.dense_kind == "brightfield":
        pixels = (np.moveaxis(patches.dense(block)[0], 1, -1).astype(np.uint8) for block in share())
        return colour, (), colour_statistics(pixels, processes.sum)

    def dense_blocks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        return (patches.dense(block) for block in share())

    cofactor = 1.0 if patches.rows.dense_kind == "counts" else None
    return colour, marker_statistics(patches.rows.markers, dense_blocks, processes.sum, cofactor_of_all=cofactor), None


def _bf16_cosine(
    encoder: torch.nn.Module, patches: TrainingPatches, colour: ColourStatistics, size_px: int, device: torch.device
) -> float:
    """Smallest cosine between bfloat16 and float32 features, over training patches spread through the cohort."""
    numbers = np.unique(np.linspace(0, len(patches) - 1, _COSINE_PATCHES).astype(np.int64))
    cosines = []
    for pixels in pixel_batches(patches, numbers, colour, size_px, device, _COSINE_PIXELS):
        with torch.inference_mode():
            exact = encoder(pixels).float()
            with autocast("bf16", device):
                fast = encoder(pixels).float()
        cosines.append(cosine_similarity(exact, fast).min())
    return float(torch.stack(cosines).min())


def _opening_line(
    run: str,
    patches: TrainingPatches,
    precision: str,
    device: torch.device,
    state: TrainingState,
    processes: Processes,
) -> str:
    place = "memory" if patches.in_memory else "the stores"
    start = f", going on at epoch {state.epoch + 1}, step {state.step + 1}" if state.network else ""
    workers = f", {processes.count} processes" if processes.count > 1 else ""
    return f"train {run}: {len(patches)} patches from {place}, {device.type}, {precision}{workers}{start}"


def _write(
    run: str,
    trained: TrainedEncoder,
    history: list[dict[str, Any]],
    outputs: TrainingOutputs,
    provenance: dict[str, Any],
) -> None:
    rank = history[-1]["feature_rank"] if history else None
    if rank is not None and rank < _COLLAPSED_RANK:
        say(f"train {run}: the features have collapsed to an effective rank of {rank:.2f}; their scores mean nothing")
    with finished(outputs.metrics) as temporary:
        temporary.write_text(json_lines(history), encoding="utf-8")
    write_curve(outputs.curve, run, history)
    write_encoder(outputs.encoder, trained, provenance)
