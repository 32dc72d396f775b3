"""The stage predict: what a probe says of the patches of one slide, from H&E features alone, in forms that tools open.

A slide's folder holds `markers.json` (scores, what was left out and why, provenance), `patches.parquet` and, where any
marker is good enough, `markers.png`, `markers.ome.tif` and `tiles.geojson`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.features_file import FeaturesFile, open_features
from pipeline.errors import StatedError
from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED, Probe
from pipeline.prediction.choice import Choice, choose
from pipeline.prediction.marker_image import write_marker_image
from pipeline.prediction.overlay import write_overlay
from pipeline.prediction.table import Predictions, write_table
from pipeline.prediction.tiles_geojson import write_tiles
from pipeline.progress import say
from pipeline.provenance import file_digest, finished, record
from pipeline.settings import PredictSettings
from pipeline.tiling.store import PatchStore

SCHEMA_VERSION = 1


def predict(features: Path, store_path: Path, probe_folder: Path, settings: PredictSettings, out: Path) -> Choice:
    """Writes the folder of one slide and returns which markers were predicted.

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
    choice = choose(probe, settings)
    slide = store.attributes.slide
    with open_features(features) as opened:
        _check(opened, probe, store)
        predictions = Predictions(slide, choice.markers, _predicted(opened, probe, choice))
    digest = file_digest(features)
    inputs = {"store": file_digest(store_path / "zarr.json"), "features": digest, "probe": file_digest(probe_folder)}
    provenance = record("predict", settings, inputs, ("matplotlib", "numpy", "pyarrow", "tifffile"))
    fitted_on = digest in probe.fitted_on
    for marker, reason in choice.left_out.items():
        say(f"predict {slide}: {marker} is not predicted: {reason}")
    with finished(out) as folder:
        folder.mkdir()
        write_table(predictions, store, folder / "patches.parquet", provenance)
        if choice.markers:
            write_overlay(predictions, store, folder / "markers.png", _about(choice, fitted_on))
            identity = json.dumps([slide, provenance["inputs"], provenance["settings"]], sort_keys=True)
            write_marker_image(predictions, store, folder / "markers.ome.tif", identity)
            write_tiles(predictions, store, folder / "tiles.geojson")
        text = json.dumps(_described(slide, probe, choice, fitted_on, provenance), indent=2, ensure_ascii=False)
        (folder / "markers.json").write_text(text + "\n", encoding="utf-8")
    return choice


def _predicted(opened: FeaturesFile, probe: Probe, choice: Choice) -> NDArray[np.float32]:
    columns = list(choice.columns)
    weights, intercept = probe.weights[:, columns], probe.intercept[columns]
    values = np.empty((len(opened), len(columns)), dtype=np.float32)
    for rows, block in opened.blocks():
        values[rows] = block.astype(np.float64) @ weights + intercept
    if not np.isfinite(values).all():
        raise StatedError(slide=opened.slide, file=opened.path, expected="finite features", found="nan or infinity")
    return values


def _check(opened: FeaturesFile, probe: Probe, store: PatchStore) -> None:
    """Raises StatedError unless features, probe and store belong together."""
    encoder = str(opened.attributes.get("encoder", ""))
    if encoder != probe.encoder or opened.width != len(probe.weights):
        raise StatedError(
            slide=opened.slide,
            file=opened.path,
            expected=f"features of the encoder {probe.encoder[:12]} of run {probe.run}, {len(probe.weights)} wide, as "
            "the probe was fitted on",
            found=f"of {encoder[:12] or 'no named encoder'}, {opened.width} wide",
        )
    if not np.array_equal(opened.position_px, store.table.position_px):
        raise StatedError(
            slide=opened.slide,
            file=opened.path,
            expected=f"features of the store's {len(store)} patches, in its order",
            found=f"{len(opened)} others",
        )


def _about(choice: Choice, fitted_on: bool) -> str:
    told = (
        ["The probe was fitted on patches of this slide: it looks better here than on a new one."] if fitted_on else []
    )
    if choice.left_out:
        told.append("Not drawn: " + "; ".join(f"{name} ({reason})" for name, reason in choice.left_out.items()) + ".")
    return " ".join(told)


def _described(slide: str, probe: Probe, choice: Choice, fitted_on: bool, provenance: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "slide": slide,
        "run": probe.run,
        "encoder": probe.encoder,
        "metric": "Pearson r within held-out slides",
        "unit": f"{UNIT}: {UNIT_EXPLAINED}",
        "fitted_on_this_slide": fitted_on,
        "markers": [
            {key: None if value != value else value for key, value in asdict(item).items()} for item in choice.markers
        ],
        "left_out": choice.left_out,
        "provenance": provenance,
    }
