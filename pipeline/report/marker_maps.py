"""Draw the predicted markers of a slide: one pixel per patch, the score in the caption."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.probe_file import MarkerProbe, marker_probe
from pipeline.json_file import MISFIT, read_json
from pipeline.prediction.choice import MOST_DRAWN, by_reason, listed
from pipeline.prediction.colours import TABLE, shades
from pipeline.prediction.out_of_range import scored_on
from pipeline.prediction.table import PREFIX, read_values
from pipeline.report.figures import signed
from pipeline.report.pictures import Picture, palette
from pipeline.report.results import Results, SlideResults
from pipeline.splitting.table import HELD_OUT_FOLD
from pipeline.store.patch_indices import PatchPlaces, patch_places
from pipeline.store.targets import comparable

# A cohort of 200 slides still fits a page that opens at once.
_MOST_MAPS = 200
_MEASURED_PERCENTILES = (2.0, 98.0)  # as the scales of predictions
_MOST_REASONS = 8  # of one slide


@dataclass(frozen=True)
class MarkerMap:
    """One marker over one slide.

    Attributes:
        marker: its name.
        scored: the held-out score, in words.
        scored_on: the patients that the score comes from, in words.
        colours: one pixel per patch.
        measured: the same of the dense side, in its own range; None where no held-out pair shows the marker.
        low: lower end of the colour scale.
        high: upper end.
    """

    marker: str
    scored: str
    scored_on: str
    colours: Picture
    measured: Picture | None
    low: str
    high: str


@dataclass(frozen=True)
class MarkerMaps:
    """The markers of one slide.

    Attributes:
        shown: those that are drawn, best score first.
        others: those that were predicted but are not drawn in the report, in words.
        fitted_on: whether the probe was fitted on this slide.
        range: how much of the slide is unlike what the probe was fitted on, in a sentence.
        places: where the patches lie on the slide.
        values: (N,) per patch in the store's order, of each thing that is drawn, by its title.
    """

    shown: tuple[MarkerMap, ...]
    others: str
    fitted_on: bool
    range: str
    places: PatchPlaces
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class _Told:
    """What markers.json of one slide says."""

    markers: tuple[MarkerProbe, ...]
    left_out: tuple[tuple[str, str], ...]
    out_of_range: tuple[str, ...]
    fitted_on: bool
    range: str


def most_markers(slides: int) -> int:
    """Return how many markers are drawn of each slide at most, so that the page stays bounded."""
    return min(MOST_DRAWN, max(1, _MOST_MAPS // max(slides, 1)))


def marker_maps(slide: SlideResults, results: Results, most: int) -> MarkerMaps | None:
    """Return the maps of one slide; None where it has no predictions or none of its markers was good enough.

    Raises:
        StatedError: if its predictions cannot be read or are those of other patches.
    """
    folder = results.predictions.get(slide.slide)
    places = patch_places(slide.store) if slide.store else None
    if folder is None or places is None:
        return None
    predictions = _read(slide.slide, folder)
    if not predictions.markers:
        return None
    markers = sorted(predictions.markers, key=lambda item: -item.score if math.isfinite(item.score) else math.inf)
    shown = markers[:most]
    values = read_values(folder / "patches.parquet", [item.marker for item in shown])
    if len(values) != len(places.row):
        expected = f"predictions of the store's {len(places.row)} patches"
        raise StatedError(slide=slide.slide, file=folder, expected=expected, found=str(len(values)))
    measured = {item.marker: _measured(slide, item.marker) for item in shown}
    return MarkerMaps(
        shown=tuple(
            _map(item, values[:, column], places, _measured_picture(measured[item.marker], places))
            for column, item in enumerate(shown)
        ),
        others=listed([item.marker for item in markers[most:]]),
        fitted_on=predictions.fitted_on,
        range=predictions.range,
        places=places,
        values={f"{PREFIX}{item.marker}": values[:, column].astype(np.float64) for column, item in enumerate(shown)}
        | {f"measured {marker}": known for marker, known in measured.items() if known is not None},
    )


def marker_switch(maps: Sequence[MarkerMaps], nuclear: Collection[str]) -> list[str]:
    """Return the markers that one switch draws over all slides, as it lists them.

    Best score first, but it opens on one that is not of nuclei where there is one: nuclei are plain in H&E.

    Args:
        maps: of the slides.
        nuclear: names of markers of nuclei.
    """
    names = list(dict.fromkeys(item.marker for one in maps for item in one.shown))
    first = next((name for name in names if name not in nuclear), None)
    return names if first is None else [first, *(name for name in names if name != first)]


def left_out_markers(results: Results) -> tuple[tuple[str, str], ...]:
    """Return markers and the reason why predict left them out on every slide: one probe speaks for all.

    Those with the same reason stand together, of many the first and their number.

    Raises:
        StatedError: if what predict wrote cannot be read.
    """
    for slide, folder in results.predictions.items():
        predictions = _read(slide, folder)
        reasons = by_reason(
            {name: reason for name, reason in predictions.left_out if name not in predictions.out_of_range}
        )
        return tuple((listed(names), reason) for reason, names in reasons.items())
    return ()


def slides_out_of_range(results: Results) -> tuple[tuple[str, str, str], ...]:
    """Return slides of which predict left out maps, being unlike what the probe was fitted on: slide, markers, and why.

    Raises:
        StatedError: if what predict wrote cannot be read.
    """
    found = []
    for slide, folder in results.predictions.items():
        predictions = _read(slide, folder)
        if predictions.out_of_range:
            # Of a slide that is unlike as a whole the reason is the same for every marker.
            reasons = dict.fromkeys(reason for name, reason in predictions.left_out if name in predictions.out_of_range)
            found.append((slide, listed(predictions.out_of_range), "; ".join(list(reasons)[:_MOST_REASONS])))
    return tuple(found)


def _read(slide: str, folder: Path) -> _Told:
    path = folder / "markers.json"
    try:
        predictions: Any = read_json(path)
        if not isinstance(predictions, dict):
            raise ValueError(f"{type(predictions).__name__}, not an object")
        return _Told(
            markers=tuple(marker_probe(item) for item in predictions["markers"]),
            left_out=tuple((str(name), str(predictions["left_out"][name])) for name in predictions["left_out"]),
            # Predictions of an older version do not say more.
            out_of_range=tuple(map(str, predictions.get("out_of_range", ()))),
            fitted_on=bool(predictions["fitted_on_this_slide"]),
            range=str(predictions["range"]["words"]) if "range" in predictions else "",
        )
    except (OSError, *MISFIT) as error:
        raise StatedError(slide=slide, file=path, expected="what predict wrote", found=repr(error)) from None


def _map(marker: MarkerProbe, values: NDArray[np.float32], places: PatchPlaces, measured: Picture | None) -> MarkerMap:
    colours = _picture(shades(values, marker), places)
    ends = signed(marker.scale_low), signed(marker.scale_high)
    return MarkerMap(marker.marker, marker.scored(), scored_on(marker), colours, measured, *ends)


def _measured(slide: SlideResults, marker: str) -> NDArray[np.float64] | None:
    """Return what the dense side shows of a marker on the pairs of a held-out slide, (N,); nan where there is no pair.

    None where no held-out pair shows the marker, or all alike.
    """
    store = slide.store
    if store is None or not store.has_dense or slide.folds != (HELD_OUT_FOLD,):
        return None
    if marker not in store.attributes.markers:
        return None
    column = store.attributes.markers.index(marker)
    means = store.table.marker_mean[:, [column]].astype(np.float64)
    values = comparable(means, store.attributes.dense_kind)[:, 0]
    values[store.table.pair_quality <= 0] = np.nan
    known = values[np.isfinite(values)]
    return values if len(known) and known.min() < known.max() else None


def _measured_picture(values: NDArray[np.float64] | None, places: PatchPlaces) -> Picture | None:
    """Return what was measured from its 2nd to its 98th percentile."""
    if values is None:
        return None
    low, high = np.percentile(values[np.isfinite(values)], _MEASURED_PERCENTILES)
    return _picture(np.clip((values - low) / max(high - low, 1e-300), 0, 1), places)


def _picture(shares: NDArray[np.float64], places: PatchPlaces) -> Picture:
    """Return shares (N,) of the scale in 254 shades, one pixel per patch; without a patch or value transparent."""
    index = np.full(places.shape, 255, dtype=np.uint8)
    known = np.isfinite(shares)
    index[places.row[known], places.column[known]] = np.rint(shares[known] * 254).astype(np.uint8)
    return palette(index, TABLE, transparent=255)
