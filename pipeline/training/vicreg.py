"""The terms of VICReg: Bardes et al., arXiv 2105.04906, equations 1 to 4."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu


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
