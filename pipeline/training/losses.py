"""The objective between branches, as pure functions of their embeddings.

An objective takes the embeddings (n, d) of all branches and returns its weighted terms by name; the loss is their
sum. VICReg: Bardes et al., arXiv 2105.04906, equations 1 to 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, relu

from pipeline.settings import RunSettings

Terms = dict[str, Tensor]
Objective = Callable[[Sequence[Tensor]], Terms]

TERMS = ("invariance", "variance", "covariance")
INVARIANCE_WEIGHT = 25.0
VARIANCE_WEIGHT = 25.0
COVARIANCE_WEIGHT = 1.0


def objective_of(settings: RunSettings) -> Objective:
    """The objective that a run's settings name."""
    return {"vicreg": vicreg, "mfl": vicreg_mfl}[settings.convention]


def vicreg(embeddings: Sequence[Tensor]) -> Terms:
    """VICReg as its authors code it, summed over all pairs of branches.

    Per pair: the mean squared difference once, half of each branch's variance term, each branch's covariance term;
    unbiased moments, epsilon 1e-4.
    """
    partners = len(embeddings) - 1
    pairs = combinations(embeddings, 2)
    return {
        "invariance": INVARIANCE_WEIGHT * _total([mse_loss(a, b) for a, b in pairs]),
        "variance": VARIANCE_WEIGHT * partners * _total([variance_term(z, 1, 1e-4) for z in embeddings]) / 2,
        "covariance": COVARIANCE_WEIGHT * partners * _total([covariance_term(z, 1) for z in embeddings]),
    }


def vicreg_mfl(embeddings: Sequence[Tensor]) -> Terms:
    """VICReg as More From Less codes it (arXiv 2303.10656, public code).

    The mean squared difference of every ordered pair, so twice per pair; each branch's variance and covariance term
    once, however many branches; population moments, epsilon 1e-5.
    """
    pairs = combinations(embeddings, 2)
    return {
        "invariance": INVARIANCE_WEIGHT * 2 * _total([mse_loss(a, b) for a, b in pairs]),
        "variance": VARIANCE_WEIGHT * _total([variance_term(z, 0, 1e-5) for z in embeddings]),
        "covariance": COVARIANCE_WEIGHT * _total([covariance_term(z, 0) for z in embeddings]),
    }


def variance_term(z: Tensor, correction: int, epsilon: float) -> Tensor:
    """Mean over the dimensions of how far each standard deviation over the batch falls short of 1.

    Args:
        z: (n, d) embeddings.
        correction: 1 for the unbiased variance, 0 for that of the population.
        epsilon: added to the variance, against the infinite slope of the root at 0.
    """
    return relu(1 - torch.sqrt(z.var(dim=0, correction=correction) + epsilon)).mean()


def covariance_term(z: Tensor, correction: int) -> Tensor:
    """Sum of the squared off-diagonal entries of the covariance matrix (d, d), divided by d.

    For n < d the sum of all squared entries is taken from the Gram matrix (n, n) of the centred embeddings: Z'Z and
    ZZ' have the same Frobenius norm. The result is the same and costs n/d of it. The subtraction of the diagonal is
    safe: with a rank below n, the total is at least d/n times the diagonal's share.
    """
    count, width = z.shape
    centred = z - z.mean(dim=0)
    product = centred @ centred.T if count < width else centred.T @ centred
    everything = (product / (count - correction)).square().sum()
    diagonal = z.var(dim=0, correction=correction).square().sum()
    return (everything - diagonal) / width


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
