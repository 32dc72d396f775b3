"""The stage predict: what a probe says of the patches of one slide, from H&E features alone, in forms that tools open.

A slide's folder holds `markers.json` (scores, what was left out and why, how much of the slide is unlike what the probe
was fitted on, provenance), `patches.parquet` and, where any marker is drawn, `markers.png`, `markers.ome.tif` and
`tiles.geojson`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.features_file import FeaturesFile, difference, open_features
from pipeline.errors import StatedError
from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED, Probe
from pipeline.prediction.choice import MOST_DRAWN, Choice, best_columns, by_reason, choose, listed
from pipeline.prediction.marker_image import write_marker_image
from pipeline.prediction.out_of_range import (
    MarkerRange,
    SlideRange,
    beyond_in_words,
    marker_range,
    out_of_range,
    scored_on,
    slide_range,
)
from pipeline.prediction.overlay import write_overlay
from pipeline.prediction.table import Predictions, write_table
from pipeline.prediction.tiles_geojson import write_tiles
from pipeline.progress import say
from pipeline.provenance import file_digest, finished, record
from pipeline.settings import PredictSettings
from pipeline.store.patch_store import PatchStore

SCHEMA_VERSION = 2

# Of a marker's predictions: a few beyond what was seen in the fit are to be expected.
_WORTH_TELLING = 0.05


def predict(features: Path, store_path: Path, probe_folder: Path, settings: PredictSettings, out: Path) -> None:
    """Write the folder of one slide.

    Args:
        features: of the slide, as embed wrote them.
        store_path: the slide's store; a dense side is neither needed nor read.
        probe_folder: the probe.
        settings: of the stage.
        out: the folder to write.

    Raises:
        StatedError: if the features are of another encoder than the probe's, or of other patches than the store's, or
            if the settings ask for a marker that the probe does not have.
    """
    probe, store = Probe.load(probe_folder), PatchStore.open(store_path)
    slide = store.attributes.slide
    with open_features(features) as opened:
        _check(opened, probe, store)
        found = _found(opened, probe, choose(probe, settings), settings)
    choice = found.choice
    digest = file_digest(features)
    inputs = {"store": file_digest(store_path / "zarr.json"), "features": digest, "probe": file_digest(probe_folder)}
    provenance = record("predict", settings, inputs, ("matplotlib", "numpy", "pyarrow", "tifffile"))
    fitted_on = digest in probe.fitted_on
    about = _about(found, fitted_on)
    predictions = Predictions(slide, choice.markers, found.values, found.distance, " ".join(about))
    drawn = predictions.only(best_columns(choice.markers))
    _say(slide, found, len(drawn.markers))
    with finished(out) as folder:
        folder.mkdir()
        write_table(predictions, store, folder / "patches.parquet", provenance)
        if choice.markers:
            write_overlay(drawn, store, folder / "markers.png")
            identity = json.dumps([slide, provenance["inputs"], provenance["settings"]], sort_keys=True)
            write_marker_image(drawn, store, folder / "markers.ome.tif", identity)
            write_tiles(drawn, store, folder / "tiles.geojson")
        text = json.dumps(_described(slide, probe, found, fitted_on, provenance), indent=2, ensure_ascii=False)
        (folder / "markers.json").write_text(text + "\n", encoding="utf-8")


def _say(slide: str, found: _Predicted, drawn: int) -> None:
    """Print how the slide lies to what was fitted, and which markers are not predicted, in a line per reason."""
    say(f"predict {slide}: {found.range.words}")
    markers = found.choice.markers
    beyond = [pair for pair in zip(markers, found.marker_ranges, strict=True) if pair[1].beyond > _WORTH_TELLING]
    if len(beyond) > MOST_DRAWN:
        names = listed([item.marker for item, _ in beyond])
        say(f"predict {slide}: {names}: more than {_WORTH_TELLING:.0%} of the predictions leave the range of the fit")
    else:
        for item, known in beyond:
            say(f"predict {slide}: {item.marker}: {beyond_in_words(item, known)}")
    for reason, left in by_reason(found.choice.left_out).items():
        say(f"predict {slide}: {listed(left)} {'is' if len(left) == 1 else 'are'} not predicted: {reason}")
    if drawn < len(markers):
        say(f"predict {slide}: {len(markers)} are predicted; the {drawn} best by held-out score are drawn")


@dataclass(frozen=True)
class _Predicted:
    """What a probe says of a slide.

    Attributes:
        choice: the markers, those out of range on this slide among those that are left out.
        values: (N, T) predictions of the markers of the choice.
        distance: (N,) of the patches from those fitted on; None where the probe does not know.
        range: the slide beside what the probe was fitted on.
        marker_ranges: the predictions beside those that were fitted or scored on, T of them.
        out_of_range: the markers that are left out because they are out of range here, and why.
    """

    choice: Choice
    values: NDArray[np.float32]
    distance: NDArray[np.float32] | None
    range: SlideRange
    marker_ranges: tuple[MarkerRange, ...]
    out_of_range: dict[str, str]


def _found(opened: FeaturesFile, probe: Probe, choice: Choice, settings: PredictSettings) -> _Predicted:
    columns = list(choice.columns)
    weights, intercept = probe.weights[:, columns], probe.intercept[columns]
    values = np.empty((len(opened), len(columns)), dtype=np.float32)
    distance = None if probe.fitted is None else np.empty(len(opened), dtype=np.float32)
    for rows, block in opened.blocks():
        values[rows] = block.astype(np.float64) @ weights + intercept
        if probe.fitted is not None and distance is not None:
            distance[rows] = probe.fitted.distance(block)
    slide = slide_range(probe, distance)
    ranges = tuple(marker_range(marker, values[:, place]) for place, marker in enumerate(choice.markers))
    reasons = out_of_range(choice, slide, ranges, settings)
    kept = [place for place, marker in enumerate(choice.markers) if marker.marker not in reasons]
    within = Choice(
        tuple(choice.columns[place] for place in kept),
        tuple(choice.markers[place] for place in kept),
        choice.left_out | reasons,
    )
    return _Predicted(within, values[:, kept], distance, slide, tuple(ranges[place] for place in kept), reasons)


def _check(opened: FeaturesFile, probe: Probe, store: PatchStore) -> None:
    """Raise StatedError unless features, probe and store belong together."""
    encoder = str(opened.attributes.get("encoder", ""))
    if encoder != probe.encoder or opened.width != len(probe.weights):
        raise StatedError(
            slide=opened.slide,
            file=opened.path,
            expected=f"features of the encoder {probe.encoder[:12]} of run {probe.run}, {len(probe.weights)} wide, as "
            "the probe was fitted on",
            found=f"of {encoder[:12] or 'no named encoder'}, {opened.width} wide",
        )
    known = store.attributes
    cut = (opened.size_px, opened.size_level0_px)
    if cut != (known.size_px, known.patch_size_level0):
        raise StatedError(
            slide=opened.slide,
            file=opened.path,
            expected=f"patches of {known.size_px} px, {known.patch_size_level0} at level 0, as in the store",
            found=f"{cut[0]} px, {cut[1]} at level 0",
        )
    if not np.array_equal(opened.position_px, store.table.position_px):
        raise StatedError(
            slide=opened.slide,
            file=opened.path,
            expected=f"features of the store's {len(store)} patches, in its order",
            found=difference(opened.position_px, store.table.position_px),
        )


def _about(found: _Predicted, fitted_on: bool) -> list[str]:
    """Return what has to be known of this slide, of the scores and of markers left out, in sentences."""
    notes = ["The probe was fitted on patches of this slide: it looks better here than on a new one."] * fitted_on
    notes.append(found.range.words)
    scored = dict.fromkeys(scored_on(marker) for marker in found.choice.markers)
    notes += [f"Scores were measured {how}." for how in scored] if len(scored) == 1 else []
    if found.choice.left_out:
        reasons = (f"{listed(names)} ({reason})" for reason, names in by_reason(found.choice.left_out).items())
        notes.append(f"Not drawn: {'; '.join(reasons)}.")
    return notes


def _described(
    slide: str, probe: Probe, found: _Predicted, fitted_on: bool, provenance: dict[str, Any]
) -> dict[str, Any]:
    choice = found.choice
    markers = [
        asdict(item) | {"predictions": asdict(ranges)}
        for item, ranges in zip(choice.markers, found.marker_ranges, strict=True)
    ]
    described: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "slide": slide,
        "run": probe.run,
        "encoder": probe.encoder,
        "metric": "Pearson r within held-out slides",
        "unit": f"{UNIT}: {UNIT_EXPLAINED}",
        "fitted_on_this_slide": fitted_on,
        "fitted_on_patients": None if probe.fitted is None else list(probe.fitted.patients),
        "range": asdict(found.range),
        "markers": markers,
        "left_out": choice.left_out,
        "out_of_range": list(found.out_of_range),
        "provenance": provenance,
    }
    return {key: _without_nan(value) for key, value in described.items()}


def _without_nan(value: Any) -> Any:
    """Return the same with null for nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
