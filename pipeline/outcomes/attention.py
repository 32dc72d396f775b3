"""Gated attention over the patches of a patient: which patches matter is learned (Ilse et al., ICML 2018).

Nothing is chosen on the way: units, rate and epochs are fixed, and the last epoch's weights are kept. A patient counts
as one bag, whatever its number of slides and patches; classes count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from pipeline.evaluation.probes import centre_and_scale
from pipeline.outcomes.bags import Bags
from pipeline.outcomes.cox import partial_likelihood
from pipeline.outcomes.folds import fitted_and_asked
from pipeline.outcomes.task import OutcomeTask
from pipeline.settings import OutcomesSettings

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Integers = NDArray[np.int64]

_UNITS = 128
_ATTENTION_UNITS = 64
_DROPOUT = 0.25
_RATE = 1e-3
_DECAY = 1e-2
_PATIENTS_AT_ONCE = 16
_PATCHES_AT_ONCE = 128  # of each patient in a step
_ROWS_AT_ONCE = 16_384


class GatedAttention(nn.Module):
    """A bag of features to one vector, as their mean weighted by a gated attention, and on to K predictions."""

    def __init__(self, width: int, predictions: int) -> None:
        super().__init__()
        self.units = nn.Sequential(nn.Linear(width, _UNITS), nn.ReLU())
        self.value = nn.Linear(_UNITS, _ATTENTION_UNITS)
        self.gate = nn.Linear(_UNITS, _ATTENTION_UNITS)
        self.weight = nn.Linear(_ATTENTION_UNITS, 1)
        self.head = nn.Sequential(nn.Dropout(_DROPOUT), nn.Linear(_UNITS, predictions))

    def forward(self, bags: Tensor) -> Tensor:
        """Return predictions (B, K) of bags (B, m, D)."""
        units, logits = self.attended(bags)
        return self.of_attended(units, logits)

    def attended(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return units (…, m, U) of patches (…, m, D), and the logarithm of how much each counts (…, m)."""
        units = self.units(features)
        return units, self.weight(torch.tanh(self.value(units)) * torch.sigmoid(self.gate(units))).squeeze(-1)

    def of_attended(self, units: Tensor, logits: Tensor) -> Tensor:
        """Return predictions (…, K) of units (…, m, U) of whole bags."""
        pooled = (logits.softmax(dim=-1).unsqueeze(-1) * units).sum(dim=-2)
        return torch.as_tensor(self.head(pooled))


@dataclass(frozen=True)
class FittedAttention:
    """A network, by what features are standardised, and what a prediction of 0 and 1 stand for where it is a number."""

    network: GatedAttention
    centre: Floats
    scale: Floats
    task: OutcomeTask
    number_centre: float
    number_scale: float

    def predict(self, features: Features) -> Floats:
        """Return the prediction (K,) of a patient with these patches (N, D): probabilities, the number, or the risk."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            parts = [
                self.network.attended(_standardised(features[start : start + _ROWS_AT_ONCE], self).to(device))
                for start in range(0, len(features), _ROWS_AT_ONCE)
            ]
            units, logits = (torch.cat(part) for part in zip(*parts, strict=True))
            found = self.network.of_attended(units, logits).double()
            if self.task.kind == "class":
                found = found.softmax(dim=-1)
        values = np.asarray(found.cpu().numpy(), dtype=np.float64)
        return values * self.number_scale + self.number_centre if self.task.kind == "number" else values


def attention_predictions(
    bags: Bags, task: OutcomeTask, settings: OutcomesSettings, fold_of: Integers, seed: int, device: str
) -> Floats:
    """Return predictions (n, K) of every patient from all its patches, by attention fitted on the other folds.

    Args:
        bags: the patients' patches.
        task: what is asked.
        settings: of the stage.
        fold_of: (n,) of `stratified_folds`.
        seed: of draws, initial weights and order.
        device: `cpu` or `cuda`.

    Raises:
        StatedError: see `Bags`.
    """
    rng = np.random.default_rng(seed)
    drawn = {patient: bags.drawn(patient, settings.attention_patches, rng) for patient in task.patients}
    return predict_from(drawn, bags.all_of, task, settings.attention_epochs, fold_of, seed, device)


def predict_from(
    drawn: Mapping[str, Features],
    all_of: Callable[[str], Features],
    task: OutcomeTask,
    epochs: int,
    fold_of: Integers,
    seed: int,
    device: str,
) -> Floats:
    """Return predictions (n, K) of every patient by attention fitted on the drawn patches of the other folds.

    Args:
        drawn: features (m, D) by patient, to fit on.
        all_of: returns the features (N, D) of all patches of a patient, to predict from.
        task: what is asked.
        epochs: passes over the patients.
        fold_of: (n,) of `stratified_folds`.
        seed: of initial weights and order.
        device: to fit on.
    """
    found = np.zeros((len(task.patients), task.width))
    for rows, asked in fitted_and_asked(fold_of):
        fitted = fit_attention(drawn, task, rows, epochs, seed, device)
        found[asked] = [fitted.predict(all_of(task.patients[row])) for row in asked]
    return found


def fit_attention(
    drawn: Mapping[str, Features], task: OutcomeTask, rows: Integers, epochs: int, seed: int, device: str
) -> FittedAttention:
    """Return the network fitted to the drawn patches of these patients, in evaluation mode.

    Args:
        drawn: features (m, D) by patient.
        task: what is asked.
        rows: which of its patients.
        epochs: passes over the patients.
        seed: of initial weights and order.
        device: to fit on.
    """
    own = [drawn[task.patients[row]] for row in rows]
    centre, scale = centre_and_scale(np.concatenate(own))
    number_scale = float(task.values[rows].std()) or 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GatedAttention(len(centre), task.width)
        fitted = FittedAttention(network.to(device), centre, scale, task, float(task.values[rows].mean()), number_scale)
        stored = [_standardised(features, fitted).to(device) for features in own]
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
        network.train()
        for _ in range(epochs):
            for at in _parted(len(rows)):
                loss = _loss(fitted, network(_bags(stored, at)), rows, at)
                if loss is not None:
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
    network.eval()
    return fitted


def _parted(count: int) -> Sequence[Tensor]:
    """Return the patients in random order, in parts of about equal size."""
    return torch.tensor_split(torch.randperm(count), max(1, round(count / _PATIENTS_AT_ONCE)))


def _bags(stored: Sequence[Tensor], at: Tensor) -> Tensor:
    """Return patches (B, m, D) drawn from each of these patients, with repetition: bags of one size."""
    chosen = [stored[index] for index in at.tolist()]
    return torch.stack(
        [patches[torch.randint(len(patches), (_PATCHES_AT_ONCE,)).to(patches.device)] for patches in chosen]
    )


def _loss(fitted: FittedAttention, predicted: Tensor, rows: Integers, at: Tensor) -> Tensor | None:
    """Return what predictions (B, K) of some of the rows miss; None where they tell nothing, without an event."""
    task, some = fitted.task, rows[at.numpy()]
    if task.kind == "class":
        weights = torch.from_numpy(task.class_weights(rows)).float().to(predicted.device)
        return cross_entropy(predicted, torch.from_numpy(task.labels[some]).to(predicted.device), weight=weights)
    if task.kind == "number":
        wanted = torch.from_numpy((task.values[some] - fitted.number_centre) / fitted.number_scale)
        return mse_loss(predicted[:, 0], wanted.float().to(predicted.device))
    events = task.events[some]
    if not events.any():
        return None
    risk = predicted[:, 0]
    _, gradient = partial_likelihood(risk.detach().cpu().double().numpy(), task.values[some], events)
    # A sum whose gradient by the risks is that of the partial likelihood.
    return (risk * torch.from_numpy(gradient / events.sum()).float().to(risk.device)).sum()


def _standardised(features: Features, fitted: FittedAttention) -> Tensor:
    return torch.from_numpy(((features - fitted.centre) / fitted.scale).astype(np.float32))
