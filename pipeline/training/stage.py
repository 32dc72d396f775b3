"""Stage train: train a sparse encoder on stores and split."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.provenance import file_digest, finished
from pipeline.settings import RunSettings
from pipeline.training.branch_checkpoint import BRANCHES_NAME, write_branches
from pipeline.training.data import TrainingData, read_data
from pipeline.training.encoder_folder import WEIGHTS_NAME
from pipeline.training.export import TrainedEncoder, write_encoder
from pipeline.training.features import encoder_range, pixel_batches
from pipeline.training.loop import Trainer
from pipeline.training.model import build_model
from pipeline.training.monitoring import write_curve
from pipeline.training.precision import autocast
from pipeline.training.processes import Processes
from pipeline.training.rows import TrainingRows
from pipeline.training.state import TrainingState, agreed_state, json_lines, load_state, recipe_of
from pipeline.training.targets import training_targets

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
    """Train one run, or resume it where it was interrupted, and write its results.

    Raises:
        StatedError: for targets or weights that are absent or do not fit, an architecture that timm does not know
            or that cannot take the patches, a batch that the processes cannot share, NaN or infinite pixels or a loss
            that is not finite.
    """
    size_px = settings.size_px or rows.size_px
    if size_px > rows.size_px:
        raise StatedError(expected=f"size_px of run {run} up to the patches' {rows.size_px}", found=str(size_px))
    processes.rows(settings.batch_size)
    device = processes.device()
    torch.backends.cudnn.benchmark = True
    # Views are made by threads of our own, as many as torch has.
    cv2.setNumThreads(1)
    targets = training_targets(rows, settings.target) if "target" in settings.modalities else None
    outputs_of_target = None if targets is None else targets.shape[1]
    model = build_model(rows, settings, size_px=size_px, outputs=outputs_of_target, device=device)
    data = read_data(
        rows,
        settings,
        size_px=size_px,
        targets=targets,
        pretrained_colour=model.pretrained_colour,
        device=device,
        processes=processes,
    )
    recipe = recipe_of({"settings": asdict(settings), "precision": model.precision, "provenance": provenance})
    state = TrainingState()
    if processes.first:
        state = load_state(outputs.state, recipe) or state
        say(_opening_line(run, data, model.precision, device, state, processes))
    state = agreed_state(state, processes)
    trainer = Trainer(
        run,
        model.network,
        data.patches,
        data.make_views,
        settings,
        precision=model.precision,
        device=device,
        processes=processes,
    )
    history = trainer.fit(state, outputs.state, recipe)
    if not processes.first:
        return
    encoder = model.trained_encoder()
    trained = TrainedEncoder(
        run=run,
        network=encoder,
        settings=settings,
        model_args=model.model_args,
        size_px=size_px,
        colour=data.statistics.colour,
        markers=data.statistics.markers,
        dense_colour=data.statistics.dense_colour,
        rows=rows,
        precision=model.precision,
        bf16_cosine=_bf16_cosine(encoder, data, size_px, device),
        fitted=encoder_range(encoder, data.patches, data.statistics.colour, size_px, device),
        last=history[-1] if history else None,
    )
    _write(run, trained, history, outputs, provenance)
    write_branches(outputs.branches, model.network, file_digest(outputs.encoder / WEIGHTS_NAME))
    shutil.rmtree(outputs.state, ignore_errors=True)


def _bf16_cosine(encoder: torch.nn.Module, data: TrainingData, size_px: int, device: torch.device) -> float:
    """Return the smallest cosine between bfloat16 and float32 features, over patches spread through the cohort."""
    patches = data.patches
    numbers = np.unique(np.linspace(0, len(patches) - 1, _COSINE_PATCHES).astype(np.int64))
    cosines = []
    for pixels in pixel_batches(patches, numbers, data.statistics.colour, size_px, device, _COSINE_PIXELS):
        with torch.inference_mode():
            exact = encoder(pixels).float()
            with autocast("bf16", device):
                fast = encoder(pixels).float()
        cosines.append(cosine_similarity(exact, fast).min())
    return float(torch.stack(cosines).min())


def _opening_line(
    run: str,
    data: TrainingData,
    precision: str,
    device: torch.device,
    state: TrainingState,
    processes: Processes,
) -> str:
    place = "memory" if data.patches.in_memory else "the stores"
    start = f", going on at epoch {state.epoch + 1}, step {state.step + 1}" if state.network else ""
    workers = f", {processes.count} processes" if processes.count > 1 else ""
    return f"train {run}: {len(data.patches)} patches from {place}, {device.type}, {precision}{workers}{start}"


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
