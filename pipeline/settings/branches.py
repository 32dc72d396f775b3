"""The branches of a run: the modality of each, its part of the dense panel, and the encoder and projector it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED

Modality = Literal["sparse", "dense", "target"]
MOST_BRANCHES = 64
# They become part of the names of weights, where a dot parts module from module.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)]


@dataclass(frozen=True, config=CLOSED)
class Branch:
    """One branch of a run; a configuration may write just the modality where all else is left to its default."""

    modality: Modality = Field(description="what the branch sees; `target` goes without the other keys")
    markers: tuple[str, ...] = Field(
        default=(),
        description="of a dense branch, the markers of the run's panel that it sees, in this order; empty: all of them",
    )
    encoder: _Name = Field(
        default="",
        description="name of its encoder; branches that name the same one share it. Empty: the modality. Branches of "
        "different modalities or markers cannot share one",
    )
    projector: _Name = Field(
        default="",
        description="name of its projector, shared in the same way, within a modality. Empty: the encoder's name",
    )

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> Self:
        if self.markers and self.modality != "dense":
            raise ValueError(f"markers are for a dense branch, not for a {self.modality} one")
        if self.modality == "target" and (self.encoder or self.projector):
            raise ValueError("a target branch has neither encoder nor projector")
        return self


def _kind_of_entry(value: Any) -> str:
    return "name" if isinstance(value, str) else "mapping"


# A branch as the configuration gives it. One tag is chosen, so that an error speaks of what was meant.
BranchEntry = Annotated[
    Annotated[Modality, Tag("name")] | Annotated[Branch, Tag("mapping")], Discriminator(_kind_of_entry)
]


def read_branches(values: Any) -> tuple[Branch, ...]:
    """Return the branches that JSON tells, an encoder's config.json for example, all names filled in.

    Raises:
        ValueError: if they are none that a run could have.
    """
    entries: tuple[Modality | Branch, ...] = TypeAdapter(tuple[BranchEntry, ...]).validate_python(values)
    return branch_graph(checked_branches(entries))


def branch_graph(entries: Sequence[str | Branch]) -> tuple[Branch, ...]:
    """Return the branches with the names of their encoders and projectors filled in.

    A word is a branch of that modality.
    """
    return tuple(_named(entry) for entry in entries)


def exported_encoder_name(branches: Sequence[Branch]) -> str:
    """Name of the encoder that a run yields: that of its first sparse branch."""
    return next(branch.encoder for branch in branches if branch.modality == "sparse")


def checked_branches(entries: Sequence[Modality | Branch]) -> tuple[Modality | Branch, ...]:
    """Return the same branches; those that are all default as words, so that a run has one way to be written.

    Raises:
        ValueError: if they are none that a run could have.
    """
    if not 2 <= len(entries) <= MOST_BRANCHES:
        raise ValueError(f"a run has 2 to {MOST_BRANCHES} branches, not {len(entries)}")
    graph = branch_graph(entries)
    modalities = [branch.modality for branch in graph]
    if "sparse" not in modalities:
        raise ValueError("at least one branch must be sparse, for the sparse encoder is what a run yields")
    if modalities.count("target") > 1:
        raise ValueError("a run has one target branch at most; `target` says what it holds")
    _check_sharing(graph)
    return tuple(branch.modality if branch == _named(branch.modality) else branch for branch in graph)


def _named(entry: str | Branch) -> Branch:
    branch = entry if isinstance(entry, Branch) else Branch(cast(Modality, entry))
    if branch.modality == "target":
        return branch
    encoder = branch.encoder or branch.modality
    return replace(branch, encoder=encoder, projector=branch.projector or encoder)


def _check_sharing(graph: Sequence[Branch]) -> None:
    """Refuse weights that would be shared by inputs of other channels."""
    encoded = [branch for branch in graph if branch.modality != "target"]
    for kind in ("encoder", "projector"):
        owners: dict[str, str] = {"sparse": "sparse", "dense": "dense"}
        for branch in encoded:
            name = getattr(branch, kind)
            owner = owners.setdefault(name, branch.modality)
            if owner != branch.modality:
                raise ValueError(f"the {kind} {name} is one of {owner} branches, a {branch.modality} one cannot use it")
    markers: dict[str, tuple[str, ...]] = {}
    for branch in encoded:
        if markers.setdefault(branch.encoder, branch.markers) != branch.markers:
            raise ValueError(
                f"branches with other markers cannot share the encoder {branch.encoder}; name one for each (encoder: …)"
            )
