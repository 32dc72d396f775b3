"""Read rows of a sharded Zarr v3 array at the speed of decoding.

zarr-python reads the index of a shard anew for every selection, gives each chunk its own task and copies what it
decoded; here an index is read once, and chunks are decoded where they are wanted. Everything that takes long
(`os.preadv`, the JPEG and the blosc decoder) lets other threads run meanwhile, so threads that read batches of their
own scale with the cores.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from imagecodecs import blosc_decode
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from pipeline.errors import StatedError
from pipeline.store.jpeg_codec import NAME as JPEG
from pipeline.store.open_files import OpenFiles
from pipeline.store.shards import CHECKSUM_BYTES, MISSING, checksum

Rows = Sequence[int] | NDArray[np.int64] | slice
Decoder = Callable[[NDArray[np.uint8], NDArray[Any]], object]

_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
# Neighbours are read together up to this size, which a core's own cache still holds.
_BYTES_PER_READ = 2**20
# What is not wanted is read along up to here when reading ahead: on a network disk another read would cost more.
_LARGEST_GAP = 2**18
# What lies beyond, no system call takes.
_LARGEST_OFFSET = 2**63 - 1

_FILES = OpenFiles()
# What a thread reads into. A new buffer per chunk would be given back to the system and asked for again, page by page.
_SCRATCH = threading.local()


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

    The index of a shard is read at the first row asked of it and kept. Of all such arrays together a bounded number
    of files stays open, so that a cohort of many slides does not run out of them.
    """

    def __init__(self, path: Path, layout: _Layout) -> None:
        self._path, self._layout = path, layout
        self._others = "/0" * (len(layout.shape) - 1)
        self._indices: dict[int, NDArray[np.uint64]] = {}
        self._owner = object()
        weakref.finalize(self, _FILES.forget, self._owner)

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Return the array at `path`; None where it is laid out in another way than our stores, or not there."""
        try:
            layout = _layout(json.loads((path / "zarr.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
            return None
        return cls(path, layout) if layout else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Pixel type."""
        return self._layout.dtype

    def read(
        self, rows: Rows, out: NDArray[Any] | None = None, indices: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """Return (n, …): these rows, in this order.

        Args:
            rows: which.
            out: contiguous array of the result's shape and dtype to decode into, and to return.
            indices: row i goes to `out[indices[i]]`, and `out` may be longer than the rows are; default: index i.

        Raises:
            StatedError: if a chunk or an index is not what was written.
            IndexError: if there is no such row.
            ValueError: if `out` is another array than that.
        """
        wanted = self._numbers(rows)
        shape, dtype = (len(wanted), *self._layout.shape[1:]), self._layout.dtype
        if out is None:
            out = np.empty(shape, dtype=dtype)
        fits = out.shape == shape if indices is None else out.shape[1:] == shape[1:]
        if not fits or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"expected a contiguous array {shape} of {dtype} to read into, found {out.shape} {out.dtype}"
            )
        into = np.arange(len(wanted)) if indices is None else indices
        # In the order of the file, so that a disk need not go to and fro and neighbours are read together.
        order = np.argsort(wanted, kind="stable")
        wanted, into = wanted[order], into[order]
        for number, here, within in self._by_shard(wanted):
            self._read_shard(number, within, wanted[here].tolist(), into[here].tolist(), out)
        return out

    def read_ahead(self, rows: Rows) -> None:
        """Read the bytes of these rows and forgets them, so that the system holds them when `read` wants them.

        Neighbours are read in one go, up to 1 MiB at a time, where `read` of rows far apart takes each on its own.

        Raises:
            StatedError: if an index is not what was written.
            IndexError: if there is no such row.
        """
        for number, _, within in self._by_shard(np.unique(self._numbers(rows))):
            try:
                with _FILES.reading(self._owner, self._shard(number)) as file:
                    index = self._index(number, file)[within]
                    extents: list[tuple[int, int]] = index[index[:, 0] != MISSING].tolist()
                    for run in _runs(extents, _LARGEST_GAP):
                        (begin, _), (last, size) = extents[run.start], extents[run.stop - 1]
                        _read(file, begin, last + size - begin)
            except FileNotFoundError:
                # Whether that is right, `read` tells.
                continue

    def _by_shard(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
        """Yield number of each shard of these rows, which ascend, which of them lie in it, and where in it."""
        numbers, within = np.divmod(wanted, self._layout.shard_rows)
        edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist()
        for first, stop in pairwise(edges):
            yield int(numbers[first]), slice(first, stop), within[first:stop]

    def _shard(self, number: int) -> str:
        return f"{self._path}/c/{number}{self._others}"

    def _numbers(self, rows: Rows) -> NDArray[np.int64]:
        count = self._layout.shape[0]
        if isinstance(rows, slice):
            return np.arange(count)[rows]
        wanted = np.asarray(rows, dtype=np.int64)
        wrong = (wanted < -count) | (wanted >= count)
        if wrong.any():
            raise IndexError(f"row {wanted[wrong][0]} of {count}")
        return np.where(wanted < 0, wanted + count, wanted)

    def _read_shard(
        self, number: int, within: NDArray[np.int64], rows: list[int], indices: list[int], out: NDArray[Any]
    ) -> None:
        """Decode rows of one shard, given in the order of the file, into their places of `out`."""
        try:
            with _FILES.reading(self._owner, self._shard(number)) as file:
                extents: list[tuple[int, int]] = self._index(number, file)[within].tolist()
                for run in _runs(extents):
                    (begin, _), (last, size) = extents[run.start], extents[run.stop - 1]
                    data = None if begin == MISSING else _read(file, begin, last + size - begin)
                    for i in run:
                        if data is None:
                            self._fill(out[indices[i]], rows[i])
                        else:
                            self._decode(data[extents[i][0] - begin :], extents[i][1], rows[i], out[indices[i]])
        except FileNotFoundError:
            for row, index in zip(rows, indices, strict=True):
                self._fill(out[index], row)

    def _decode(self, data: NDArray[np.uint8], size: int, row: int, into: NDArray[Any]) -> None:
        """Decode the chunk of `size` bytes at the beginning of `data`."""
        if len(data) < size or size < CHECKSUM_BYTES:
            raise self._broken(f"row {row} with {len(data)} of {size} bytes")
        encoded = data[: size - CHECKSUM_BYTES]
        if checksum(encoded) != data[size - CHECKSUM_BYTES : size].tobytes():
            raise self._broken(f"row {row} with another checksum than was written")
        try:
            self._layout.decode(encoded, into)
        except (ValueError, RuntimeError) as error:
            raise self._broken(f"row {row} that cannot be decoded: {error}") from None

    def _index(self, number: int, file: int) -> NDArray[np.uint64]:
        known = self._indices.get(number)
        if known is not None:
            return known
        size = 16 * self._layout.shard_rows
        at = os.fstat(file).st_size - size - CHECKSUM_BYTES
        data = os.pread(file, size + CHECKSUM_BYTES, at) if at >= 0 else b""
        if len(data) < size + CHECKSUM_BYTES or checksum(data[:size]) != data[size:]:
            raise self._broken(f"a broken index at the end of shard {number}")
        index = np.frombuffer(data[:size], dtype="<u8").reshape(-1, 2)
        self._indices[number] = index
        return index

    def _fill(self, into: NDArray[Any], row: int) -> None:
        """Fill a row that is not stored with 0; refuse it where every row is a JPEG stream."""
        if not self._layout.may_lack_chunks:
            raise self._broken(f"no row {row}")
        into[...] = 0

    def _broken(self, found: str) -> StatedError:
        return StatedError(file=self._path, expected="intact chunks", found=found)


def _runs(extents: list[tuple[int, int]], largest_gap: int = 0) -> Iterator[range]:
    """Yield the chunks, by (begin, size), cut into groups that lie end to end, or are the same, and are read at once.

    With a gap, up to so many other bytes may lie between two of them.
    """
    first = 0
    for i in range(1, len(extents) + 1):
        if i < len(extents):
            (last, size), (begin, more) = extents[i - 1], extents[i]
            is_next = begin == last or last + size <= begin <= last + size + largest_gap
            if is_next and begin + more - extents[first][0] <= _BYTES_PER_READ:
                continue
        yield range(first, i)
        first = i


def _read(file: int, begin: int, size: int) -> NDArray[np.uint8]:
    """Return bytes of a file, fewer where it ends before; they are this thread's until it reads again.

    A size that cannot be, from an index that lies, is cut to what the file has.
    """
    buffer: NDArray[np.uint8] | None = getattr(_SCRATCH, "buffer", None)
    if buffer is None or len(buffer) < size or begin + size > _LARGEST_OFFSET:
        size = max(0, min(size, os.fstat(file).st_size - begin))
    if buffer is None or len(buffer) < size:
        buffer = np.empty(max(size, _BYTES_PER_READ), np.uint8)
        _SCRATCH.buffer = buffer
    done = 0
    # A network disk may give less than was asked for.
    while done < size:
        got = os.preadv(file, [buffer[done:size].data], begin + done)
        if not got:
            break
        done += got
    return buffer[:done]


def _layout(metadata: dict[str, Any]) -> _Layout | None:
    """Return what is known of an array of ours; None of another."""
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


def _decode_jpeg(chunk: NDArray[np.uint8], into: NDArray[Any]) -> None:
    # Of the doors to libjpeg-turbo the fastest. What it only warns of was looked at when the chunk was written.
    decoded = decode_jpeg(chunk, colorspace="RGB", buffer=into, strict=False)
    if decoded.shape != into.shape:
        raise ValueError(f"{decoded.shape} instead of {into.shape}")


def _decode_blosc(chunk: NDArray[np.uint8], into: NDArray[Any]) -> None:
    # The decoder takes any buffer; its stub names only some. Threads read separate rows; blosc's would only stand
    # in their way.
    decoded = blosc_decode(cast(bytes, chunk), numthreads=1, out=into.reshape(-1).view(np.uint8).data)
    if len(decoded) != into.nbytes:
        raise ValueError(f"{len(decoded)} of {into.nbytes} bytes")
