"""The store: one Zarr v3 group with all patches of a slide, row i being patch i in every array.

Plain Zarr with sharding, one chunk per patch: stock zarr-python reads any part of it, once this module or the
package imagecodecs-zarr has told it what `imagecodecs_jpeg` is. Pixels come a block of rows at a time, from threads
in any order, and are stored in theirs; the group takes its final name only when all are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from pipeline.errors import StatedError
from pipeline.tiling.blosc_encoding import BloscEncoding, dense_encoding
from pipeline.tiling.jpeg_codec import JpegCodec
from pipeline.tiling.sharded_rows import Rows, ShardedRows
from pipeline.tiling.shards import Piece, ShardWriter, shard_path

SCHEMA_VERSION = 1
# Rows of a file: a slide of 50,000 patches is 2 x 33 files of pixels and 20 of everything else.
SHARD_ROWS = 1536
_BLOCK_BYTES = 64 * 2**20
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class StoreAttributes:
    """What a store says of itself, in its group's attributes.

    Attributes:
        slide: name of the slide.
        patient: whom it comes from.
        size_px: side of a patch in pixels.
        mpp: um per pixel of the patches.
        mpp_level0: um per level-0 pixel of the sparse slide.
        size_level0_px: width and height of the sparse slide, level-0 pixels.
        patch_size_level0: side of a patch in level-0 pixels, rounded.
        overview_mpp: um per pixel of `overview` and `overview_tissue`.
        markers: names of the dense channels; empty where there is no dense side.
        nuclear_channel: index into `markers` of the channel that shows nuclei; None where there is none.
        verdict: `pass`, `warn` or `fail` of the registration; empty where there was none.
        counts: number of grid positions by what became of them.
        recipe: the settings that fix what a patch is.
        provenance: inputs, settings, code and versions.
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


@dataclass(frozen=True)
class PatchTable:
    """The small arrays of a store, one row per patch.

    Attributes:
        position_px: (N, 2) int64, xy index of the level-0 pixel at the patch's upper-left corner.
        position_um: (N, 2) float64, centre of that pixel in um.
        tissue: (N,) float32, fraction of the patch that is tissue.
        residual_um: (N,) float32, shift left between the two sides; nan where it cannot be measured.
        pair_quality: (N,) float32 in [0, 1]; 0 means that the row is not to be used as a pair.
        marker_mean: (N, C) float32, mean of each marker over the patch in the dense slide's own units.
    """

    position_px: NDArray[np.int64]
    position_um: NDArray[np.float64]
    tissue: NDArray[np.float32]
    residual_um: NDArray[np.float32]
    pair_quality: NDArray[np.float32]
    marker_mean: NDArray[np.float32]


@dataclass(frozen=True)
class JpegEncoding:
    """How decoded patches are encoded again.

    Attributes:
        quality: of libjpeg, 0 to 100.
        subsampling: `444` keeps the colours' resolution, `420` halves it.
    """

    quality: int
    subsampling: str


def rows_per_block(size_px: int, channels: int, itemsize: int, *, copied: bool = False) -> int:
    """Patches that are handed to a writer at once, so that its memory is bounded; a divisor of `SHARD_ROWS`.

    At most 64 MiB of pixels of either side and 512 patches; copied patches without a dense side are never pixels,
    and half the 64 MiB holds 768 of 256 px as scanners compress them.
    """
    pixel_bytes = size_px * size_px * max(3, channels * itemsize)
    only_copied = copied and not channels
    most = 4 * _BLOCK_BYTES // pixel_bytes if only_copied else min(_BLOCK_ROWS, _BLOCK_BYTES // pixel_bytes)
    return max(rows for rows in range(1, SHARD_ROWS // 2 + 1) if SHARD_ROWS % rows == 0 and rows <= max(1, most))


class StoreWriter:
    """Creates a store and fills its pixel arrays, a block of rows at a time.

    Args:
        path: folder to create; hand in a temporary name and rename it when `finish` has returned.
        patches: number of patches.
        size_px: side of a patch.
        dense_channels: channels of the dense side; 0 where there is none.
        dense_dtype: numpy name of its pixel type.
        copied: whether the sparse patches come as JPEG streams, through `copy`, rather than as pixels.
        jpeg: how sparse patches that come as pixels are encoded; None keeps them exactly, with zstd.
    """

    def __init__(
        self,
        path: Path,
        *,
        patches: int,
        size_px: int,
        dense_channels: int,
        dense_dtype: str,
        copied: bool = False,
        jpeg: JpegEncoding | None = None,
    ) -> None:
        self._patches, self._jpeg = patches, jpeg
        self._group = zarr.create_group(path, zarr_format=3)
        dtype = np.dtype(dense_dtype)
        self.block_rows = rows_per_block(size_px, dense_channels, dtype.itemsize, copied=copied)
        # Level 1: pixels that were JPEG hardly get smaller, and level 3 takes four times as long for 3 %.
        self._sparse_codec = None if copied or jpeg else BloscEncoding(1, "noshuffle", 1)
        self._dense_codec = dense_encoding(dtype)
        sparse_shape = (patches, size_px, size_px, 3)
        self._sparse = self._pixels(path / "sparse", sparse_shape, "uint8", self._sparse_codec)
        dense_shape = (patches, dense_channels, size_px, size_px)
        self._dense = (
            self._pixels(path / "dense", dense_shape, dense_dtype, self._dense_codec) if dense_channels else None
        )

    def _pixels(self, path: Path, shape: tuple[int, ...], dtype: str, codec: BloscEncoding | None) -> list[ShardWriter]:
        """The array's metadata, written by zarr-python, and a writer for each of its shards."""
        blosc = codec.zarr_codec if codec else None
        self._group.create_array(
            path.name,
            shape=shape,
            dtype=dtype,
            chunks=(1, *shape[1:]),
            shards=(SHARD_ROWS, *shape[1:]),
            serializer="auto" if blosc else JpegCodec(),
            compressors=(blosc, Crc32cCodec()) if blosc else (Crc32cCodec(),),
            fill_value=0,
        )
        starts = range(0, shape[0], SHARD_ROWS)
        return [
            ShardWriter(shard_path(path, number, len(shape)), SHARD_ROWS, min(SHARD_ROWS, shape[0] - start))
            for number, start in enumerate(starts)
        ]

    def write(self, first_row: int, sparse: NDArray[np.uint8], dense: NDArray[Any] | None) -> None:
        """Writes consecutive rows, which start at a block's first row and end at a block's last or the last of all.

        Safe from several threads at once, each with rows of its own, in any order.
        """
        if self._sparse_codec:
            codec = self._sparse_codec
            self.copy(first_row, [codec.encode(patch) for patch in sparse], dense)
        elif self._jpeg:
            quality, sampling = self._jpeg.quality, self._jpeg.subsampling
            streams = [(bytes(jpeg8_encode(patch, level=quality, subsampling=sampling)),) for patch in sparse]
            self.copy(first_row, streams, dense)
        else:
            raise ValueError("a store of copied patches takes streams, not pixels")

    def copy(self, first_row: int, sparse: Sequence[Sequence[Piece]], dense: NDArray[Any] | None) -> None:
        """Writes consecutive rows as `write` does, the sparse side as encoded chunks, each in pieces."""
        self._add(self._sparse, first_row, sparse)
        if self._dense is not None and dense is not None:
            self._add(self._dense, first_row, [self._dense_codec.encode(patch) for patch in dense])

    def _add(self, shards: list[ShardWriter], first_row: int, chunks: Sequence[Sequence[Piece]]) -> None:
        stop = first_row + len(chunks)
        if first_row % self.block_rows or (stop % self.block_rows and stop != self._patches):
            raise ValueError(f"rows {first_row} to {stop} are no whole blocks of {self.block_rows} rows")
        for first in range(first_row, stop, self.block_rows):
            number, within = divmod(first, SHARD_ROWS)
            shards[number].add(within, chunks[first - first_row :][: self.block_rows])

    def finish(
        self,
        attributes: StoreAttributes,
        table: PatchTable,
        overview: NDArray[np.uint8],
        overview_tissue: NDArray[np.bool_],
    ) -> None:
        """Adds the small arrays and, last of all, the attributes that make the folder a store.

        Raises:
            ValueError: if rows were never written.
        """
        if not all(shard.is_complete for shard in (*self._sparse, *(self._dense or ()))):
            raise ValueError("a store can be finished when all its rows are written")
        small = {**vars(table), "overview": overview, "overview_tissue": overview_tissue}
        for name, values in small.items():
            self._group.create_array(
                name, data=np.ascontiguousarray(values), chunks=tuple(max(1, n) for n in values.shape)
            )
        self._group.update_attributes({"schema": SCHEMA_VERSION, **vars(attributes)})


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
        """The store at `path`.

        Raises:
            StatedError: if there is none, or none that was finished.
        """
        expected = "a finished store of schema 1"
        if not (path / "zarr.json").is_file():
            raise StatedError(file=path, expected=expected, found="no Zarr v3 group")
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
            attributes: dict[str, Any] = dict(group.attrs)
            if attributes.pop("schema") != SCHEMA_VERSION:
                raise StatedError(file=path, expected=expected, found="another schema")
            width, height = attributes.pop("size_level0_px")
            markers = tuple(attributes.pop("markers"))
            known = StoreAttributes(size_level0_px=(width, height), markers=markers, **attributes)
            columns: dict[str, Any] = {name: _array(group, name)[...] for name in PatchTable.__dataclass_fields__}
            table = PatchTable(**columns)
        except (KeyError, TypeError, ValueError) as error:
            raise StatedError(file=path, expected=expected, found=repr(error)) from None
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
        return np.asarray(_array(self._group, "overview")[...])

    @property
    def overview_tissue(self) -> NDArray[np.bool_]:
        """(h, w) bool: where the overview shows tissue."""
        return np.asarray(_array(self._group, "overview_tissue")[...])

    @property
    def dense_dtype(self) -> np.dtype[Any]:
        """Pixel type of the dense side.

        Raises:
            KeyError: if the store has none.
        """
        return np.dtype(_array(self._group, "dense").dtype)

    def read_sparse(
        self, rows: Rows, out: NDArray[np.uint8] | None = None, places: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8: the H&E patches of these rows, in this order; see `ShardedRows.read`."""
        return self._read("sparse", rows, out, places)

    def read_dense(
        self, rows: Rows, out: NDArray[Any] | None = None, places: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """(n, C, P, P) in the dense slide's dtype: the multiplex patches of these rows; see `ShardedRows.read`."""
        return self._read("dense", rows, out, places)

    def _read(self, name: str, rows: Rows, out: NDArray[Any] | None, places: NDArray[np.int64] | None) -> NDArray[Any]:
        own = self._rows[name]
        if own is not None:
            return own.read(rows, out, places)
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
        out[slice(None) if places is None else places] = found
        return out


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is no array")
    return array
