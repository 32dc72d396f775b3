"""Alignment of embeddings in parts: the follow-up's split (SpliCER, arXiv 2503.07444, and its authors' public code).

The first branch's embedding is cut into as many equal parts as there are further branches, and each part answers for
one of them: what is easy to share with one branch cannot crowd out what is to be learned from another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.settings.branches import Branch, branch_graph, exported_encoder_name

Terms = dict[str, Tensor]


def part_slices(width: int, branches: int) -> list[slice]:
    """Return the columns of each part of embeddings of that width: one part for every branch after the first."""
    size = width // (branches - 1)
    return [slice(start, start + size) for start in range(0, size * (branches - 1), size)]


def align_parts(
    embeddings: Sequence[Tensor],
    weights: Sequence[float],
    objective: Callable[[Sequence[Tensor], Sequence[float]], Terms],
) -> Terms:
    """Return the objective between part j of the first embedding and the same part of embedding j + 1, summed over j.

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
    """Return the columns of every embedding that `align_parts` sees: all of the first, one part of each other one."""
    first, *others = embeddings
    slices = part_slices(first.shape[1], len(embeddings))
    return [first, *(other[:, part] for part, other in zip(slices, others, strict=True))]


@dataclass(frozen=True)
class Link:
    """Where training brought the encoder that a run yields and a dense encoder together.

    Attributes:
        sparse_projector: name of the projector on the sparse side.
        dense_encoder: name of the dense encoder.
        dense_projector: of the projector behind it.
        columns: of both embeddings, those that were aligned.
    """

    sparse_projector: str
    dense_encoder: str
    dense_projector: str
    columns: NDArray[np.int64]


def links_of(branches: Sequence[str | Branch], alignment: str, width: int) -> tuple[Link, ...]:
    """Return the links of a run, by pairs of branches; pairs with the same weights are one link, of the columns of all.

    Args:
        branches: of the run, with a sparse one.
        alignment: `whole` or `parts`.
        width: of the embeddings.
    """
    graph = [branch for branch in branch_graph(branches) if branch.modality != "target"]
    exported = exported_encoder_name(graph)
    if alignment == "parts":
        aligned = [(0, other, part) for other, part in enumerate(part_slices(width, len(graph)), start=1)]
    else:
        aligned = [(one, other, slice(0, width)) for one, other in combinations(range(len(graph)), 2)]
    found: dict[tuple[str, str, str], set[int]] = {}
    for one, other, part in aligned:
        by_modality = {graph[place].modality: graph[place] for place in (one, other)}
        sparse, dense = by_modality.get("sparse"), by_modality.get("dense")
        if sparse and dense and sparse.encoder == exported:
            columns = found.setdefault((sparse.projector, dense.encoder, dense.projector), set())
            columns.update(range(part.start, part.stop))
    return tuple(Link(*names, np.array(sorted(columns), dtype=np.int64)) for names, columns in found.items())
