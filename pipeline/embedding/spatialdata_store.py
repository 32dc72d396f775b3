"""SpatialData's Zarr format, with the names by which LazySlide (wsidata) finds tiles and features in it.

`shapes/tiles` holds the patches as squares in level-0 pixels, `tables/{encoder}_tiles` the features, the attributes
`tile_spec` and `slide_properties` how the patches were cut; names and keys as wsidata 0.12 reads them.
"""

from __future__ import annotations

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.embedding.features_file import FeaturesFile
from pipeline.errors import StatedError
from pipeline.provenance import finished

if TYPE_CHECKING:
    import anndata
    import geopandas

PACKAGES = ("spatialdata", "anndata", "geopandas", "shapely")
TILES = "tiles"


def write_spatialdata(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """A Zarr folder for `spatialdata.read_zarr`, and for LazySlide beside the slide: `open_wsi(slide, store=out)`.

    Raises:
        StatedError: if the packages are absent; they are no extra of ours, as they want an older pandas than is
            tested here.
    """
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        raise StatedError(
            expected=f"the packages {', '.join(PACKAGES)} (pip install spatialdata)",
            found=f"no {', '.join(absent)}",
        )
    import spatialdata
    from spatialdata.models import ShapesModel

    about = {"encoder": opened.encoder, "slide": opened.slide, "provenance": json.dumps(provenance, sort_keys=True)}
    attributes = {
        "tile_spec": {TILES: tile_specification(opened)},
        "slide_properties": slide_properties(opened),
        "more_from_less": about,
    }
    data = spatialdata.SpatialData(
        shapes={TILES: ShapesModel.parse(_squares(opened))},
        tables={table_name(opened): _table(opened)},
        attrs=attributes,
    )
    with finished(out) as temporary:
        data.write(temporary)


def table_name(opened: FeaturesFile) -> str:
    """Name of the features' table; letters that SpatialData refuses in names become underscores."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', opened.encoder)}_{TILES}"


def tile_specification(opened: FeaturesFile) -> dict[str, Any]:
    """How the patches were cut, in wsidata's words; patches of a side that is not whole at level 0 are rounded."""
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
    """What is known of the slide, in wsidata's words: um per pixel, and its size where the file tells it."""
    known: dict[str, Any] = {"mpp": opened.level0_mpp()}
    if {"level0_width", "level0_height"} <= opened.attributes.keys():
        known["shape"] = [int(opened.attributes[name]) for name in ("level0_height", "level0_width")]
    return known


def _squares(opened: FeaturesFile) -> geopandas.GeoDataFrame:
    import geopandas
    import shapely

    x, y = opened.position_px.T
    side = opened.size_level0_px
    columns = {"tile_id": np.arange(len(opened)), "x": x, "y": y, "tissue_id": np.zeros(len(opened), dtype=np.int64)}
    return geopandas.GeoDataFrame(columns, geometry=shapely.box(x, y, x + side, y + side))


def _table(opened: FeaturesFile) -> anndata.AnnData:
    import anndata
    import pandas as pd
    from spatialdata.models import TableModel

    rows = np.arange(len(opened))
    library = pd.Categorical([TILES] * len(opened))
    obs = pd.DataFrame({"tile_id": rows, "library_id": library}, index=rows.astype(str))
    features = np.concatenate([block for _, block in opened.blocks()])
    centres_px = opened.position_px + (opened.size_level0_px - 1) / 2
    table = anndata.AnnData(X=features, obs=obs, obsm={"spatial": centres_px})
    return TableModel.parse(table, region=TILES, region_key="library_id", instance_key="tile_id")
