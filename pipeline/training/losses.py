"""Compute the objective between branches: pure functions of embeddings, summed over all pairs of branches.

An objective takes the embeddings (n, d) of all branches and one weight per pair, in the order of
`itertools.combinations`, and returns its weighted terms by name; the loss is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize, relu

from pipeline.settings import RunSettings
from pipeline.training.parts import align_parts

Terms = dict[str, Tensor]
Weights = Sequence[float]
Objective = Callable[[Sequence[Tensor]], Terms]

TERMS = ("invariance", "variance", "covariance", "redundancy", "contrast", "error", "cross_entropy")
INVARIANCE_WEIGHT = 25.0
VARIANCE_WEIGHT = 25.0
COVARIANCE_WEIGHT = 1.0
REDUNDANCY_WEIGHT = 5e-3
_BARLOW_TWINS_EPSILON = 1e-5


def objective_of(settings: RunSettings) -> Objective:
    """Return the objective that a run's settings name, with their weights per pair."""
    weights = settings.pair_weights or (1.0,) * settings.pairs
    if settings.alignment == "parts":
        return partial(align_parts, weights=weights, objective=_weighed(settings))
    return partial(_weighed(settings), weights=weights)


def _weighed(settings: RunSettings) -> Callable[..., Terms]:
    """Return the objective as a function of `embeddings` and `weights`."""
    if settings.objective == "vicreg":
        return {"vicreg": vicreg, "mfl": vicreg_mfl}[settings.convention]
    if settings.objective == "barlow-twins":
        return barlow_twins
    loss = {"infonce": info_nce, "nt-xent": nt_xent}[settings.objective]
    return partial(contrastive, loss=partial(loss, temperature=settings.temperature))


def vicreg(embeddings: Sequence[Tensor], weights: Weights) -> Terms:
    """Return VICReg as its authors code it, summed over all pairs of branches.

    Per pair: the mean squared difference once, half of each branch's variance term, each branch's covariance term;
    unbiased moments, epsilon 1e-4.
    """
    shares = _shares(len(embeddings), weights)
    return {
        "invariance": INVARIANCE_WEIGHT * _total([mse_loss(a, b) for a, b in combinations(embeddings, 2)], weights),
        "variance": VARIANCE_WEIGHT * _total([variance_term(z, 1, 1e-4) for z in embeddings], shares) / 2,
        "covariance": COVARIANCE_WEIGHT * _total([covariance_term(z, 1) for z in embeddings], shares),
    }


def vicreg_mfl(embeddings: Sequence[Tensor], weights: Weights) -> Terms:
    """Return VICReg as More From Less codes it (arXiv 2303.10656, public code).

    The mean squared difference of every ordered pair, so twice per pair; each branch's variance and covariance term
    once, however many branches and whatever the pairs' weights; population moments, epsilon 1e-5.
    """
    once = [1.0] * len(embeddings)
    return {
        "invariance": INVARIANCE_WEIGHT * 2 * _total([mse_loss(a, b) for a, b in combinations(embeddings, 2)], weights),
        "variance": VARIANCE_WEIGHT * _total([variance_term(z, 0, 1e-5) for z in embeddings], once),
        "covariance": COVARIANCE_WEIGHT * _total([covariance_term(z, 0) for z in embeddings], once),
    }


def barlow_twins(embeddings: Sequence[Tensor], weights: Weights) -> Terms:
    """Return Barlow Twins summed over all pairs, the off-diagonal entries weighted by its authors' 5e-3."""
    terms = [barlow_twins_terms(a, b) for a, b in combinations(embeddings, 2)]
    return {
        "invariance": _total([invariance for invariance, _ in terms], weights),
        "redundancy": REDUNDANCY_WEIGHT * _total([redundancy for _, redundancy in terms], weights),
    }


def contrastive(embeddings: Sequence[Tensor], weights: Weights, loss: Callable[[Tensor, Tensor], Tensor]) -> Terms:
    """Return a contrastive loss of a pair, summed over all pairs."""
    return {"contrast": _total([loss(a, b) for a, b in combinations(embeddings, 2)], weights)}


def variance_term(z: Tensor, correction: int, epsilon: float) -> Tensor:
    """Return the mean over the dimensions of how far each standard deviation over the batch falls short of 1.

    The variance term of VICReg (Bardes et al., arXiv 2105.04906, equations 1 and 2).

    Args:
        z: (n, d) embeddings.
        correction: 1 for the unbiased variance, 0 for that of the population.
        epsilon: added to the variance, against the infinite slope of the root at 0.
    """
    return relu(1 - torch.sqrt(z.var(dim=0, correction=correction) + epsilon)).mean()


def covariance_term(z: Tensor, correction: int) -> Tensor:
    """Return the sum of the squared off-diagonal entries of the covariance matrix (d, d), divided by d.

    The covariance term of VICReg (Bardes et al., arXiv 2105.04906, equations 3 and 4).

    For n < d the sum of all squared entries is taken from the Gram matrix (n, n) of the centred embeddings: Z'Z and
    ZZ' have the same Frobenius norm. The result is the same and costs n/d of it. The subtraction of the diagonal is
    safe: with a rank below n, the total is at least d/n times the diagonal's share.
    """
    term: Tensor = _OffDiagonalSquares.apply(z, correction)
    return term / z.shape[1]


class _OffDiagonalSquares(torch.autograd.Function):
    """Sum of the squared off-diagonal entries of the covariance matrix C of z (n, d).

    With X the centred z and f = n - correction, the gradient is 4 (X C - X diag(C)) / f. Its columns sum to 0, so
    centring is no separate step, and it costs one product of matrices where the general rules take two.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, correction: int) -> Tensor:
        count, width = z.shape
        freedom = count - correction
        centred = z - z.mean(dim=0)
        product = (centred @ centred.T if count < width else centred.T @ centred) / freedom
        variance = centred.square().sum(dim=0) / freedom
        ctx.save_for_backward(centred, product, variance)
        ctx.freedom = freedom
        return product.square().sum() - variance.square().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        centred, product, variance = ctx.saved_tensors
        count, width = centred.shape
        all_entries = product @ centred if count < width else centred @ product
        slope: Tensor = (all_entries - centred * variance) * (4 / ctx.freedom * gradients[0])
        return slope, None


def barlow_twins_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the cross-correlation of two branches' embeddings is from the identity.

    The terms of Barlow Twins (Zbontar et al., arXiv 2103.03230, equations 1 and 2).

    Args:
        a: (n, d) embeddings of one branch.
        b: (n, d) of the other.

    Returns:
        The sum of (1 - C_ii)^2 and the sum of the squared off-diagonal entries, C (d, d) being the correlations over
        the batch, population moments, 1e-5 added to the variances. For n < d the sum over all entries is taken
        from the Gram matrices (n, n) of both sides: ||A'B||^2 is the sum of AA' * BB'.
    """
    count, width = a.shape
    a, b = _standardised(a), _standardised(b)
    diagonal = (a * b).sum(dim=0) / count
    product = a @ a.T * (b @ b.T) if count < width else (a.T @ b).square()
    everything = product.sum() / count**2
    return (1 - diagonal).square().sum(), everything - diagonal.square().sum()


def _standardised(z: Tensor) -> Tensor:
    return (z - z.mean(dim=0)) * torch.rsqrt(z.var(dim=0, correction=0) + _BARLOW_TWINS_EPSILON)


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of finding the partner in the other branch, mean of both directions.

    Negatives come from the other branch only (van den Oord et al., arXiv 1807.03748; as in CLIP, arXiv 2103.00020).
    A row's partner is the same row of the other branch.

    Args:
        a: (n, d) embeddings of one branch.
        b: (n, d) of the other.
        temperature: divides the cosines.
    """
    cosines = normalize(a, dim=1) @ normalize(b, dim=1).T / temperature
    partner = torch.arange(len(a), device=a.device)
    return (cross_entropy(cosines, partner) + cross_entropy(cosines.T, partner)) / 2


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return the cross entropy of finding the partner among all other rows of both branches (SimCLR, arXiv 2002.05709).

    Args:
        a: (n, d) embeddings of one branch.
        b: (n, d) of the other.
        temperature: divides the cosines.
    """
    count = len(a)
    both = normalize(torch.cat([a, b]), dim=1)
    cosines = both @ both.T / temperature
    itself = torch.eye(2 * count, dtype=torch.bool, device=a.device)
    partner = torch.arange(2 * count, device=a.device).roll(count)
    return cross_entropy(cosines.masked_fill(itself, -torch.inf), partner)


def _shares(branches: int, weights: Weights) -> list[float]:
    """Return for each branch the sum of the weights of the pairs that it is part of."""
    pairs = list(combinations(range(branches), 2))
    return [
        sum(weight for pair, weight in zip(pairs, weights, strict=True) if branch in pair) for branch in range(branches)
    ]


def _total(values: Sequence[Tensor], weights: Weights) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
