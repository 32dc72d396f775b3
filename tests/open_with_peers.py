"""Opens what `convert` wrote with other tools' own readers, in .venv-peers, and prints what they found as JSON.

Usage: python open_with_peers.py FILE.h5ad STORE.zarr SLIDE.tif NEW.zarr
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anndata
import numpy as np
import spatialdata
import wsidata


def by_anndata(path: str) -> dict[str, Any]:
    found = anndata.read_h5ad(path)
    return {
        "X": found.X.tolist(),
        "names": found.obs_names.tolist(),
        "obs": found.obs.to_dict("list"),
        "spatial": found.obsm["spatial"].tolist(),
        "mpp_level0": float(found.uns["more_from_less"]["mpp_level0"]),
        "encoder": found.uns["more_from_less"]["encoder"],
    }


def by_spatialdata(path: str) -> dict[str, Any]:
    found = spatialdata.read_zarr(path)
    (table,) = found.tables
    squares = found.shapes["tiles"]
    joined, _ = spatialdata.join_spatialelement_table(sdata=found, spatial_element_names="tiles", table_name=table)
    return {
        "table": table,
        "X": found.tables[table].X.tolist(),
        "spatial": found.tables[table].obsm["spatial"].tolist(),
        "region": found.tables[table].uns["spatialdata_attrs"]["region"],
        "bounds": squares.bounds.to_numpy().tolist(),
        "areas": squares.area.tolist(),
        "annotated": len(joined["tiles"]),
        "slide_properties": found.attrs["slide_properties"],
    }


def by_lazyslide(slide_path: str, path: str, encoder: str) -> dict[str, Any]:
    slide = wsidata.open_wsi(slide_path, store=path)
    cut = slide.tile_spec("tiles")
    sides = {"width": cut.ops_width, "height": cut.ops_height, "level": cut.ops_level}
    corners = slide.shapes["tiles"].bounds.to_numpy()[:, :2].astype(int)
    pixels = [slide.reader.get_region(x, y, **sides) for x, y in corners.tolist()]
    return {
        "X": slide.fetch.features_anndata(encoder, tile_key="tiles").X.tolist(),
        "mpp": slide.properties.mpp,
        "tile": [cut.base_width, cut.width, cut.mpp],
        "pixels": np.stack(pixels)[..., :3].tolist(),
    }


def main(h5ad: str, store: str, slide: str, new: str) -> None:
    first = by_spatialdata(store)
    spatialdata.read_zarr(store).write(new)
    found = {
        "anndata": by_anndata(h5ad),
        "spatialdata": first,
        "written by spatialdata": by_spatialdata(new),
        "lazyslide": by_lazyslide(slide, store, first["table"].removesuffix("_tiles")),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
