"""Linear probes on one vector per patient: logistic, ridge or Cox regression, cross-validated within itself.

Vectors are standardised by the patients fitted on and brought to a length of about 1, so that one set of penalties
serves encoders of any width. Weights lie in the space of the vectors fitted on, so the fit is made there, whatever the
width: a ridge penalty does not tell the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.evaluation.probes import centre_and_scale
from pipeline.outcomes.cox import fit_cox
from pipeline.outcomes.folds import fitted_and_asked, stratified_folds
from pipeline.outcomes.task import OutcomeTask

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ITERATIONS = 1000
_PARTS_WITHIN = 3  # of the patients fitted on, for the choice of a penalty


def cross_validated(
    vectors: NDArray[np.float32], task: OutcomeTask, penalties: Sequence[float], fold_of: Integers, seed: int
) -> Floats:
    """Return predictions (n, K) of every patient, by probes that were fitted on the other folds.

    The penalty is chosen by a cross-validation of the patients fitted on, so that those who are asked for have no say.

    Args:
        vectors: (n, D) of the task's patients.
        task: what is asked.
        penalties: to choose from.
        fold_of: (n,) of `stratified_folds`.
        seed: of the parts within the patients fitted on.
    """
    found = np.zeros((len(vectors), task.width))
    for fitted, asked in fitted_and_asked(fold_of):
        ours, theirs = _rotated(vectors[fitted], vectors[asked])
        penalty = _chosen(ours, task, fitted, sorted(penalties), seed)
        found[asked] = _predicted(ours, task, fitted, penalty, theirs)
    return found


def _rotated(fitted: NDArray[np.float32], asked: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return standardised vectors in the coordinates of the space that those fitted on span."""
    centre, scale = centre_and_scale(fitted)
    length = np.sqrt(max(1, np.isfinite(scale).sum()))
    ours, theirs = (fitted - centre) / scale / length, (asked - centre) / scale / length
    _, _, axes = np.linalg.svd(ours, full_matrices=False)
    return ours @ axes.T, theirs @ axes.T


def _chosen(x: Floats, task: OutcomeTask, rows: Integers, penalties: Sequence[float], seed: int) -> float:
    """Return the penalty that predicts left-out parts of the patients fitted on best."""
    if len(penalties) == 1:
        return penalties[0]
    fold_of = stratified_folds(task.strata()[rows], _PARTS_WITHIN, np.random.default_rng(seed))
    losses = []
    for penalty in penalties:
        predicted = np.zeros((len(rows), task.width))
        for fitted, asked in fitted_and_asked(fold_of):
            predicted[asked] = _predicted(x[fitted], task, rows[fitted], penalty, x[asked])
        losses.append(task.loss(predicted, rows))
    return penalties[int(np.argmin(losses))]


def _predicted(x: Floats, task: OutcomeTask, rows: Integers, penalty: float, asked: Floats) -> Floats:
    """Return predictions (m, K) for vectors (m, d) of a probe fitted to the vectors of these rows."""
    if task.kind == "number":
        return np.asarray(Ridge(alpha=penalty).fit(x, task.values[rows]).predict(asked))[:, None]
    if task.kind == "survival":
        return (asked @ fit_cox(x, task.values[rows], task.events[rows], penalty))[:, None]
    present, labels = np.unique(task.labels[rows], return_inverse=True)
    found = np.zeros((len(asked), task.width))
    if len(present) == 1:  # of a rare class, all in the part that is left out
        found[:, present] = 1
        return found
    probe = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=_ITERATIONS).fit(x, labels)
    found[:, present] = probe.predict_proba(asked)
    return found
