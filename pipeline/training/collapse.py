"""Signs of a collapsed representation."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(vectors: Tensor) -> float:
    """Number of directions that (n, d) vectors really use, 1 to min(n - 1, d); 0 if all are equal.

    The exponential of the entropy of the normalised singular values of the centred matrix (Roy and Vetterli, EUSIPCO
    2007).
    """
    centred = (vectors - vectors.mean(dim=0)).double()
    singular = torch.linalg.svdvals(centred)
    total = singular.sum()
    if total <= 1e-12:
        return 0.0
    share = singular / total
    return float(torch.exp(torch.special.entr(share).sum()))


def mean_std(vectors: Tensor) -> float:
    """Mean over the dimensions of the standard deviation over the (n, d) vectors."""
    return float(vectors.double().std(dim=0).mean())
