"""AnnData's file format (.h5ad), written from its specification so that the package itself is not needed.

Specification: anndata's documentation, "On-disk format", encodings anndata 0.1.0, dataframe 0.2.0, array 0.2.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.features_file import FeaturesFile
from pipeline.provenance import finished


def write_anndata(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """AnnData: X the features; obs x_um, y_um, x_px, y_px, slide; obsm spatial the centres in level-0 pixels; uns.

    Raises:
        StatedError: if um per pixel is not known.
    """
    mpp_level0, position_px = opened.level0_mpp(), opened.position_px
    columns = {
        "slide": np.array([opened.slide] * len(opened), dtype=object),
        "x_um": position_px[:, 0] * mpp_level0,
        "y_um": position_px[:, 1] * mpp_level0,
        "x_px": position_px[:, 0],
        "y_px": position_px[:, 1],
    }
    about: dict[str, str | float] = {
        "mpp_level0": mpp_level0,
        "patch_size_level0": opened.size_level0_px,
        "encoder": opened.encoder,
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    with finished(out) as temporary, h5py.File(temporary, "w") as file:
        _tag(file, "anndata", "0.1.0")
        features = file.create_dataset("X", shape=opened.features.shape, dtype=np.float32)
        _tag(features, "array", "0.2.0")
        for rows, block in opened.blocks():
            features[rows] = block
        _write_table(file, "obs", [f"{opened.slide}_{row}" for row in range(len(opened))], columns)
        _write_table(file, "var", [f"feature_{number}" for number in range(opened.width)], {})
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            _tag(file.create_group(name), "dict", "0.1.0")
        _write_array(file["obsm"], "spatial", position_px + (opened.size_level0_px - 1) / 2)
        _tag(file["uns"].create_group("more_from_less"), "dict", "0.1.0")
        for name, value in about.items():
            _write_scalar(file["uns/more_from_less"], name, value)


def _tag(item: h5py.HLObject, kind: str, version: str) -> None:
    item.attrs.update({"encoding-type": kind, "encoding-version": version})


def _write_table(file: h5py.File, name: str, index: list[str], columns: dict[str, NDArray[Any]]) -> None:
    group = file.create_group(name)
    _tag(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())
    _write_array(group, "_index", np.array(index, dtype=object))
    for key, values in columns.items():
        _write_array(group, key, values)


def _write_array(group: h5py.Group, name: str, values: NDArray[Any]) -> None:
    text = values.dtype == object
    item = group.create_dataset(name, data=values, dtype=h5py.string_dtype() if text else None)
    _tag(item, "string-array" if text else "array", "0.2.0")


def _write_scalar(group: h5py.Group, name: str, value: str | float) -> None:
    item = group.create_dataset(name, data=value)
    _tag(item, "string" if isinstance(value, str) else "numeric-scalar", "0.2.0")
