"""Which H&E file goes with which dense one: by name where names leave no doubt, else by what they show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.tools.init.content import MOST_COMPARISONS, pairs_by_content
from pipeline.tools.init.names import key_of
from pipeline.tools.init.recognise import Recognised


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
                found = pairs_by_content(ours, theirs)
                said = f"{len(ours)} H&E and {len(theirs)} dense files of this name"
                doubts |= {id(item): said for item in ours}
            for i, j in found:
                by = "name" if len(ours) == len(theirs) == 1 else "content"
                doubt = f"{doubts[id(ours[i])]}; this pair shows the same tissue" if by == "content" else ""
                slides.append(Proposal(ours[i], theirs[j], by, doubt))
                sparse.remove(ours[i])
                dense.remove(theirs[j])
    too_many = len(sparse) * len(dense) > MOST_COMPARISONS
    for i, j in sorted(pairs_by_content(sparse, dense), reverse=True):
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
