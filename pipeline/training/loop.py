"""The training loop: plain, the same on a GPU and on a CPU, and exact across interruptions.

Nothing random is carried from step to step: order, views and the network's own randomness are seeded anew by run,
epoch and step. A training that was stopped anywhere therefore goes on with the numbers it would have had, also in
another number of processes; only randomness within a network (dropout) is then drawn anew, per process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import StatedError
from pipeline.progress import progress, say
from pipeline.settings import RunSettings
from pipeline.training.batch_norm import synchronised_batch_norm
from pipeline.training.batches import batches_ahead, partners
from pipeline.training.branches import BranchNetwork, BranchOutput
from pipeline.training.draws import Draws, seed_of
from pipeline.training.losses import Objective, Terms, objective_of
from pipeline.training.low_rank import freeze_batch_norm
from pipeline.training.monitoring import effective_rank, mean_std
from pipeline.training.order import Rows, epoch_order, groups_of, read_ahead, shuffled_windows, stored_blocks
from pipeline.training.parts import aligned_parts
from pipeline.training.patches import TrainingPatches, reading_threads
from pipeline.training.precision import Precision, autocast
from pipeline.training.processes import Processes
from pipeline.training.state import TrainingState, asked_to_stop, save_state
from pipeline.training.targets import target_terms
from pipeline.training.views import Batch, MakeViews

STOPPED_BY_SIGTERM = 143


@dataclass(frozen=True)
class TrainingStep:
    """One step to be done: its epoch and number within it, from 0, and its patches."""

    epoch: int
    number: int
    batch: Batch
    ends_epoch: bool


@dataclass(frozen=True)
class StepResult:
    """What a step gave: the figures by name, and the branches' outputs for the whole batch."""

    figures: dict[str, float]
    outputs: list[BranchOutput]


class Trainer:
    """Carries out one run.

    Args:
        name: of the run, for the progress line.
        network: freshly initialised, on its device.
        patches: the training patches.
        make_views: from batches to views.
        settings: of the run.
        precision: number format of the forward pass.
        device: where the network is.
        processes: which of how many this is; each works on its rows of every batch.
    """

    def __init__(
        self,
        name: str,
        network: BranchNetwork,
        patches: TrainingPatches,
        make_views: MakeViews,
        settings: RunSettings,
        *,
        precision: Precision,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._name = name
        self._network = network
        self._patches = patches
        self._make_views = make_views
        self._settings = settings
        self._precision = precision
        self._device = device
        self._processes = processes
        self._rows = processes.rows(settings.batch_size)
        self._objective: Objective = objective_of(settings)
        groups = _parameter_groups(network, settings.weight_decay)
        self._optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
        self._steps_per_epoch = len(patches) // settings.batch_size
        self._generator = torch.Generator(device)

    def fit(self, state: TrainingState, state_folder: Path, recipe: str) -> list[dict[str, Any]]:
        """Train from `state` to the last epoch; returns the history.

        The state is saved after every epoch, and after the step in which SIGTERM arrives; the process then exits
        with 143.

        Raises:
            StatedError: if a term of the loss is not finite.
        """
        if state.network:
            self._network.load_state_dict(state.network)
            self._optimiser.load_state_dict(state.optimiser)
        self._network.train()
        if self._settings.low_rank:
            freeze_batch_norm(self._network.exported_encoder)
        left = self._settings.epochs * self._steps_per_epoch - state.epoch * self._steps_per_epoch - state.step
        size = self._settings.batch_size
        steps = self._steps(state)
        if self._processes.first:
            steps = progress(steps, label=f"train {self._name}", unit="patches", total=left, units_per_item=size)
        with asked_to_stop() as stop:
            start = time.perf_counter()
            for step in steps:
                result = self._do(step)
                start, before = time.perf_counter(), start
                _add(state.sums, {**result.figures, "seconds": start - before})
                state.step = step.number + 1
                if step.ends_epoch:
                    self._end_epoch(state, result)
                stopped = self._processes.any(stop.received or self._processes.abandoned())
                if self._processes.first and (step.ends_epoch or stopped):
                    state.network = self._network.state_dict()
                    state.optimiser = self._optimiser.state_dict()
                    save_state(state_folder, state, recipe)
                if stopped:
                    self._stop(state_folder)
        return state.history

    def _stop(self, state_folder: Path) -> None:
        """End the training; the first process, which has saved the state, is waited for."""
        if self._processes.first:
            say(f"train {self._name}: stopped by SIGTERM; the same command goes on from {state_folder}")
        self._processes.any(True)
        raise SystemExit(STOPPED_BY_SIGTERM)

    def _steps(self, state: TrainingState) -> Iterator[TrainingStep]:
        """Yield all steps from the state's position on."""
        settings = self._settings
        dense, pin = "dense" in settings.modalities, self._device.type == "cuda"
        threads = reading_threads(self._processes.local_count)
        partner = partners(len(self._patches), settings.pairing, seed=settings.seed)
        first = state.step
        for epoch in range(state.epoch, settings.epochs):
            windows = self._windows(epoch)
            order = epoch_order(windows, seed=settings.seed, epoch=epoch)
            groups = [group[self._rows] for group in groups_of(order, settings.batch_size)[first:]]
            ahead = None
            if len(windows) > 1:
                # The processes of a machine have one cache of what is read.
                ahead = map(self._processes.share, read_ahead(windows, settings.batch_size, first))
            batches = batches_ahead(self._patches, groups, partner, dense=dense, pin=pin, threads=threads, ahead=ahead)
            for number, batch in enumerate(batches, start=first):
                yield TrainingStep(epoch, number, batch, number + 1 == self._steps_per_epoch)
            first = 0

    def _windows(self, epoch: int) -> list[Rows]:
        """Return the windows that an epoch takes one after the other, shuffling each.

        Of `permutation` one of all patches.
        """
        if self._settings.order == "permutation":
            return [np.arange(len(self._patches))]
        blocks = stored_blocks(self._patches.slide, self._patches.row)
        return shuffled_windows(blocks, seed=self._settings.seed, epoch=epoch)

    def _do(self, step: TrainingStep) -> StepResult:
        """Return one step of the optimiser."""
        seed = seed_of(self._settings.seed, "step", step.epoch, step.number)
        rank = self._processes.rank
        torch.manual_seed(seed_of(seed, rank) if rank else seed)
        self._generator.manual_seed(seed)
        done = step.epoch * self._steps_per_epoch + step.number
        rate = learning_rate(done, self._settings.epochs * self._steps_per_epoch, self._settings)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        batch = step.batch.to(self._device)
        draws = Draws(self._generator, self._settings.batch_size, self._rows)
        views = self._make_views(batch, draws)
        with autocast(self._precision, self._device), synchronised_batch_norm(self._processes):
            outputs = self._network([view.contiguous(memory_format=torch.channels_last) for view in views])
        outputs = [self._whole(item, with_features=step.ends_epoch) for item in outputs]
        terms = self._terms(outputs, batch.target)
        loss = torch.stack(list(terms.values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._processes.sum_gradients(self._network.parameters())
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_norm)
        figures = _figures(terms, loss, norm)
        _check_finite(figures, step)
        self._optimiser.step()
        return StepResult({**figures, "lr": rate}, outputs)

    def _terms(self, outputs: Sequence[BranchOutput], target: Tensor | None) -> Terms:
        """Return all terms of the loss.

        Args:
            outputs: of all branches, for the whole batch.
            target: (n, T) of this process's rows; None without a target branch.
        """
        settings = self._settings
        terms = self._objective([item.embedding for item in outputs]) if settings.pairs else {}
        if target is not None:
            predicted = [item.predicted for item in outputs if item.predicted is not None]
            whole = self._processes.gather(target)
            terms = terms | target_terms(predicted, whole, settings.target, settings.weight_of_target)
        return terms

    def _whole(self, part: BranchOutput, *, with_features: bool) -> BranchOutput:
        """Return the output for the whole batch, in float32.

        The features, which the loss does not see, where asked for.
        """
        features = part.features.detach().float()
        if with_features:
            features = self._processes.gather(features)
        predicted = None if part.predicted is None else self._processes.gather(part.predicted.float())
        return BranchOutput(features, self._processes.gather(part.embedding.float()), predicted)

    def _end_epoch(self, state: TrainingState, last: StepResult) -> None:
        """Add a line to the history and moves the state to the next epoch."""
        seconds = state.sums.pop("seconds")
        means = {name: value / self._steps_per_epoch for name, value in state.sums.items()}
        means["lr"] = last.figures["lr"]
        embeddings = [item.embedding.detach() for item in last.outputs]
        if self._settings.alignment == "parts":
            embeddings = aligned_parts(embeddings)
        features = next(
            item.features
            for branch, item in zip(self._network.branches, last.outputs, strict=True)
            if branch.modality == "sparse"
        )
        line = {
            "epoch": state.epoch + 1,
            "step": (state.epoch + 1) * self._steps_per_epoch,
            **means,
            "embedding_std": min(mean_std(z) for z in embeddings),
            "embedding_rank": min(effective_rank(z) for z in embeddings),
            "feature_std": mean_std(features),
            "feature_rank": effective_rank(features),
            "images_per_s": self._steps_per_epoch * self._settings.batch_size / seconds,
        }
        state.history.append(line)
        state.epoch, state.step, state.sums = state.epoch + 1, 0, {}


def learning_rate(step: int, total: int, settings: RunSettings) -> float:
    """Return learning rate of a step, counted from 0.

    A linear rise, then half a cosine that would reach 0 at `total`.
    """
    rising = round(settings.warmup * total)
    if step < rising:
        return settings.lr * (step + 1) / rising
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: weights decay, biases and the scales of normalisation layers do not."""
    weights = [item for item in network.parameters() if item.ndim > 1]
    others = [item for item in network.parameters() if item.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _figures(terms: Terms, loss: Tensor, norm: Tensor) -> dict[str, float]:
    """Return all figures with one transfer from the device."""
    named = {"loss": loss, **terms, "gradient_norm": norm}
    values = torch.stack([value.detach().float() for value in named.values()]).tolist()
    return dict(zip(named, values, strict=True))


def _check_finite(figures: dict[str, float], step: TrainingStep) -> None:
    bad = [name for name, value in figures.items() if not math.isfinite(value) and name != "loss"]
    if bad:
        raise StatedError(
            expected="finite terms of the loss",
            found=f"{bad[0]} is {figures[bad[0]]} in epoch {step.epoch + 1}, step {step.number + 1}; "
            "a lower lr or clip_norm may help",
        )


def _add(sums: dict[str, float], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        sums[name] = sums.get(name, 0.0) + value
