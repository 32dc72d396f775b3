"""The section `panel` of the configuration: names of markers, and the check of every marker before it teaches."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.marker_names import spelling
from pipeline.settings.closed import CLOSED

# What slides call the same marker: all of the section that the stages after split look at.
NAME_KEYS = ("aliases", "known_aliases")
# What decides the measures and the names of channels that tell nothing.
CHECK_KEYS = ("mpp", "autofluorescence", "max_saturated")


@dataclass(frozen=True, config=CLOSED)
class PanelSettings:
    """Settings of the stage panel, and which names of dense channels mean the same marker."""

    aliases: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="for a marker, further names that mean it, e.g. `{CD3: [CD3 clone A]}`; a marker named here goes "
        "before `known_aliases`. Case, blanks, hyphens and Greek letters never matter",
    )
    known_aliases: bool = Field(
        default=True,
        description="whether usual names of one marker are one: DAPI, Hoechst1 and DNA; CD3 and CD3e; PD-L1 and "
        "CD274; … (docs/markers.md)",
    )
    mpp: float = Field(
        default=4.0,
        gt=0,
        description="um per pixel at which channels are measured: the coarsest level of the slide that is as fine, its "
        "pixels averaged where it is finer still",
    )
    autofluorescence: str | None = Field(
        default=None,
        description="channel that shows autofluorescence; null: the first of a name such as Autofluorescence, AF1 or "
        "Background; empty: none",
    )
    max_saturated: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="share of the imaged pixels at a channel's largest value from which it counts as saturated",
    )
    drop: Literal["none", "auto"] = Field(
        default="none",
        description="auto: a channel that tells nothing is taken for absent from its slide in every training",
    )
    background: Literal["none", "subtract"] = Field(
        default="none",
        description="subtract: tile takes the autofluorescence channel, times a factor for each marker, from the dense "
        "patches (docs/stages/panel.md has the formula)",
    )

    @model_validator(mode="after")
    def _means_one_marker_by_a_name(self) -> Self:
        owner: dict[str, str] = {}
        for marker, names in self.aliases.items():
            for name in (marker, *names):
                if not spelling(name):
                    raise ValueError(f"{name!r} among the aliases of {marker} has neither letters nor digits")
                if owner.setdefault(spelling(name), marker) != marker:
                    raise ValueError(f"{name} is an alias of both {owner[spelling(name)]} and {marker}")
        return self
