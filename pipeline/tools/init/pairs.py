"""Pair H&E files with dense files: by name where names are clear, otherwise by content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.coarse import search
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.pair import overview, sparse_overview, without_glass
from pipeline.registration.stain import nuclear_channel
from pipeline.slides.base import Shows
from pipeline.slides.kinds import kind_named
from pipeline.slides.opening import open_slide
from pipeline.tools.init.names import key_of
from pipeline.tools.init.recognise import Recognised

# A comparison takes about 0.15 s.
_MOST_COMPARISONS = 300
# Correlation of nuclear density that two images of one section reach (0.84 to 0.92 on the demo, others up to 0.72), and
# by how much it must be ahead of either one's next best partner.
_LEAST_NCC, _LEAST_LEAD = 0.75, 0.1
# The search's pixels and angles may be coarser, since only the correlation is asked for.
_COARSEN = 2


@dataclass(frozen=True)
class Proposal:
    """One slide of the sheet.

    Attributes:
        sparse: its H&E file.
        dense: the partner; None where there is none.
        by: `name` or `content`, what made them a pair; empty where there is none.
        doubt: what a person should look at; empty where nothing.
    """

    sparse: Recognised
    dense: Recognised | None = None
    by: str = ""
    doubt: str = ""


@dataclass(frozen=True)
class Paired:
    """All slides that are proposed, the dense files that are left, and whether too many were left to compare."""

    slides: tuple[Proposal, ...]
    alone: tuple[Recognised, ...]
    too_many: bool = False


def propose_pairs(files: Sequence[Recognised]) -> Paired:
    """Return a slide for each H&E file: with the dense file of its name, or with the one that shows the same."""
    sparse = [item for item in files if item.side == "sparse"]
    dense = [item for item in files if item.side == "dense"]
    slides: list[Proposal] = []
    doubts: dict[int, str] = {}
    # The same folder says more than the same name elsewhere.
    for key in (_in_folder, _anywhere):
        for ours, theirs in _groups(sparse, dense, key):
            if len(ours) == len(theirs) == 1:
                found = [(0, 0)]
            else:
                found = _pairs_by_content(ours, theirs)
                said = f"{len(ours)} H&E and {len(theirs)} dense files of this name"
                doubts |= {id(item): said for item in ours}
            for i, j in found:
                by = "name" if len(ours) == len(theirs) == 1 else "content"
                doubt = f"{doubts[id(ours[i])]}; this pair shows the same tissue" if by == "content" else ""
                slides.append(Proposal(ours[i], theirs[j], by, doubt))
                sparse.remove(ours[i])
                dense.remove(theirs[j])
    too_many = len(sparse) * len(dense) > _MOST_COMPARISONS
    for i, j in sorted(_pairs_by_content(sparse, dense), reverse=True):
        doubt = f"paired by content with {dense[j].path.name}, for no name says so: look at its overlay"
        slides.append(Proposal(sparse[i], dense[j], "content", doubt))
    taken = {id(item) for slide in slides for item in (slide.sparse, slide.dense)}
    slides += [
        Proposal(item, doubt=f"{doubts[id(item)]}, none clearly its partner" if id(item) in doubts else "")
        for item in sparse
        if id(item) not in taken
    ]
    slides.sort(key=lambda slide: str(slide.sparse.path))
    return Paired(tuple(slides), tuple(item for item in dense if id(item) not in taken), too_many)


def _in_folder(item: Recognised) -> str:
    return f"{item.path.parent}/{key_of(item.path)}"


def _anywhere(item: Recognised) -> str:
    return key_of(item.path)


def _groups(
    sparse: Sequence[Recognised], dense: Sequence[Recognised], key: Callable[[Recognised], str]
) -> list[tuple[list[Recognised], list[Recognised]]]:
    """Return the H&E and the dense files of each key that has both."""
    groups: dict[str, tuple[list[Recognised], list[Recognised]]] = defaultdict(lambda: ([], []))
    for index, items in enumerate((sparse, dense)):
        for item in items:
            groups[key(item)][index].append(item)
    return [group for group in groups.values() if all(group)]


def _pairs_by_content(sparse: Sequence[Recognised], dense: Sequence[Recognised]) -> list[tuple[int, int]]:
    """Return the indices of pairs that correlate well, and clearly better than either side with any other.

    Files without um per pixel or without a nuclear channel, and those whose pixels cannot be read, find no partner.
    """
    if len(sparse) * len(dense) > _MOST_COMPARISONS:
        return []
    shown = [[_nuclei(item) for item in side] for side in (sparse, dense)]
    ncc = np.array([[_agreement(one, other) for other in shown[1]] for one in shown[0]])
    return [(i, j) for i in range(len(sparse)) for j in range(len(dense)) if _is_clear(ncc, i, j)]


def _is_clear(ncc: NDArray[np.float64], i: int, j: int) -> bool:
    rivals = np.concatenate([np.delete(ncc[i], j), np.delete(ncc[:, j], i), [0.0]])
    return bool(ncc[i, j] >= _LEAST_NCC and ncc[i, j] >= rivals.max() + _LEAST_LEAD)


def _agreement(sparse: NuclearImage | None, dense: NuclearImage | None) -> float:
    if sparse is None or dense is None:
        return 0.0
    return max((pose.ncc for pose in search(sparse, dense, coarsen=_COARSEN)), default=0.0)


def _nuclei(item: Recognised) -> NuclearImage | None:
    """Return the nuclear signal of a slide as register first sees it; None where it shows none."""
    if item.mpp is None or item.needs:
        return None
    try:
        shows: Shows = kind_named(item.dense_kind).shows if item.dense_kind else "file"
        with open_slide(item.path, shows=shows) as slide:
            if slide.header.is_rgb:
                return without_glass(sparse_overview(NuclearSource(slide, item.mpp, None)))
            return without_glass(overview(NuclearSource(slide, item.mpp, nuclear_channel(slide.header.channels, None))))
    except StatedError:
        # What is wrong with the pixels is for the stages to say; here the file only stays alone.
        return None
