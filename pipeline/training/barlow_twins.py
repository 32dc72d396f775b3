"""The terms of Barlow Twins: Zbontar et al., arXiv 2103.03230, equations 1 and 2."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-5


def barlow_twins_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """How far the cross-correlation of two branches' embeddings is from the identity.

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
    return (z - z.mean(dim=0)) * torch.rsqrt(z.var(dim=0, correction=0) + _EPSILON)
