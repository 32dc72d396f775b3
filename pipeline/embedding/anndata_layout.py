"""AnnData's layout of a table of features, the same in HDF5 and Zarr.

Written without the package anndata, whose writer takes X whole: 55,000 x 2,048 features took it 444 MB, here 133 MB.

Specification: anndata's documentation, "On-disk format", encodings anndata 0.1.0, dict 0.1.0, dataframe, array,
string-array, categorical, string and numeric-scalar 0.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.embedding.features_file import BLOCK_ROWS, FeaturesFile

# An h5py.Group, which has no types, or a zarr.Group.
Group = Any


@dataclass(frozen=True)
class Category:
    """A column of texts that repeat.

    Attributes:
        names: the texts, each once.
        codes: (N,) for each row the index of its text in `names`.
    """

    names: Sequence[str]
    codes: NDArray[np.integer[Any]]


Column = NDArray[Any] | Category


def write_features(
    root: Group, sources: Sequence[FeaturesFile], index: Sequence[str], columns: Mapping[str, Column]
) -> None:
    """Fill an empty group: X the features, obs the columns, var the features' names, obsm spatial the centres.

    Args:
        root: the file or folder, or a group in it.
        sources: the features, one file after the other, all of one width; `spatial` is (N, 2) float64, xy in level-0
            pixels of each slide.
        index: the name of each patch, N of them in all.
        columns: of obs, by name.
    """
    tag(root, "anndata", "0.1.0")
    _write_blocks(root, sources)
    _write_table(root, "obs", index, columns)
    _write_table(root, "var", [f"feature_{number}" for number in range(sources[0].width)], {})
    for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        tag(root.create_group(name), "dict", "0.1.0")
    centres_px = [opened.position_px + (opened.size_level0_px - 1) / 2 for opened in sources]
    _write_array(root["obsm"], "spatial", np.concatenate(centres_px))


def write_about(root: Group, name: str, about: Mapping[str, str | float]) -> None:
    """Add the mapping `name` of texts and numbers to uns."""
    group = root["uns"].create_group(name)
    tag(group, "dict", "0.1.0")
    for key, value in about.items():
        text = isinstance(value, str)
        if isinstance(group, zarr.Group):
            item: Any = group.create_array(key, data=np.array(value, dtype=np.dtypes.StringDType() if text else float))
        else:
            item = group.create_dataset(key, data=value)
        tag(item, "string" if text else "numeric-scalar", "0.2.0")


def tag(item: Any, kind: str, version: str) -> None:
    """State in the attributes of a group or array what it is."""
    item.attrs.update({"encoding-type": kind, "encoding-version": version})


def _write_blocks(root: Group, sources: Sequence[FeaturesFile]) -> None:
    """Copy X (N, D) float32 block by block."""
    shape = sum(map(len, sources)), sources[0].width
    if isinstance(root, zarr.Group):
        chunks = min(BLOCK_ROWS, shape[0]), shape[1]
        features: Any = root.create_array("X", shape=shape, dtype=np.float32, chunks=chunks)
    else:
        features = root.create_dataset("X", shape=shape, dtype=np.float32)
    tag(features, "array", "0.2.0")
    first = 0
    for opened in sources:
        for rows, block in opened.blocks():
            features[first + rows.start : first + rows.stop] = block
        first += len(opened)


def _write_table(root: Group, name: str, index: Sequence[str], columns: Mapping[str, Column]) -> None:
    group = root.create_group(name)
    tag(group, "dataframe", "0.2.0")
    # HDF5 needs a stated type for what may be empty.
    names = list(columns) if isinstance(root, zarr.Group) else np.array(list(columns), dtype=h5py.string_dtype())
    group.attrs.update({"_index": "_index", "column-order": names})
    _write_texts(group, "_index", index)
    for key, values in columns.items():
        if isinstance(values, Category):
            _write_category(group, key, values)
        else:
            _write_array(group, key, values)


def _write_category(group: Group, name: str, values: Category) -> None:
    category = group.create_group(name)
    tag(category, "categorical", "0.2.0")
    category.attrs["ordered"] = False
    _write_array(category, "codes", values.codes.astype(np.min_scalar_type(-len(values.names))))
    _write_texts(category, "categories", values.names)


def _write_array(group: Group, name: str, values: NDArray[Any]) -> None:
    zarr_group = isinstance(group, zarr.Group)
    item: Any = group.create_array(name, data=values) if zarr_group else group.create_dataset(name, data=values)
    tag(item, "array", "0.2.0")


def _write_texts(group: Group, name: str, texts: Sequence[str]) -> None:
    if isinstance(group, zarr.Group):
        item: Any = group.create_array(name, data=np.array(texts, dtype=np.dtypes.StringDType()))
    else:
        item = group.create_dataset(name, data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
    tag(item, "string-array", "0.2.0")
