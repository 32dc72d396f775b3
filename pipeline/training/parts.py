"""Alignment of embeddings in parts: the follow-up's split (SpliCER, arXiv 2503.07444, and its authors' public code).

The first branch's embedding is cut into as many equal parts as there are further branches, and each part answers for
one of them: what is easy to share with one branch cannot crowd out what is to be learned from another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Terms = dict[str, Tensor]


def part_slices(width: int, branches: int) -> list[slice]:
    """The columns of each part of embeddings of that width: one part for every branch after the first."""
    size = width // (branches - 1)
    return [slice(start, start + size) for start in range(0, size * (branches - 1), size)]


def align_parts(
    embeddings: Sequence[Tensor],
    weights: Sequence[float],
    objective: Callable[[Sequence[Tensor], Sequence[float]], Terms],
) -> Terms:
    """The objective between part j of the first embedding and the same part of embedding j + 1, summed over j.

    Args:
        embeddings: (n, d) of all branches, d a multiple of their number less one.
        weights: one for each branch after the first.
        objective: of a list of embeddings and the weights of their pairs.
    """
    first, *others = embeddings
    total: Terms = {}
    for part, other, weight in zip(part_slices(first.shape[1], len(embeddings)), others, weights, strict=True):
        for name, term in objective([first[:, part], other[:, part]], [weight]).items():
            total[name] = total[name] + term if name in total else term
    return total


def aligned_parts(embeddings: Sequence[Tensor]) -> list[Tensor]:
    """Of every embedding the columns that `align_parts` looks at: all of the first, one part of each of the others."""
    first, *others = embeddings
    slices = part_slices(first.shape[1], len(embeddings))
    return [first, *(other[:, part] for part, other in zip(slices, others, strict=True))]


def shared_columns(branches: Sequence[str], width: int) -> NDArray[np.int64]:
    """The columns in which `align_parts` brings a sparse and a dense branch together."""
    slices = part_slices(width, len(branches))
    crossing = [part for part, other in zip(slices, branches[1:], strict=True) if other != branches[0]]
    return np.concatenate([np.arange(part.start, part.stop) for part in crossing])
