"""Write predictions as GeoJSON for QuPath: a tile object per patch, held-out scores in the metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED, MarkerProbe
from pipeline.geojson import Feature, polygon_feature, write_features
from pipeline.prediction.table import Predictions
from pipeline.store.patch_store import PatchStore

DISTANCE_NAME = "distance from the patches fitted on, 1 = limit"


def measurement_name(marker: MarkerProbe) -> str:
    """Return the name under which QuPath shows a marker's prediction: the same in every run."""
    return f"{marker.marker} (predicted)"


def _metadata(predictions: Predictions) -> dict[str, Any]:
    """Return what the measurements are, by name: foreign members of the collection, as RFC 7946 has them."""
    scores = {
        measurement_name(item): {
            "score": _number(item.score),
            "low": _number(item.low),
            "high": _number(item.high),
            "patients": list(item.patients),
        }
        for item in predictions.markers
    }
    return {
        "slide": predictions.slide,
        "metric": "Pearson r within slides on held-out patches, low and high: its 95 % interval",
        "unit": f"{UNIT}: {UNIT_EXPLAINED}",
        "about": predictions.range,
        "measurements": scores,
    }


def _number(value: float) -> float | None:
    """Return the value with four decimals; None for nan, which JSON does not know."""
    return round(value, 4) if math.isfinite(value) else None


def write_tiles(predictions: Predictions, store: PatchStore, path: Path) -> None:
    """Write squares in level-0 pixels from where QuPath counts; the measurement `row` leads to the table.

    The collection's `metadata` holds the meaning of the measurements and each marker's held-out score, once.
    """
    write_features(path, _tiles(predictions, store), _metadata(predictions))


def _tiles(predictions: Predictions, store: PatchStore) -> Iterator[Feature]:
    names = [measurement_name(item) for item in predictions.markers]
    distance = predictions.distance
    side = store.attributes.patch_size_level0
    corners = store.table.position_px - np.array(store.attributes.qupath_origin_px)
    for row, ((x, y), values) in enumerate(zip(corners.tolist(), predictions.values.tolist(), strict=True)):
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        measured: dict[str, float] = {"row": row}
        if distance is not None:
            measured[DISTANCE_NAME] = round(float(distance[row]), 4)
        measured |= {name: round(value, 4) for name, value in zip(names, values, strict=True)}
        yield polygon_feature([ring], {"objectType": "tile", "name": f"patch {row}", "measurements": measured})
