"""Write shards of a Zarr v3 array, one chunk per row, from encoded chunks.

A shard is its chunks end to end, then an index of (offset, bytes) per chunk as little-endian uint64, all ones for a
chunk that is not there, then the index's CRC-32C (Zarr's specification of the codec `sharding_indexed`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import google_crc32c
import numpy as np
from numpy.typing import NDArray

MISSING = 2**64 - 1
CHECKSUM_BYTES = 4
# The least that POSIX systems promise is 16; Linux and macOS take 1024.
_PIECES_PER_WRITE = 1023

Piece = bytes | NDArray[np.uint8]


def shard_path(array: Path, number: int, dimensions: int) -> Path:
    """Return the file of a shard, of an array that is cut along its first axis only."""
    return array.joinpath("c", str(number), *["0"] * (dimensions - 1))


class ShardWriter:
    """Writes one shard from blocks of chunks that come in any order; its bytes are the same in any.

    A block that comes before its turn waits in memory, encoded.

    Args:
        path: the file; its folder is made at the first block.
        rows: chunks in a whole shard; those that never come are marked as not there.
        stop: how many rows there are to come, fewer than `rows` in the last shard of an array.
    """

    def __init__(self, path: Path, rows: int, stop: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._index = np.full((rows, 2), MISSING, dtype="<u8")
        self._waiting: dict[int, Sequence[Sequence[Piece]]] = {}
        self._stop, self._next, self._bytes = stop, 0, 0

    @property
    def is_complete(self) -> bool:
        """Whether all its rows have come and its index is written."""
        return self._next == self._stop

    def add(self, first: int, chunks: Sequence[Sequence[Piece]]) -> None:
        """Add encoded chunks in pieces, from row `first` of the shard on; each is followed by its CRC-32C.

        A chunk without pieces is marked as not there, which Zarr reads as nothing but 0.
        """
        with self._lock:
            self._waiting[first] = chunks
            while self._next in self._waiting:
                self._append(self._waiting.pop(self._next))
            if self.is_complete:
                index = self._index.tobytes()
                self._write([index, checksum(index)])

    def _append(self, chunks: Sequence[Sequence[Piece]]) -> None:
        pieces, lengths = _with_checksums(chunks)
        sizes = np.array(lengths, dtype=np.uint64)
        stops = np.cumsum(sizes) + np.uint64(self._bytes)
        there = np.flatnonzero(sizes)
        self._index[self._next + there, 0], self._index[self._next + there, 1] = (stops - sizes)[there], sizes[there]
        self._next, self._bytes = self._next + len(chunks), int(stops[-1])
        self._write(pieces)

    def _write(self, pieces: list[Piece]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as stream:
            for first in range(0, len(pieces), _PIECES_PER_WRITE):
                _write_all(stream.fileno(), pieces[first : first + _PIECES_PER_WRITE])


def _with_checksums(chunks: Sequence[Sequence[Piece]]) -> tuple[list[Piece], list[int]]:
    """Return the pieces of all chunks, a checksum behind each chunk, and the bytes of each; 0 where there is none."""
    pieces: list[Piece] = []
    sizes: list[int] = []
    # Copied tiles have one and the same first piece, whose checksum is that of all.
    shared: Piece = b""
    of_shared = 0
    for chunk in chunks:
        if not chunk:
            sizes.append(0)
            continue
        first = chunk[0]
        if first is not shared:
            shared, of_shared = first, google_crc32c.extend(0, first)
        value, size = of_shared, len(first) + CHECKSUM_BYTES
        for piece in chunk[1:]:
            value = google_crc32c.extend(value, piece)
            size += len(piece)
        pieces += chunk
        pieces.append(value.to_bytes(CHECKSUM_BYTES, "little"))
        sizes.append(size)
    return pieces, sizes


def _write_all(file: int, pieces: list[Piece]) -> None:
    size = sum(map(len, pieces))
    # Arrays are buffers, which numpy tells type checkers from Python 3.12 on.
    written = os.writev(file, cast(list[bytes], pieces))
    if written < size:
        # A disk that is nearly full, or a signal: what is left goes the plain way, which tells why.
        left = memoryview(b"".join(map(bytes, pieces)))[written:]
        while left:
            left = left[os.write(file, left) :]


def checksum(*pieces: Piece) -> bytes:
    """Return the CRC-32C of these bytes as it is stored behind them."""
    value = 0
    for piece in pieces:
        value = google_crc32c.extend(value, piece)
    return value.to_bytes(CHECKSUM_BYTES, "little")
