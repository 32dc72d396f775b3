"""Write and read the result of the stage panel for a slide: one JSON file for tile, train and the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.json_file import read_json_as

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class MarkerFinding:
    """One thing that is wrong with a channel: `dead`, `saturated` or `bleeding`, and a sentence on it."""

    what: str
    message: str


@dataclass(frozen=True)
class CheckedMarker:
    """One channel of a slide as the stage measured it; see docs/stages/panel.md for each measure.

    Attributes:
        tells_nothing: whether `panel.drop: auto` leaves it out.
        background_factor: what `panel.background: subtract` takes of the autofluorescence channel.
        neighbours: correlation with the channels before and after it in the file, by name.
        closest: the channel whose detail is most like its own.
        closest_r: how much.
    """

    marker: str
    background: float
    percentiles: dict[str, float]
    largest: float
    saturated: float
    not_finite: float
    structure: float
    seam: float
    seam_um: float
    autofluorescence_r: float | None
    background_factor: float
    neighbours: dict[str, float]
    closest: str
    closest_r: float
    findings: tuple[MarkerFinding, ...]
    tells_nothing: bool


@dataclass(frozen=True)
class PanelCheck:
    """One slide's dense side.

    Attributes:
        slide: its name.
        kind: of the dense side.
        note: why nothing was checked; empty where it was.
        mpp: um per pixel of what was measured; 0 where nothing was.
        imaged: share of the slide that was imaged.
        autofluorescence: the channel that shows it; empty where there is none.
        markers: in file order; none where nothing was checked.
        correlation: Pearson r of the details of each two channels.
    """

    schema: int
    slide: str
    kind: str
    note: str = ""
    mpp: float = 0.0
    imaged: float = 0.0
    autofluorescence: str = ""
    markers: tuple[CheckedMarker, ...] = ()
    correlation: tuple[tuple[float, ...], ...] = field(default=())

    @property
    def named(self) -> tuple[CheckedMarker, ...]:
        """The channels with which something is wrong."""
        return tuple(marker for marker in self.markers if marker.findings)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The channels that tell nothing."""
        return tuple(marker.marker for marker in self.markers if marker.tells_nothing)


def read_panel_check(path: Path) -> PanelCheck:
    """Return what the stage panel wrote of a slide.

    Raises:
        StatedError: if the file is absent or not such a file.
    """
    try:
        found = read_json_as(path, PanelCheck)
        if found.schema != SCHEMA_VERSION:
            raise ValueError(f"schema {found.schema}")
    except (OSError, ValueError) as error:
        expected = f"a check of schema {SCHEMA_VERSION}, written by panel"
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    return found
