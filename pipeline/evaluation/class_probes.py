"""Linear probes of classes: penalised multinomial logistic regression on standardised features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from pipeline.evaluation.probes import centre_and_scale

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ITERATIONS = 1000


@dataclass(frozen=True)
class Standard:
    """Mean (D,) and standard deviation (D,) of training features, by which features are standardised."""

    centre: Floats
    scale: Floats

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Standard:
        """Return the standardisation of training features (n, D); a constant feature becomes 0 in all rows."""
        return cls(*centre_and_scale(features))

    def __call__(self, features: NDArray[np.float32]) -> Floats:
        """Return standardised features (n, D)."""
        return (features - self.centre) / self.scale


@dataclass(frozen=True)
class LogisticProbe:
    """Scores of classes: `features @ weights + intercept`, weights (D, K)."""

    weights: Floats
    intercept: Floats

    def predict(self, standard: Floats) -> Floats:
        """Return probability (n, K) of each class, for standardised features (n, D)."""
        return np.asarray(softmax(standard @ self.weights + self.intercept, axis=1))


def fit_logistic(standard: Floats, labels: Integers, classes: int) -> LogisticProbe:
    """Return the probe that minimises the weighted cross-entropy plus penalty / 2 * ||weights||².

    Rows are weighted so that every class counts alike, their weights summing to n. The penalty is 100 / (D K), as
    linear probes of pathology encoders are usually fitted (Chen et al., Nature Medicine 2024): nothing is chosen.

    Args:
        standard: (n, D) standardised features.
        labels: (n,) from 0 to K - 1.
        classes: K.
    """
    size = standard.shape[1]
    penalty = 100 / (size * classes)
    count = np.bincount(labels, minlength=classes)
    weight = len(labels) / (np.count_nonzero(count) * count[labels])
    truth = np.eye(classes)[labels]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, intercept = flat[:-classes].reshape(size, classes), flat[-classes:]
        logits = standard @ weights + intercept
        value = -(weight * log_softmax(logits, axis=1)[np.arange(len(labels)), labels]).sum()
        slope = weight[:, None] * (softmax(logits, axis=1) - truth)
        gradient = np.concatenate([(standard.T @ slope + penalty * weights).ravel(), slope.sum(axis=0)])
        return float(value + penalty / 2 * (weights**2).sum()), gradient

    start = np.zeros((size + 1) * classes)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x
    return LogisticProbe(found[:-classes].reshape(size, classes), found[-classes:])


def draw_shots(labels: Integers, classes: int, shots: int, seed: int) -> Integers | None:
    """Return rows of `shots` patches of each class, drawn without replacement; None where a class has fewer."""
    rng = np.random.default_rng([seed, shots])
    rows = [np.flatnonzero(labels == index) for index in range(classes)]
    if min(map(len, rows)) < shots:
        return None
    return np.concatenate([rng.choice(one, shots, replace=False) for one in rows])
