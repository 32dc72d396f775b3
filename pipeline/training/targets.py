"""Predict targets on a branch: the values of each training patch, and their loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import log_softmax

from pipeline.errors import StatedError
from pipeline.marker_names import UNUSED
from pipeline.slides.kinds import kind_named
from pipeline.store.targets import NO_CLASS, comparable, majority_class, standardised
from pipeline.training.rows import TrainingRows

Floats = NDArray[np.float32]


def training_targets(rows: TrainingRows, target: str) -> Floats:
    """Return (N, T) float32: the targets of all training patches in their order, T markers, stains or classes.

    Args:
        rows: the training patches.
        target: `values`, standardised within each slide as the probes' are, nan where a slide lacks the marker;
            `class`, 1 for the class of the patch and 0 for the others, nan where no class covers more than half; or
            `label`, the same of the class that a table gives, see `labelled_rows`.

    Raises:
        StatedError: if classes are asked for and the dense side is not a mask, or no patch has one.
    """
    if target == "label":
        labels = [slide.labels for slide in rows.slides if slide.labels is not None]
        return _one_hot(np.concatenate(labels), len(rows.classes)).astype(np.float32)
    if target == "class" and not kind_named(rows.dense_kind).values_are_shares:
        raise StatedError(expected="a mask as the dense side, for target is class", found=rows.dense_kind)
    parts = []
    for slide in rows.slides:
        known = slide.store.attributes
        indices = np.array(rows.panel.indices[known.slide])
        used = indices != UNUSED
        values = np.full((len(slide.rows), len(rows.markers)), np.nan)
        values[:, indices[used]] = slide.store.table.marker_mean[slide.rows][:, used]
        if target == "class":
            parts.append(_one_hot(majority_class(values), values.shape[1]))
        else:
            parts.append(standardised(comparable(values, known.dense_kind)))
    targets = np.concatenate(parts).astype(np.float32)
    if not np.isfinite(targets).any():
        raise StatedError(expected=f"training patches with a {target} to predict", found=f"none of {len(targets)}")
    return targets


def target_terms(predicted: Sequence[Tensor], target: Tensor, kind: str, weight: float) -> dict[str, Tensor]:
    """Return the weighted loss of a target branch by name, the mean over the views that it is predicted from.

    Args:
        predicted: (n, T) of each view.
        target: (n, T), see `training_targets`.
        kind: `values`, `class` or `label`.
        weight: of the loss.
    """
    terms = [supervised_terms(one, target, kind) for one in predicted]
    return {name: weight * torch.stack([term[name] for term in terms]).mean() for name in terms[0]}


def supervised_terms(predicted: Tensor, target: Tensor, kind: str) -> dict[str, Tensor]:
    """Return the loss of predictions (n, T) by name.

    Mean squared error of the known values, or cross-entropy of the classes.

    Args:
        predicted: values in standard deviations, or logits of the classes.
        target: see `training_targets`; nan is left out, and nothing known gives 0.
        kind: `values`, `class` or `label`.
    """
    known = torch.isfinite(target)
    truth = torch.where(known, target, 0.0)
    if kind in ("class", "label"):
        # Of a patch with a class all T entries are known; absent classes of its slide are 0.
        per_patch = -(truth * log_softmax(predicted, dim=1)).sum(dim=1)
        return {"cross_entropy": per_patch.sum() / known.any(dim=1).sum().clamp(min=1)}
    squared = torch.where(known, (predicted - truth) ** 2, 0.0)
    return {"error": squared.sum() / known.sum().clamp(min=1)}


def _one_hot(classes: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    return np.where((classes == NO_CLASS)[:, None], np.nan, np.eye(count)[classes])
