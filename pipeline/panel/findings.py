"""Find channels without information, or with that of another channel, by rules on a slide's measures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.errors import StatedError
from pipeline.marker_names import is_nuclear, spelling
from pipeline.panel.measures import ChannelMeasures, PanelMeasures
from pipeline.panel.panel_file import CheckedMarker, MarkerFinding
from pipeline.settings import PanelSettings

# Noise has 0. Channels of real slides had 0.45 and more (Orion, 1.3 to 5.2 um per pixel).
SMALLEST_STRUCTURE = 0.15
# The lower edge of one channel over another: real pairs reached 0.40 (Ki67 and DNA), light that leaks has 0.8 to 1.
SMALLEST_TIGHTNESS = 0.6
# Share of a channel's own range from which on what another channel lends is reported.
SMALLEST_SHARE = 0.1
# Correlation of a channel's finest detail with another's beyond which it shows little else.
OWN_NOTHING = 0.8
# A channel follows another pixel by pixel if the slope of its detail is at least this share of what it is lent.
_FOLLOWS = 0.5
_AUTOFLUORESCENCE = re.compile(r"(?:autofluorescen(?:ce|t)|autofl(?:uo)?|background|af\d*).*")


def autofluorescence_of(channels: Sequence[str], settings: PanelSettings, slide: str) -> str:
    """Return the channel that shows autofluorescence; empty where there is none.

    Raises:
        StatedError: if the settings name one that the slide lacks, or several of it may be meant.
    """
    if settings.autofluorescence is None:
        return next((name for name in channels if _AUTOFLUORESCENCE.fullmatch(spelling(name))), "")
    if not settings.autofluorescence:
        return ""
    wanted = spelling(settings.autofluorescence)
    found = [name for name in channels if spelling(name) == wanted]
    if len(found) != 1:
        expected = f"panel.autofluorescence among the channels {', '.join(channels)}"
        raise StatedError(slide=slide, expected=expected, found=settings.autofluorescence)
    return found[0]


def checked_markers(
    channels: Sequence[str], measures: PanelMeasures, dtype: str, autofluorescence: str, settings: PanelSettings
) -> tuple[CheckedMarker, ...]:
    """Return the measures of every channel with what is wrong with it.

    Args:
        channels: names, in file order.
        measures: of the slide.
        dtype: numpy name of the pixel type.
        autofluorescence: name of that channel; empty for none.
        settings: of the stage.
    """
    own = {
        name: finding
        for name, channel in zip(channels, measures.channels, strict=True)
        if (finding := own_finding(channel, dtype, settings.max_saturated))
    }
    lent = bleeding(channels, measures, spared={*own, autofluorescence})
    source = channels.index(autofluorescence) if autofluorescence else None
    found = []
    for number, (name, channel) in enumerate(zip(channels, measures.channels, strict=True)):
        others = np.delete(np.arange(len(channels)), number)
        closest = int(others[measures.correlation[number, others].argmax()]) if len(others) else number
        findings = [own[name]] if name in own else [finding for finding, _ in lent.get(name, ())]
        beside = [place for place in (number - 1, number + 1) if 0 <= place < len(channels)]
        found.append(
            CheckedMarker(
                marker=name,
                background=_short(channel.background),
                percentiles={key: _short(value) for key, value in channel.percentiles.items()},
                largest=_short(channel.largest),
                saturated=_short(channel.saturated),
                not_finite=_short(channel.not_finite),
                structure=_short(channel.structure),
                seam=_short(channel.seam),
                seam_um=_short(channel.seam_um),
                autofluorescence_r=None if source is None else _short(measures.correlation[source, number]),
                background_factor=0.0 if source is None else _short(measures.lent[source, number]),
                neighbours={channels[place]: _short(measures.correlation[number, place]) for place in beside},
                closest=channels[closest] if closest != number else "",
                closest_r=_short(measures.correlation[number, closest]) if closest != number else 0.0,
                findings=tuple(findings),
                tells_nothing=name in own or any(nothing for _, nothing in lent.get(name, ())),
            )
        )
    return tuple(found)


def own_finding(channel: ChannelMeasures, dtype: str, max_saturated: float) -> MarkerFinding | None:
    """Return whether a channel alone is dead or saturated."""
    kind = np.dtype(dtype)
    full = float(np.iinfo(kind).max) if kind.kind in "iu" else np.inf
    is_flat = channel.structure < SMALLEST_STRUCTURE
    if channel.saturated >= max_saturated and (channel.largest >= full or not is_flat):
        share = f"{channel.saturated:.1%} of the pixels hold the largest value, {channel.largest:g}"
        return MarkerFinding("saturated", f"{share} (panel.max_saturated {max_saturated:g})")
    if is_flat:
        what = "one value all over" if channel.range == 0 else "noise: neighbouring pixels have nothing in common"
        return MarkerFinding(
            "dead", f"{what} (structure {channel.structure:.2f}, expected {SMALLEST_STRUCTURE:g} or more)"
        )
    return None


def bleeding(
    channels: Sequence[str], measures: PanelMeasures, spared: set[str]
) -> Mapping[str, Sequence[tuple[MarkerFinding, bool]]]:
    """Return by channel what another one lends it, each with whether it shows nothing else.

    Of two channels that follow each other the range shows the source: light leaks from the brighter one. Nuclear
    stains are no targets, for markers of nuclei are nowhere without them.

    Args:
        channels: names, in file order.
        measures: of the slide.
        spared: channels that are not asked about, as the dead and the saturated.
    """
    found: dict[str, list[tuple[MarkerFinding, bool]]] = {}
    follows = _follows(measures)
    for number, name in enumerate(channels):
        if name in spared or is_nuclear(name):
            continue
        for source in np.flatnonzero(follows[:, number]).tolist():
            both_ways = follows[number, source] and not is_nuclear(channels[source])
            is_brighter = measures.channels[source].range >= measures.channels[number].range
            if _is_flat_source(channels[source], spared) or (both_ways and not is_brighter):
                continue
            r, lent = measures.correlation[source, number], measures.lent[source, number]
            message = f"shows at least {lent:.3g} of {channels[source]} wherever that is bright (r {r:.2f})"
            found.setdefault(name, []).append((MarkerFinding("bleeding", message), bool(r >= OWN_NOTHING)))
    return found


def _is_flat_source(name: str, spared: set[str]) -> bool:
    """Return whether a channel is dead or saturated; autofluorescence is spared as a target only."""
    return name in spared and not _AUTOFLUORESCENCE.fullmatch(spelling(name))


def _follows(measures: PanelMeasures) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return (C, C) whether channel b (column) follows channel a (row) pixel by pixel, and visibly."""
    ranges = np.array([channel.range for channel in measures.channels])
    bright = np.array([channel.percentiles["99"] - channel.background for channel in measures.channels])
    shares = measures.lent * bright[:, None] / np.maximum(ranges[None], 1e-30)
    return np.asarray(
        (measures.tightness >= SMALLEST_TIGHTNESS)
        & (shares >= SMALLEST_SHARE)
        & (measures.slope >= _FOLLOWS * measures.lent)
        & (measures.lent > 0)
    )


def _short(value: float) -> float:
    """Return a number with six significant digits, which do not depend on the order of a sum."""
    return float(f"{float(value):.6g}")
