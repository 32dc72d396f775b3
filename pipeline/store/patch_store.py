"""Open a store: one Zarr v3 group with all patches of a slide, row i being patch i in every array.

Plain Zarr with sharding, one chunk per patch: stock zarr-python reads any part of it, once this module or the
package imagecodecs-zarr has told it what `imagecodecs_jpeg` is. Pixels come a block of rows at a time, from threads
in any order, and are stored in theirs; the group takes its final name only when all are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.json_file import checked_as
from pipeline.limits import LARGEST_PATCH_PX, MAX_MARKERS, MAX_PATCHES
from pipeline.sheet import DENSE_KINDS
from pipeline.slides.kinds import kind_named
from pipeline.store.sharded_rows import Rows, ShardedRows
from pipeline.store.shards import shard_path
from pipeline.zarr_reading import reading_zarr

SCHEMA_VERSION = 1
_MAX_OVERVIEW_PX = 2**26


@dataclass(frozen=True)
class StoreAttributes:
    """What a store says of itself, in its group's attributes.

    Attributes:
        slide: name of the slide.
        patient: patient ID.
        size_px: side of a patch in pixels.
        mpp: um per pixel of the patches.
        mpp_level0: um per level-0 pixel of the sparse slide.
        size_level0_px: width and height of the sparse slide, level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels, rounded.
        overview_mpp: um per pixel of `overview` and `overview_regions`.
        markers: what the dense side tells of a patch, the columns of `marker_mean`: names of its channels, of a
            brightfield slide its stains, of a mask its classes, of gene counts the genes; empty without a dense side.
        nuclear_channel: index into `markers` of the channel that shows nuclei; None where there is none.
        verdict: `pass`, `warn` or `fail` of the registration; empty where there was none.
        counts: number of grid positions by what became of them.
        recipe: the settings that fix what a patch is.
        provenance: inputs, settings, code and versions.
        dense_kind: `fluorescence`: `dense` holds a channel per marker; `brightfield`: R, G, B; `mask`: one channel of
            labels, i + 1 for class i of `markers`, 0 for none; `counts`: one value per gene, the counts in the patch.
        qupath_origin_px: level-0 pixel, xy, from which QuPath counts, and all that is written for it.
    """

    slide: str
    patient: str
    size_px: int
    mpp: float
    mpp_level0: float
    size_level0_px: tuple[int, int]
    patch_size_level0: int
    overview_mpp: float
    markers: tuple[str, ...]
    nuclear_channel: int | None
    verdict: str
    counts: Mapping[str, int]
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    dense_kind: str = "fluorescence"
    qupath_origin_px: tuple[int, int] = (0, 0)

    @property
    def dense_channels(self) -> int:
        """Number of channels of `dense`."""
        return len(self.markers) and kind_named(self.dense_kind).stored_channels(len(self.markers))

    @property
    def dense_size_px(self) -> int:
        """Side of a patch of `dense`."""
        return kind_named(self.dense_kind).stored_size_px(self.size_px)


@dataclass(frozen=True)
class PatchTable:
    """The small arrays of a store, one row per patch.

    Attributes:
        position_px: (N, 2) int64, xy index of the level-0 pixel at the patch's upper-left corner.
        position_um: (N, 2) float64, centre of that pixel in um.
        tissue: (N,) float32, fraction of the patch that is tissue.
        residual_um: (N,) float32, shift left between the two sides; nan where it cannot be measured.
        pair_quality: (N,) float32 in [0, 1]; 0 means that the row is not to be used as a pair.
        marker_mean: (N, C) float32, of each marker: its mean over the patch in the dense slide's own units; of a stain
            its mean optical density; of a class its share of the patch; of a gene its counts per 10,000 of the patch.
    """

    position_px: NDArray[np.int64]
    position_um: NDArray[np.float64]
    tissue: NDArray[np.float32]
    residual_um: NDArray[np.float32]
    pair_quality: NDArray[np.float32]
    marker_mean: NDArray[np.float32]


class PatchStore:
    """A finished store, open for reading; `attributes` and `table` are in memory, pixels are read on demand."""

    def __init__(self, path: Path, group: zarr.Group, attributes: StoreAttributes, table: PatchTable) -> None:
        self.path = path
        self.attributes = attributes
        self.table = table
        self._group = group
        self._rows = {name: ShardedRows.open(path / name) for name in ("sparse", "dense")}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Return the store at `path`.

        Raises:
            StatedError: if there is none, or none that was finished.
        """
        expected = "a finished store of schema 1"
        if not (path / "zarr.json").is_file():
            raise StatedError(file=path, expected=expected, found="no Zarr v3 group")
        try:
            with reading_zarr():
                group = zarr.open_group(path, mode="r", zarr_format=3)
                attributes: dict[str, Any] = dict(group.attrs)
            schema = attributes.pop("schema", None)
            if schema != SCHEMA_VERSION:
                raise ValueError(f"schema {schema}")
            unknown = attributes.keys() - StoreAttributes.__dataclass_fields__.keys()
            if unknown:
                raise ValueError(f"attribute {min(unknown)}, which schema {SCHEMA_VERSION} does not know")
            known = checked_as(attributes, StoreAttributes)
            _check_shapes(group, known)
            with reading_zarr():
                columns: dict[str, Any] = {name: _array(group, name)[...] for name in PatchTable.__dataclass_fields__}
            table = PatchTable(**columns)
            _check_table(table)
            _check_shards(path, group)
        except ValueError as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        return cls(path, group, known, table)

    def __len__(self) -> int:
        return len(self.table.position_px)

    @property
    def has_dense(self) -> bool:
        """Whether the store holds a dense side."""
        return bool(self.attributes.markers)

    @property
    def overview(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8: the whole sparse slide at `overview_mpp`."""
        return self._whole("overview")

    @property
    def overview_regions(self) -> NDArray[np.uint8]:
        """(h, w) uint8: what each pixel of the overview is, a code of `pipeline.tiling.regions`."""
        return self._whole("overview_regions").astype(np.uint8)

    @property
    def dense_dtype(self) -> np.dtype[Any]:
        """Pixel type of the dense side.

        Raises:
            ValueError: if the store has none.
        """
        return np.dtype(_array(self._group, "dense").dtype)

    def read_sparse(
        self, rows: Rows, out: NDArray[np.uint8] | None = None, indices: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """Return (n, P, P, 3) uint8: the H&E patches of these rows, in this order; see `ShardedRows.read`."""
        return self._read("sparse", rows, out, indices)

    def read_dense(
        self, rows: Rows, out: NDArray[Any] | None = None, indices: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """Return (n, C, P, P) in the dense slide's dtype: the dense side of these rows; see `ShardedRows.read`.

        Of gene counts P is 1.
        """
        return self._read("dense", rows, out, indices)

    def read_ahead(self, rows: Rows, *, dense: bool) -> None:
        """Have the system fetch these rows from disk before they are read; see `ShardedRows.read_ahead`.

        Args:
            rows: which.
            dense: whether their dense side, too.
        """
        for own in (self._rows["sparse"], self._rows["dense"] if dense else None):
            if own is not None:
                own.read_ahead(rows)

    def _whole(self, name: str) -> NDArray[Any]:
        try:
            with reading_zarr():
                return np.asarray(_array(self._group, name)[...])
        except ValueError as error:
            raise StatedError(file=self.path / name, expected="intact chunks", found=str(error)) from None

    def _read(self, name: str, rows: Rows, out: NDArray[Any] | None, indices: NDArray[np.int64] | None) -> NDArray[Any]:
        own = self._rows[name]
        if own is not None:
            return own.read(rows, out, indices)
        # A store that was rewritten by other means, with other codecs: what zarr-python makes of it.
        array = _array(self._group, name)
        try:
            found = np.asarray(
                array[rows] if isinstance(rows, slice) else array.oindex[np.asarray(rows, dtype=np.int64)]
            )
        except (ValueError, RuntimeError) as error:
            raise StatedError(file=self.path / name, expected="intact chunks", found=str(error)) from None
        if out is None:
            return found
        out[slice(None) if indices is None else indices] = found
        return out


def _check_shapes(group: zarr.Group, known: StoreAttributes) -> None:
    """Refuse arrays that do not belong together or have an absurd size, before they are read into memory."""
    sparse, position = _array(group, "sparse").shape, _array(group, "position_px").shape
    if known.dense_kind not in DENSE_KINDS:
        raise ValueError(f"dense_kind {known.dense_kind!r}")
    if not sparse:
        raise ValueError("sparse of shape ()")
    count, side, columns = sparse[0], known.size_px, len(known.markers)
    expected: dict[str, tuple[int, ...]] = {
        "sparse": (count, side, side, 3),
        "position_px": (count, 2),
        "position_um": (count, 2),
        "tissue": (count,),
        "residual_um": (count,),
        "pair_quality": (count,),
        "marker_mean": (count, columns),
    }
    if columns:
        expected["dense"] = (count, known.dense_channels, known.dense_size_px, known.dense_size_px)
    if not count <= MAX_PATCHES or not 0 < side <= LARGEST_PATCH_PX or columns > MAX_MARKERS:
        raise ValueError(f"sparse {sparse}, position_px {position}, {columns} markers")
    for name, shape in expected.items():
        found = _array(group, name).shape
        if found != shape:
            raise ValueError(f"{name} {found} where {shape} goes with the others")
    for name in ("overview", "overview_regions"):
        found = _array(group, name).shape
        if prod(found[:2]) > _MAX_OVERVIEW_PX:
            raise ValueError(f"{name} {found}")


def _check_table(table: PatchTable) -> None:
    """Refuse a table of which a file was lost, which zarr reads as -1 or nan, or that no stage can have written."""
    known = (table.position_um, table.tissue, table.pair_quality)
    if (table.position_px < 0).any() or not all(np.isfinite(values).all() for values in known):
        raise ValueError("patches without place, share of tissue or quality")
    if table.marker_mean.size and np.isnan(table.marker_mean).all():
        raise ValueError("marker_mean of nothing but nan")


def _check_shards(path: Path, group: zarr.Group) -> None:
    """Refuse a store of which a shard was lost: zarr would read it as blank patches."""
    for name in ("sparse", "dense"):
        array = _array(group, name) if name in group else None
        if array is None or array.shards is None:
            continue
        for number in range(-(-array.shape[0] // array.shards[0])):
            if not shard_path(path / name, number, array.ndim).is_file():
                raise ValueError(f"no shard {number} of {name}")


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    with reading_zarr():
        array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{name} is a group, not an array")
    return array
