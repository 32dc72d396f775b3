"""The section `panel` of the configuration: what slides call the same marker, for train and both verbs of evaluate."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.panel import spelling
from pipeline.settings.closed import CLOSED


@dataclass(frozen=True, config=CLOSED)
class PanelSettings:
    """Which names of dense channels mean the same marker."""

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
