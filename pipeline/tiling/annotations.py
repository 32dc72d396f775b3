"""Read and write regions of a slide as QuPath's GeoJSON annotations in level-0 pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.frame import Floats
from pipeline.geojson import Feature, Points, polygon_feature, read_features, write_features
from pipeline.tiling.outlines import Polygon, paint, polygons_of
from pipeline.tiling.regions import EXCLUDED, GLASS, REGIONS, TISSUE, Regions

_COLOURS = {
    "tissue": (60, 160, 80),
    "blur": (120, 120, 120),
    "fold": (200, 120, 0),
    "pen": (30, 80, 220),
    "exclude": (200, 30, 30),
}
# QuPath's own class for what is not to be looked at.
_OTHER_NAMES = {"ignore*": EXCLUDED}
_NO_REGIONS = ("detection", "cell", "tile", "tma_core", "root")
_FARTHEST_PX = 1e7


@dataclass(frozen=True)
class GivenRegions:
    """The annotations of one slide.

    Attributes:
        polygons: region (a code of `pipeline.tiling.regions`) and rings of each polygon, in level-0 pixels.
        path: the file.
        origin_px: level-0 pixel from which the file counts.
    """

    polygons: tuple[tuple[int, Polygon], ...]
    path: Path
    origin_px: tuple[int, int] = (0, 0)

    @property
    def decides_tissue(self) -> bool:
        """Whether tissue is annotated; then the annotations are all there is, and nothing is looked for."""
        return any(region == TISSUE for region, _ in self.polygons)

    def laid_over(self, regions: Regions, mpp: float, mpp_level0: float, size_level0_px: tuple[int, int]) -> Regions:
        """Return the regions of an overview with these laid over them, in the order of the codes.

        A pixel belongs to a polygon if the centre of the part of it that lies on the slide does.
        """
        laid = np.full_like(regions, GLASS) if self.decides_tissue else regions.copy()
        x, y = (
            _centres(count, mpp / mpp_level0, size)
            for count, size in zip(regions.shape[::-1], size_level0_px, strict=True)
        )
        for region, polygon in sorted(self.polygons, key=lambda item: item[0]):
            paint(laid, polygon, region, x, y)
        return laid

    def counted_from(self, origin_px: tuple[int, int]) -> GivenRegions:
        """Return the regions as they would lie, did the file count from another pixel."""
        shift = np.array(origin_px) - self.origin_px
        moved = tuple((region, [ring + shift for ring in polygon]) for region, polygon in self.polygons)
        return GivenRegions(moved, self.path, origin_px)


def write_annotations(
    path: Path,
    regions: Regions,
    mpp: float,
    mpp_level0: float,
    size_level0_px: tuple[int, int],
    origin_px: tuple[int, int] = (0, 0),
) -> None:
    """Write one annotation per connected piece of each region that is not glass, counted from `origin_px`."""
    features = []
    for name, region in REGIONS.items():
        for rings in polygons_of(regions == region):
            scaled = [np.asarray(ring * (mpp / mpp_level0), dtype=np.float64) for ring in rings]
            coordinates = [_closed(ring, size_level0_px, origin_px) for ring in scaled]
            features.append(_feature(name, coordinates))
    write_features(path, features)


def read_annotations(
    path: Path, size_level0_px: tuple[int, int], *, slide: str, origin_px: tuple[int, int] = (0, 0)
) -> GivenRegions:
    """Return the annotations in a GeoJSON file: a FeatureCollection, a list of features, or one feature.

    Their coordinates count from the level-0 pixel `origin_px`.

    An annotation's classification, or where it has none its name, says what it is: Tissue, Exclude (or QuPath's
    Ignore*), Pen, Fold or Blur, in small letters or capitals. Detections, cells and tiles are skipped.

    Raises:
        StatedError: if the file cannot be read, holds another kind of annotation or shape, or lies off the slide.
    """
    reading = _AnnotationFile(path, slide, size_level0_px, origin_px)
    polygons = [
        item for number, feature in enumerate(reading.features(), 1) for item in reading.regions(feature, number)
    ]
    if not polygons:
        reading.refuse("none")
    return GivenRegions(tuple(polygons), path, origin_px)


@dataclass(frozen=True)
class _AnnotationFile:
    """A file that is being read."""

    path: Path
    slide: str
    size_px: tuple[int, int]
    origin_px: tuple[int, int]

    def refuse(self, found: str) -> NoReturn:
        names = ", ".join(name.capitalize() for name in REGIONS)
        expected = f"GeoJSON polygons in level-0 pixels, annotated {names}"
        raise StatedError(slide=self.slide, file=self.path, expected=expected, found=found)

    def features(self) -> list[Any]:
        """Return all features, unchecked."""
        try:
            return read_features(self.path)
        except (OSError, ValueError) as error:
            self.refuse(str(error))

    def regions(self, feature: Any, number: int) -> Iterator[tuple[int, Polygon]]:
        """Yield region and rings of the polygons of one feature."""
        properties = feature.get("properties") if isinstance(feature, dict) else None
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        if not isinstance(properties, dict) or not isinstance(geometry, dict):
            self.refuse(f"feature {number} without properties or geometry")
        if str(properties.get("objectType", "annotation")).lower() in _NO_REGIONS:
            return
        name = _name(properties)
        known = REGIONS | _OTHER_NAMES
        if name.strip().lower() not in known:
            self.refuse(f"feature {number} named {name!r:.60}" if name else f"feature {number} without a class or name")
        kind, coordinates = geometry.get("type"), geometry.get("coordinates")
        if kind not in ("Polygon", "MultiPolygon"):
            self.refuse(f"feature {number}, a {kind!s:.40}")
        polygons = [coordinates] if kind == "Polygon" else coordinates
        if not isinstance(polygons, list) or not polygons:
            self.refuse(f"feature {number} without coordinates")
        for polygon in polygons:
            if not isinstance(polygon, list) or not polygon:
                self.refuse(f"feature {number} with an empty polygon")
            rings = [self._ring(ring, number) for ring in polygon]
            if (rings[0].max(axis=0) < 0).any() or (rings[0].min(axis=0) > self.size_px).any():
                counted = f", counted from {self.origin_px} (tile.qupath_crop)" if any(self.origin_px) else ""
                self.refuse(f"feature {number} off the slide of {self.size_px[0]} x {self.size_px[1]} px{counted}")
            yield known[name.strip().lower()], rings

    def _ring(self, ring: Any, number: int) -> Floats:
        try:
            points = np.array([point[:2] for point in ring], dtype=np.float64)
        except (TypeError, ValueError, KeyError, OverflowError):
            self.refuse(f"feature {number} with coordinates that are not pairs of numbers")
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            self.refuse(f"feature {number} with a ring of fewer than three points")
        if not (np.abs(points) < _FARTHEST_PX).all():
            self.refuse(f"feature {number} with coordinates that are not finite or beyond {_FARTHEST_PX:g}")
        counted: Floats = points + np.array(self.origin_px)
        return counted


def _name(properties: dict[str, Any]) -> str:
    given = properties.get("classification")
    if isinstance(given, dict):
        names = given.get("names")
        found = given.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else "")
        return str(found or "")
    return str(given or properties.get("name") or "")


def _feature(name: str, rings: list[Points]) -> Feature:
    classification = {"name": name.capitalize(), "color": list(_COLOURS[name])}
    return polygon_feature(rings, {"objectType": "annotation", "classification": classification})


def _closed(ring: Floats, size_px: Sequence[int], origin_px: Sequence[int]) -> Points:
    """Return the ring closed as GeoJSON wants, cut where the last overview pixel leaves the slide."""
    inside = np.round(np.minimum(ring, size_px) - np.array(origin_px), 3)
    points: Points = [*inside.tolist(), inside[0].tolist()]
    return points


def _centres(count: int, side_px: float, size_px: int) -> NDArray[np.float64]:
    edges = np.minimum(np.arange(count + 1) * side_px, size_px)
    return np.asarray((edges[:-1] + edges[1:]) / 2, dtype=np.float64)
