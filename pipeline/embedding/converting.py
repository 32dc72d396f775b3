"""Convert the features of one slide to other tools' formats; row i is row i of the features file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray

from pipeline.embedding.anndata_file import write_anndata
from pipeline.embedding.csv_file import write_csv
from pipeline.embedding.features_file import FeaturesFile, open_features
from pipeline.embedding.spatialdata_store import write_spatialdata
from pipeline.errors import StatedError
from pipeline.hdf5_file import written_hdf5
from pipeline.provenance import finished

# STAMP refuses files of versions newer than itself; this is the one that gave the attributes below their names.
STAMP_LAYOUT = "2.1.0"

Writer = Callable[[FeaturesFile, Path, dict[str, Any]], None]


def convert(features: Path, to: str, out: Path, provenance: dict[str, Any], mpp_level0: float | None = None) -> None:
    """Write the features of one slide in the format `to`, one of `FORMATS`.

    Raises:
        StatedError: if `features` is not a features file, lacks what the format needs, or `out` cannot take the result.
    """
    with open_features(features, mpp_level0) as opened:
        _check_out(opened, to, out)
        FORMATS[to](opened, out, provenance)


def write_clam(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write CLAM's h5_files/{slide}.h5 (features float32, coords int32) and pt_files/{slide}.pt (a plain tensor).

    Other slides' files in `out` stay; the .pt comes last, as it is by it that CLAM knows a finished slide.
    """
    table = np.concatenate([block for _, block in opened.blocks()])
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(table), buffer)
    with (
        finished(out / "pt_files" / f"{opened.slide}.pt") as pt_file,
        finished(out / "h5_files" / f"{opened.slide}.h5") as h5_file,
    ):
        with written_hdf5(h5_file) as file:
            file.create_dataset("features", data=table, chunks=opened.features.chunks)
            coords = file.create_dataset("coords", data=opened.position_px.astype(np.int32))
            coords.attrs.update(opened.attributes)
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        pt_file.write_bytes(buffer.getbuffer())


def write_stamp(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write STAMP's file: feats (N, D) float32, coords (N, 2) float32, um of the upper-left corner, attributes.

    STAMP itself keeps feats in float16; its readers take either, and float32 loses nothing.
    """
    coords_um = opened.position_px * opened.level0_mpp()
    attributes = {
        "stamp_version": STAMP_LAYOUT,
        "extractor": opened.encoder,
        "unit": "um",
        "tile_size_um": opened.patch_um(),
        "tile_size_px": opened.size_px,
        "code_hash": provenance["code"][:8],
        "feat_type": "tile",
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    with finished(out) as temporary, written_hdf5(temporary) as file:
        feats = file.create_dataset("feats", shape=opened.features.shape, dtype=np.float32)
        for rows, block in opened.blocks():
            feats[rows] = block
        file.create_dataset("coords", data=coords_um.astype(np.float32))
        file.attrs.update(attributes)


def write_parquet(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write Parquet: one row per patch with slide, x_um, y_um, x_px, y_px and the fixed-size list features."""
    position_um = opened.position_px * opened.level0_mpp()
    fields = [("slide", pa.string()), ("x_um", pa.float64()), ("y_um", pa.float64())]
    fields += [("x_px", pa.int64()), ("y_px", pa.int64()), ("features", pa.list_(pa.float32(), opened.width))]
    about = {
        "mpp_level0": str(opened.level0_mpp()),
        "patch_size_level0": str(opened.size_level0_px),
        "encoder": opened.encoder,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    schema = pa.schema(fields, metadata=about)
    with finished(out) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for rows, block in opened.blocks():
            columns = [
                pa.array([opened.slide] * len(block)),
                *(pa.array(values) for values in position_um[rows].T),
                *(pa.array(values) for values in opened.position_px[rows].T),
                pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), opened.width),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def write_geojson(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write GeoJSON for QuPath: a tile object per patch, level-0 pixels from where QuPath counts, no features.

    The measurement `row` leads back to the row of the features file.
    """
    del provenance  # GeoJSON has no place for it that QuPath would keep.
    with finished(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [\n')
        corners = opened.position_px - np.array(opened.qupath_origin_px)
        stream.write(",\n".join(_square(row, xy, opened.size_level0_px) for row, xy in enumerate(corners)))
        stream.write("\n]}\n")


def _square(row: int, position_px: NDArray[np.int64], side: int) -> str:
    x, y = (int(value) for value in position_px)
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "tile", "name": f"patch {row}", "measurements": {"row": row}},
    }
    return json.dumps(feature)


FORMATS: dict[str, Writer] = {
    "anndata": write_anndata,
    "clam": write_clam,
    "csv": write_csv,
    "geojson": write_geojson,
    "parquet": write_parquet,
    "spatialdata": write_spatialdata,
    "stamp": write_stamp,
}


def _check_out(opened: FeaturesFile, to: str, out: Path) -> None:
    """Refuse names that are taken: CLAM's folder may hold other slides, but no folder of a file's name."""
    if to == "clam":
        files = [out, out / "h5_files", out / "pt_files"]
        taken = next((item for item in files if item.exists() and not item.is_dir()), None)
        if taken is not None:
            raise StatedError(slide=opened.slide, file=taken, expected="a folder, or nothing yet", found="a file")
        targets = [out / "h5_files" / f"{opened.slide}.h5", out / "pt_files" / f"{opened.slide}.pt"]
    else:
        targets = [out]
    for target in targets:
        if target.is_dir():
            expected = "a new name, as no folder is replaced" if to == "spatialdata" else "the name of a file"
            raise StatedError(slide=opened.slide, file=target, expected=expected, found="a folder")
        if target.exists() and target.samefile(opened.path):
            raise StatedError(slide=opened.slide, file=target, expected="another name", found="the features file")
