"""Find which of the cohort's markers each run trained on, and which ones its probes see first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.json_file import read_json_as
from pipeline.marker_names import UNUSED, Aliases, panel_of
from pipeline.settings import PanelSettings
from pipeline.settings.branches import read_branches

_CONFIG = "config.json"


@dataclass(frozen=True)
class _SeenSettings:
    branches: list[object]
    pairing: str = "true"
    target: str = "values"


@dataclass(frozen=True)
class _SeenMarker:
    marker: str


@dataclass(frozen=True)
class _SeenDense:
    panel: tuple[str, ...] = ()


@dataclass(frozen=True)
class _SeenEntry:
    settings: _SeenSettings
    dense: _SeenDense | None = None
    markers: list[_SeenMarker] = field(default_factory=list)


@dataclass(frozen=True)
class _SeenConfig:
    more_from_less: _SeenEntry


def seen_markers(encoder: Path, markers: tuple[str, ...], panel: PanelSettings) -> frozenset[str] | None:
    """Return which of the cohort's markers the training of an encoder saw on its dense and target branches.

    Args:
        encoder: its folder, as train writes it.
        markers: of the cohort.
        panel: what slides call the same marker.

    Returns:
        Their names; None where the folder is not there. Of blank patches and of classes alone a training sees none.

    Raises:
        StatedError: if the folder is there and does not say.
    """
    path = encoder / _CONFIG
    if not path.is_file():
        return None
    try:
        own = read_json_as(path, _SeenConfig).more_from_less
        modalities = {branch.modality for branch in read_branches(own.settings.branches)}
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected="an encoder folder as train writes it", found=str(error)) from None
    learns = "target" in modalities and own.settings.target == "values"
    if own.settings.pairing == "blank" or not ("dense" in modalities or learns):
        return frozenset()
    shown = own.dense.panel if own.dense and own.dense.panel else tuple(item.marker for item in own.markers)
    joint = panel_of({"run": shown, "cohort": markers}, Aliases(panel.aliases, panel.known_aliases))
    of_run = set(joint.indices["run"]) - {UNUSED}
    return frozenset(name for name, index in zip(markers, joint.indices["cohort"], strict=True) if index in of_run)


def left_out(seen: Mapping[str, frozenset[str] | None], markers: tuple[str, ...]) -> frozenset[str]:
    """Return the markers that some run left out which saw others; none where all saw all, or nothing."""
    some = [known for known in seen.values() if known]
    return frozenset(markers).difference(frozenset.intersection(*some)) if some else frozenset()
