"""Shards of a Zarr v3 array, one chunk per row: written from chunks that are encoded already, and read fast.

A shard is its chunks end to end, then an index of (offset, bytes) per chunk as little-endian uint64, all ones for a
chunk that is not there, then the index's CRC-32C (Zarr's specification of the codec `sharding_indexed`). zarr-python
reads that index anew for every selection and gives each chunk its own task; here it is read once and chunks are
decoded into one array.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import google_crc32c
import numpy as np
from imagecodecs import blosc_decode, jpeg8_decode
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.tiling.jpeg_codec import NAME as JPEG

_MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
# The least that POSIX systems promise is 16; Linux and macOS take 1024.
_PIECES_PER_WRITE = 1023
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]

Piece = bytes | NDArray[np.uint8]
Decoder = Callable[[bytes, NDArray[Any]], object]


def shard_path(array: Path, number: int, dimensions: int) -> Path:
    """The file of a shard, of an array that is cut along its first axis only."""
    return array.joinpath("c", str(number), *["0"] * (dimensions - 1))


def write_shard(path: Path, chunks: Sequence[Sequence[Piece]], rows: int) -> None:
    """Writes one shard.

    Args:
        path: the file; its folder is made.
        chunks: encoded chunks in pieces, from the first row on; each is followed by its CRC-32C.
        rows: chunks in a whole shard; those beyond the ones given are marked as not there.
    """
    sizes = np.array([sum(map(len, chunk)) + _CHECKSUM_BYTES for chunk in chunks], dtype=np.uint64)
    index = np.full((rows, 2), _MISSING, dtype="<u8")
    index[: len(chunks), 0] = np.cumsum(sizes) - sizes
    index[: len(chunks), 1] = sizes
    pieces: list[Piece] = []
    for chunk in [*chunks, (index.tobytes(),)]:
        pieces += (*chunk, _checksum(*chunk))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as stream:
        for first in range(0, len(pieces), _PIECES_PER_WRITE):
            _write_all(stream.fileno(), pieces[first : first + _PIECES_PER_WRITE])


def _write_all(file: int, pieces: list[Piece]) -> None:
    size = sum(map(len, pieces))
    # Arrays are buffers, which numpy tells type checkers from Python 3.12 on.
    written = os.writev(file, cast(list[bytes], pieces))
    if written < size:
        # A disk that is nearly full, or a signal: what is left goes the plain way, which tells why.
        left = memoryview(b"".join(map(bytes, pieces)))[written:]
        while left:
            left = left[os.write(file, left) :]


def _checksum(*pieces: Piece) -> bytes:
    checksum = 0
    for piece in pieces:
        checksum = google_crc32c.extend(checksum, piece)
    return checksum.to_bytes(_CHECKSUM_BYTES, "little")


@dataclass(frozen=True)
class _Layout:
    """What the metadata of an array say, where it is laid out as our stores are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int
    decode: Decoder
    may_lack_chunks: bool


class ShardedRows:
    """Rows of one array of a store; safe to read from several threads.

    The index of a shard is read at the first row asked of it and kept. Files are open only while they are read, so
    that a cohort of many slides does not run out of them.
    """

    def __init__(self, path: Path, layout: _Layout) -> None:
        self._path, self._layout = path, layout
        self._others = "/0" * (len(layout.shape) - 1)
        self._indices: dict[int, NDArray[np.uint64]] = {}

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """The array at `path`; None where it is laid out in another way than our stores, or not there."""
        try:
            layout = _layout(json.loads((path / "zarr.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
            return None
        return cls(path, layout) if layout else None

    def read(self, rows: Sequence[int] | NDArray[np.int64] | slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """(n, …): these rows, in this order.

        Args:
            rows: which.
            out: contiguous array of the result's shape and dtype to decode into, and to return.

        Raises:
            StatedError: if a chunk or an index is not what was written.
            IndexError: if there is no such row.
            ValueError: if `out` is another array than that.
        """
        count = self._layout.shape[0]
        whole = np.arange(count)
        wanted = whole[rows] if isinstance(rows, slice) else whole[np.asarray(rows, dtype=np.int64)]
        shape, dtype = (len(wanted), *self._layout.shape[1:]), self._layout.dtype
        if out is None:
            out = np.empty(shape, dtype=dtype)
        elif out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"expected a contiguous array {shape} of {dtype} to read into, found {out.shape} {out.dtype}"
            )
        numbers, within = np.divmod(wanted, self._layout.shard_rows)
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            self._read_shard(number, places.tolist(), within[places], wanted, out)
        return out

    def _read_shard(
        self, number: int, places: list[int], within: NDArray[np.int64], wanted: NDArray[np.int64], out: NDArray[Any]
    ) -> None:
        """Decodes rows of one shard, the ones at `places` of `wanted`, into the same places of `out`."""
        try:
            file = os.open(f"{self._path}/c/{number}{self._others}", os.O_RDONLY)
        except FileNotFoundError:
            for place in places:
                self._fill(out[place], int(wanted[place]))
            return
        try:
            extents = self._index(number, file)[within].tolist()
            for place, (begin, size) in zip(places, extents, strict=True):
                if begin == _MISSING:
                    self._fill(out[place], int(wanted[place]))
                else:
                    self._decode(os.pread(file, size, begin), int(wanted[place]), size, out[place])
        finally:
            os.close(file)

    def _decode(self, data: bytes, row: int, size: int, into: NDArray[Any]) -> None:
        if len(data) < max(size, _CHECKSUM_BYTES):
            raise self._broken(f"row {row} with {len(data)} of {size} bytes")
        chunk = data[:-_CHECKSUM_BYTES]
        if _checksum(chunk) != data[-_CHECKSUM_BYTES:]:
            raise self._broken(f"row {row} with another checksum than was written")
        try:
            self._layout.decode(chunk, into)
        except (ValueError, RuntimeError) as error:
            raise self._broken(f"row {row} that cannot be decoded: {error}") from None

    def _index(self, number: int, file: int) -> NDArray[np.uint64]:
        known = self._indices.get(number)
        if known is not None:
            return known
        size = 16 * self._layout.shard_rows
        at = os.fstat(file).st_size - size - _CHECKSUM_BYTES
        data = os.pread(file, size + _CHECKSUM_BYTES, at) if at >= 0 else b""
        if len(data) < size + _CHECKSUM_BYTES or _checksum(data[:size]) != data[size:]:
            raise self._broken(f"a broken index at the end of shard {number}")
        index = np.frombuffer(data[:size], dtype="<u8").reshape(-1, 2)
        self._indices[number] = index
        return index

    def _fill(self, into: NDArray[Any], row: int) -> None:
        """Chunks of nothing but 0 are not stored; a JPEG stream always is."""
        if not self._layout.may_lack_chunks:
            raise self._broken(f"no row {row}")
        into[...] = 0

    def _broken(self, found: str) -> StatedError:
        return StatedError(file=self._path, expected="intact chunks", found=found)


def _layout(metadata: dict[str, Any]) -> _Layout | None:
    """What is known of an array of ours; None of another."""
    shape = tuple(metadata["shape"])
    (sharding,) = metadata["codecs"]
    configuration = sharding["configuration"]
    serializer, *others = configuration["codecs"]
    shards = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    is_ours = (
        sharding["name"] == "sharding_indexed"
        and configuration["index_location"] == "end"
        and configuration["index_codecs"] == _INDEX_CODECS
        and list(configuration["chunk_shape"]) == [1, *shape[1:]]
        and list(shards[1:]) == list(shape[1:])
        and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and metadata["fill_value"] == 0
    )
    names = [codec["name"] for codec in others]
    dtype = np.dtype(metadata["data_type"])
    if is_ours and serializer["name"] == JPEG and names == ["crc32c"] and dtype == np.uint8:
        return _Layout(shape, dtype, shards[0], _decode_jpeg, may_lack_chunks=False)
    little = serializer.get("configuration", {"endian": "little"}) == {"endian": "little"}
    if is_ours and serializer["name"] == "bytes" and little and names == ["blosc", "crc32c"]:
        return _Layout(shape, dtype.newbyteorder("<"), shards[0], _decode_blosc, may_lack_chunks=True)
    return None


def _decode_jpeg(chunk: bytes, into: NDArray[Any]) -> None:
    jpeg8_decode(chunk, out=into)


def _decode_blosc(chunk: bytes, into: NDArray[Any]) -> None:
    decoded = blosc_decode(chunk, out=into.reshape(-1).view(np.uint8).data)
    if len(decoded) != into.nbytes:
        raise ValueError(f"{len(decoded)} of {into.nbytes} bytes")
