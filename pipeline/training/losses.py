"""The objective between branches, as pure functions of their embeddings, summed over all pairs of branches.

An objective takes the embeddings (n, d) of all branches and one weight per pair, in the order of
`itertools.combinations`, and returns its weighted terms by name; the loss is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline.settings import RunSettings
from pipeline.training.barlow_twins import barlow_twins_terms
from pipeline.training.contrastive import info_nce, nt_xent
from pipeline.training.parts import align_parts
from pipeline.training.vicreg import covariance_term, variance_term

Terms = dict[str, Tensor]
Weights = Sequence[float]
Objective = Callable[[Sequence[Tensor]], Terms]

TERMS = ("invariance", "variance", "covariance", "redundancy", "contrast", "error", "cross_entropy")
INVARIANCE_WEIGHT = 25.0
VARIANCE_WEIGHT = 25.0
COVARIANCE_WEIGHT = 1.0
REDUNDANCY_WEIGHT = 5e-3


def objective_of(settings: RunSettings) -> Objective:
    """The objective that a run's settings name, with their weights per pair."""
    weights = settings.pair_weights or (1.0,) * settings.pairs
    if settings.alignment == "parts":
        return partial(align_parts, weights=weights, objective=_weighed(settings))
    return partial(_weighed(settings), weights=weights)


def _weighed(settings: RunSettings) -> Callable[..., Terms]:
    """The objective as a function of `embeddings` and `weights`."""
    if settings.objective == "vicreg":
        return {"vicreg": vicreg, "mfl": vicreg_mfl}[settings.convention]
    if settings.objective == "barlow-twins":
        return barlow_twins
    loss = {"infonce": info_nce, "nt-xent": nt_xent}[settings.objective]
    return partial(contrastive, loss=partial(loss, temperature=settings.temperature))


def vicreg(embeddings: Sequence[Tensor], weights: Weights) -> Terms:
    """VICReg as its authors code it, summed over all pairs of branches.

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
    """VICReg as More From Less codes it (arXiv 2303.10656, public code).

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
    """Barlow Twins summed over all pairs, the off-diagonal entries weighted by its authors' 5e-3."""
    terms = [barlow_twins_terms(a, b) for a, b in combinations(embeddings, 2)]
    return {
        "invariance": _total([invariance for invariance, _ in terms], weights),
        "redundancy": REDUNDANCY_WEIGHT * _total([redundancy for _, redundancy in terms], weights),
    }


def contrastive(embeddings: Sequence[Tensor], weights: Weights, loss: Callable[[Tensor, Tensor], Tensor]) -> Terms:
    """A contrastive loss of a pair, summed over all pairs."""
    return {"contrast": _total([loss(a, b) for a, b in combinations(embeddings, 2)], weights)}


def _shares(branches: int, weights: Weights) -> list[float]:
    """For each branch the sum of the weights of the pairs that it is part of."""
    pairs = list(combinations(range(branches), 2))
    return [
        sum(weight for pair, weight in zip(pairs, weights, strict=True) if branch in pair) for branch in range(branches)
    ]


def _total(values: Sequence[Tensor], weights: Weights) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum()
