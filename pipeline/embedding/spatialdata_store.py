"""SpatialData's Zarr format, with the names by which LazySlide (wsidata) finds tiles and features in it.

Written from what SpatialData documents and writes, so that the package itself is not needed: `shapes/tiles` holds the
patches as squares in level-0 pixels (GeoParquet 1.0), `tables/{encoder}_tiles` the features in AnnData's layout, the
attributes `tile_spec` and `slide_properties` how the patches were cut; names and keys as wsidata 0.12 reads them.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import zarr
from numpy.typing import NDArray

from pipeline.embedding.anndata_layout import Category, write_about, write_features
from pipeline.embedding.features_file import FeaturesFile
from pipeline.provenance import finished

TILES = "tiles"
# SpatialData's names for the layouts of a folder, of its shapes and of its tables.
_FOLDER, _SHAPES, _TABLES = "0.2", "0.3", "0.2"
_GEO = {
    "version": "1.0.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}},
}
# A polygon of one closed ring of five corners in well-known binary, little-endian.
_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])


def write_spatialdata(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write a Zarr folder for `spatialdata.read_zarr` and for LazySlide's `open_wsi(slide, store=out)`."""
    about = {"encoder": opened.encoder, "slide": opened.slide, "provenance": json.dumps(provenance, sort_keys=True)}
    attributes = {
        "spatialdata_attrs": {"version": _FOLDER},
        "tile_spec": {TILES: tile_specification(opened)},
        "slide_properties": slide_properties(opened),
        "more_from_less": about,
    }
    with finished(out) as temporary:
        root = zarr.create_group(temporary, zarr_format=3, attributes=attributes)
        _write_shapes(root.create_group("shapes").create_group(TILES), temporary / "shapes" / TILES, opened)
        _write_table(root.create_group("tables").create_group(table_name(opened)), opened)


def table_name(opened: FeaturesFile) -> str:
    """Name of the features' table; letters that SpatialData refuses in names become underscores."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', opened.encoder)}_{TILES}"


def tile_specification(opened: FeaturesFile) -> dict[str, Any]:
    """Return how the patches were cut, in wsidata's words.

    Patches of a side that is not whole at level 0 are rounded.
    """
    side, base = opened.size_px, opened.size_level0_px
    downsample = base / side
    if int(side * downsample) < base:  # wsidata cuts the product, it does not round it.
        downsample = math.nextafter(downsample, math.inf)
    overlap = int(opened.attributes.get("overlap", 0))
    return {
        "height": side,
        "width": side,
        "stride_height": side - overlap,
        "stride_width": side - overlap,
        "mpp": opened.mpp if opened.mpp is not None else opened.level0_mpp() * downsample,
        "ops_level": 0,
        "ops_downsample": downsample,
        "base_level": 0,
        "base_downsample": downsample,
        "tissue_name": None,
    }


def slide_properties(opened: FeaturesFile) -> dict[str, Any]:
    """Return what is known of the slide, in wsidata's words: um per pixel, and its size where the file tells it."""
    known: dict[str, Any] = {"mpp": opened.level0_mpp()}
    if {"level0_width", "level0_height"} <= opened.attributes.keys():
        known["shape"] = [int(opened.attributes[name]) for name in ("level0_height", "level0_width")]
    return known


def _write_shapes(group: zarr.Group, folder: Path, opened: FeaturesFile) -> None:
    axes = [{"name": name, "type": "space", "unit": "unit"} for name in "xy"]
    frames = {"input": {"name": "xy", "axes": axes}, "output": {"name": "global", "axes": axes}}
    same: dict[str, Any] = {"type": "identity", **frames}
    group.attrs.update(
        {
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            "coordinateTransformations": [same],
            "spatialdata_attrs": {"version": _SHAPES},
        }
    )
    x, y = opened.position_px.T
    rows = np.arange(len(opened), dtype=np.int64)
    columns = {"tile_id": rows, "x": x, "y": y, "tissue_id": np.zeros_like(rows), "geometry": _squares(opened)}
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(_GEO)}), folder / "shapes.parquet")


def _squares(opened: FeaturesFile) -> list[bytes]:
    """Return the patches' outlines in level-0 pixels, as well-known binary."""
    squares: NDArray[Any] = np.zeros(len(opened), dtype=_WKB)
    for name, value in (("order", 1), ("type", 3), ("rings", 1), ("points", 5)):
        squares[name] = value
    corners = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]]) * opened.size_level0_px
    squares["xy"] = opened.position_px[:, None] + corners
    return [square.tobytes() for square in squares]


def _write_table(group: zarr.Group, opened: FeaturesFile) -> None:
    rows = np.arange(len(opened), dtype=np.int64)
    annotates = {"region": TILES, "region_key": "library_id", "instance_key": "tile_id"}
    library = Category([TILES], np.zeros(len(opened), dtype=np.int8))
    write_features(group, [opened], [str(row) for row in rows], {"tile_id": rows, "library_id": library})
    write_about(group, "spatialdata_attrs", annotates)
    group.attrs.update({"spatialdata-encoding-type": "ngff:regions_table", **annotates, "version": _TABLES})
