"""Write a store: blocks of rows from any thread in any order, always to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from pipeline.store.blosc_encoding import BloscEncoding, dense_encoding
from pipeline.store.jpeg_codec import JpegCodec
from pipeline.store.patch_store import SCHEMA_VERSION, PatchTable, StoreAttributes
from pipeline.store.shards import Piece, ShardWriter, shard_path

# Rows of a file: a slide of 50,000 patches is 2 x 33 files of pixels and 20 of everything else.
SHARD_ROWS = 1536
_BLOCK_BYTES = 64 * 2**20
_BLOCK_ROWS = 512
# Of copied patches these are some 1.5 MB, which a core's own cache holds while they are read, checked and written.
_COPIED_BLOCK_ROWS = 128
# What zarr reads where a file of the table was lost, by kind of dtype: with its own 0 it would pass for a measurement.
_LOST: dict[str, float] = {"i": -1, "f": math.nan}


@dataclass(frozen=True)
class JpegEncoding:
    """How decoded patches are encoded again.

    Attributes:
        quality: of libjpeg, 0 to 100.
        subsampling: `444` keeps the colours' resolution, `420` halves it.
    """

    quality: int
    subsampling: str


def rows_per_block(size_px: int, dense_bytes: int, copied: bool = False) -> int:
    """Return patches that are handed to a writer at once, so that its memory is bounded; a divisor of `SHARD_ROWS`.

    At most 64 MiB of pixels of either side and 512 patches, or 128 that are only copied.
    """
    patch_bytes = max(3 * size_px * size_px, dense_bytes)
    most = min(_COPIED_BLOCK_ROWS if copied and not dense_bytes else _BLOCK_ROWS, _BLOCK_BYTES // patch_bytes)
    return max(rows for rows in range(1, SHARD_ROWS // 2 + 1) if SHARD_ROWS % rows == 0 and rows <= max(1, most))


class StoreWriter:
    """Creates a store and fills its pixel arrays, a block of rows at a time.

    Args:
        path: folder to create; hand in a temporary name and rename it when `finish` has returned.
        patches: number of patches.
        size_px: side of a patch.
        dense_channels: channels of the dense side; 0 where there is none.
        dense_dtype: numpy name of its pixel type.
        dense_size_px: side of a patch of it where that is another, 1 of gene counts.
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
        dense_size_px: int | None = None,
        copied: bool = False,
        jpeg: JpegEncoding | None = None,
    ) -> None:
        self._patches, self._jpeg = patches, jpeg
        self._group = zarr.create_group(path, zarr_format=3)
        dtype = np.dtype(dense_dtype)
        dense_side = size_px if dense_size_px is None else dense_size_px
        dense_shape = (patches, dense_channels, dense_side, dense_side)
        self.block_rows = rows_per_block(size_px, math.prod(dense_shape[1:]) * dtype.itemsize, copied)
        # Level 1: pixels that were JPEG hardly get smaller, and level 3 takes four times as long for 3 %.
        self._sparse_codec = None if copied or jpeg else BloscEncoding(1, "noshuffle", 1)
        self._dense_codec = dense_encoding(dtype)
        sparse_shape = (patches, size_px, size_px, 3)
        self._sparse = self._pixels(path / "sparse", sparse_shape, "uint8", self._sparse_codec)
        self._dense = (
            self._pixels(path / "dense", dense_shape, dense_dtype, self._dense_codec) if dense_channels else None
        )

    def _pixels(self, path: Path, shape: tuple[int, ...], dtype: str, codec: BloscEncoding | None) -> list[ShardWriter]:
        """Return the array's metadata, written by zarr-python, and a writer for each of its shards."""
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

    def block_starts(self, threads: int) -> list[int]:
        """Return the first rows of all blocks, those that so many threads work on at once being of different shards.

        Blocks of one shard are written one after the other, and who comes with the next would wait.
        """
        starts = range(0, self._patches, self.block_rows)
        return sorted(starts, key=lambda start: (start // SHARD_ROWS // threads, start % SHARD_ROWS, start))

    def write(self, first_row: int, sparse: NDArray[np.uint8], dense: NDArray[Any] | None) -> None:
        """Write consecutive rows, which start at a block's first row and end at a block's last or the last of all.

        Safe from several threads at once, each with separate rows, in any order.
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
        """Write consecutive rows as `write` does, the sparse side as encoded chunks, each in pieces."""
        self._add(self._sparse, first_row, sparse)
        if self._dense is not None and dense is not None:
            self._add(self._dense, first_row, [self._dense_codec.encode(patch) for patch in dense])

    def skip(self, first_row: int, count: int) -> None:
        """Leave out rows of a store that is given up; those that follow need not wait for them."""
        for shards in (self._sparse, self._dense or []):
            if shards:
                self._add(shards, first_row, [()] * count)

    def _add(self, shards: list[ShardWriter], first_row: int, chunks: Sequence[Sequence[Piece]]) -> None:
        stop = first_row + len(chunks)
        if first_row % self.block_rows or (stop % self.block_rows and stop != self._patches):
            raise ValueError(f"rows {first_row} to {stop} are not whole blocks of {self.block_rows} rows")
        for first in range(first_row, stop, self.block_rows):
            number, within = divmod(first, SHARD_ROWS)
            shards[number].add(within, chunks[first - first_row :][: self.block_rows])

    def finish(
        self,
        attributes: StoreAttributes,
        table: PatchTable,
        overview: NDArray[np.uint8],
        overview_regions: NDArray[np.uint8],
    ) -> None:
        """Add the small arrays and, last of all, the attributes that make the folder a store.

        Raises:
            ValueError: if rows were never written.
        """
        if not all(shard.is_complete for shard in (*self._sparse, *(self._dense or ()))):
            raise ValueError("a store can be finished when all its rows are written")
        small = {**vars(table), "overview": overview, "overview_regions": overview_regions}
        for name, values in small.items():
            self._group.create_array(
                name,
                data=np.ascontiguousarray(values),
                chunks=tuple(max(1, n) for n in values.shape),
                fill_value=_LOST.get(values.dtype.kind, 0),
            )
        self._group.update_attributes({"schema": SCHEMA_VERSION, **vars(attributes)})
