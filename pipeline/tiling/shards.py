"""Shards of a Zarr v3 array, one chunk per row, written from chunks that are encoded already.

A shard is its chunks end to end, then an index of (offset, bytes) per chunk as little-endian uint64, all ones for a
chunk that is not there, then the index's CRC-32C (Zarr's specification of the codec `sharding_indexed`).
"""

from __future__ import annotations

import os
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
    """The file of a shard, of an array that is cut along its first axis only."""
    return array.joinpath("c", str(number), *["0"] * (dimensions - 1))


def write_shard(path: Path, chunks: Sequence[Sequence[Piece]], rows: int) -> None:
    """Writes one shard.

    Args:
        path: the file; its folder is made.
        chunks: encoded chunks in pieces, from the first row on; each is followed by its CRC-32C.
        rows: chunks in a whole shard; those beyond the ones given are marked as not there.
    """
    sizes = np.array([sum(map(len, chunk)) + CHECKSUM_BYTES for chunk in chunks], dtype=np.uint64)
    index = np.full((rows, 2), MISSING, dtype="<u8")
    index[: len(chunks), 0] = np.cumsum(sizes) - sizes
    index[: len(chunks), 1] = sizes
    pieces: list[Piece] = []
    for chunk in [*chunks, (index.tobytes(),)]:
        pieces += (*chunk, checksum(*chunk))
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


def checksum(*pieces: Piece) -> bytes:
    """The CRC-32C of these bytes as it is stored behind them."""
    value = 0
    for piece in pieces:
        value = google_crc32c.extend(value, piece)
    return value.to_bytes(CHECKSUM_BYTES, "little")
