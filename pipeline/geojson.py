"""GeoJSON (RFC 7946) as QuPath reads and writes it: collections of polygons whose properties name QuPath's objects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Feature = dict[str, Any]
Points = list[list[float]]

_LARGEST_BYTES = 200 * 2**20


def polygon_feature(rings: Sequence[Points], properties: Mapping[str, Any]) -> Feature:
    """Return a feature; the first ring is the outer one, the others are holes, and each repeats its first point."""
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write_features(path: Path, features: Iterable[Feature], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a collection, one feature per line; features are taken one at a time.

    Args:
        path: the file.
        features: in the order of the file.
        metadata: foreign member of the collection; default none.
    """
    with path.open("w", encoding="utf-8") as stream:
        about = "" if metadata is None else f'"metadata": {json.dumps(metadata, ensure_ascii=False)}, '
        stream.write(f'{{"type": "FeatureCollection", {about}"features": [')
        for number, feature in enumerate(features):
            stream.write((",\n" if number else "\n") + json.dumps(feature, ensure_ascii=False))
        stream.write("\n]}\n")


def read_features(path: Path) -> list[Any]:
    """Return the unchecked features of a file: a FeatureCollection, a list of features, or one feature.

    Raises:
        OSError: if the file cannot be read.
        ValueError: saying what was found instead, if it is larger than 200 MiB, no JSON, or holds no features.
    """
    size = path.stat().st_size
    if size > _LARGEST_BYTES:
        raise ValueError(f"a file of {size >> 20} MiB, over {_LARGEST_BYTES >> 20} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None
    if isinstance(value, dict):
        value = [value] if value.get("type") == "Feature" else value.get("features")
    if not isinstance(value, list):
        raise ValueError("no features")
    return value
