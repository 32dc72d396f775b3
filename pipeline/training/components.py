"""Choose the markers of a run: its panel, and the component that each dense encoder sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pipeline.errors import StatedError
from pipeline.marker_names import (
    NOTHING_LEFT_OUT,
    UNUSED,
    Aliases,
    LeftOut,
    Panel,
    left_out_everywhere,
    panel_of,
)
from pipeline.settings.branches import Branch, branch_graph

# For each dense encoder that sees a part of the panel the places of its markers there, in the order of its channels.
Components = Mapping[str, tuple[int, ...]]
WHOLE_PANEL: Components = MappingProxyType({})


def run_panel(
    channels: Mapping[str, Sequence[str]],
    aliases: Aliases,
    markers: Sequence[str],
    branches: Sequence[str | Branch],
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> tuple[Panel, Components]:
    """Return the panel of a run, of what some branch sees, and its components.

    Without any where all see all of it. A target branch is to predict all of the run's markers.

    Args:
        channels: names of each slide's dense channels, slides in sheet order.
        aliases: which names mean the same.
        markers: the run's choice; empty for all.
        branches: of the run.
        left_out: channels that count as absent from their slide.

    Raises:
        StatedError: as `panel_of`, or if a branch names a marker that is not in the run's panel, or one twice, or all
            that it names are left out.
    """
    panel = panel_of(channels, aliases, markers, left_out)
    graph = branch_graph(branches)
    named = {branch.encoder: branch.markers for branch in graph if branch.modality == "dense"}
    nowhere = left_out_everywhere(channels, aliases, left_out)
    chosen = {encoder: tuple(x for x in names if aliases.key(x) not in nowhere) for encoder, names in named.items()}
    for encoder, names in named.items():
        if names and not chosen[encoder]:
            expected = f"a channel that tells something for dense encoder {encoder}"
            raise StatedError(expected=expected, found=f"{', '.join(names)}, which panel.drop leaves out")
    keys = {encoder: tuple(aliases.key(name) for name in names) for encoder, names in chosen.items()}
    for encoder, names in chosen.items():
        _check_component(encoder, names, keys[encoder], panel, aliases)
    if chosen and all(chosen.values()) and all(branch.modality != "target" for branch in graph):
        seen = {key for found in keys.values() for key in found}
        panel = panel_of(channels, aliases, [name for name in panel.markers if aliases.key(name) in seen], left_out)
    index_of = {aliases.key(name): index for index, name in enumerate(panel.markers)}
    return panel, {encoder: tuple(index_of[key] for key in found) for encoder, found in keys.items() if found}


def component_panel(panel: Panel, component: Sequence[int]) -> Panel:
    """Return the panel of a component's markers alone."""
    moved = {old: index for index, old in enumerate(component)}
    indices = {slide: tuple(moved.get(old, UNUSED) for old in found) for slide, found in panel.indices.items()}
    return Panel(tuple(panel.markers[old] for old in component), indices)


def _check_component(encoder: str, names: Sequence[str], keys: Sequence[str], panel: Panel, aliases: Aliases) -> None:
    known = {aliases.key(name) for name in panel.markers}
    unknown = [name for name, key in zip(names, keys, strict=True) if key not in known]
    if unknown or len(set(keys)) < len(keys):
        raise StatedError(
            expected=f"in the markers of dense encoder {encoder} each once, of the run's {', '.join(panel.markers)}",
            found=f"{', '.join(unknown)} not among them" if unknown else f"one twice in {', '.join(names)}",
        )
