"""Predictions as GeoJSON for QuPath: a tile object per patch, its measurements named with the held-out scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.evaluation.probe_file import UNIT, MarkerProbe
from pipeline.prediction.table import Predictions
from pipeline.store.patch_store import PatchStore

DISTANCE_NAME = "distance from the patches fitted on, 1 = limit"


def measurement_name(marker: MarkerProbe) -> str:
    """Return the name under which QuPath shows a marker's prediction, its score beside it."""
    return f"{marker.marker} predicted, {UNIT}, held-out {marker.scored()}"


def write_tiles(predictions: Predictions, store: PatchStore, path: Path) -> None:
    """Write squares in level-0 pixels from where QuPath counts; the measurement `row` leads to the table."""
    names = [measurement_name(item) for item in predictions.markers]
    distance = predictions.distance
    side = store.attributes.patch_size_level0
    corners = store.table.position_px - np.array(store.attributes.qupath_origin_px)
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        for row, ((x, y), values) in enumerate(zip(corners.tolist(), predictions.values.tolist(), strict=True)):
            ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
            measured: dict[str, float] = {"row": row}
            if distance is not None:
                measured[DISTANCE_NAME] = round(float(distance[row]), 4)
            measured |= {name: round(value, 4) for name, value in zip(names, values, strict=True)}
            properties = {"objectType": "tile", "name": f"patch {row}", "measurements": measured}
            geometry = {"type": "Polygon", "coordinates": [ring]}
            feature = {"type": "Feature", "geometry": geometry, "properties": properties}
            stream.write(("," if row else "") + "\n" + json.dumps(feature, ensure_ascii=False))
        stream.write("\n]}\n")
