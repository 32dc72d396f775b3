"""Contrastive losses of a pair of branches.

A row's partner is the same row of the other branch; all other rows are negatives. They differ in which negatives count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding the partner in the other branch, mean of both directions.

    Negatives come from the other branch only (van den Oord et al., arXiv 1807.03748; as in CLIP, arXiv 2103.00020).

    Args:
        a: (n, d) embeddings of one branch.
        b: (n, d) of the other.
        temperature: divides the cosines.
    """
    cosines = normalize(a, dim=1) @ normalize(b, dim=1).T / temperature
    partner = torch.arange(len(a), device=a.device)
    return (cross_entropy(cosines, partner) + cross_entropy(cosines.T, partner)) / 2


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding the partner among all other rows of both branches (SimCLR, arXiv 2002.05709).

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
