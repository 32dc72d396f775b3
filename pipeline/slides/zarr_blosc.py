"""Check Blosc chunks that were cut off: their decoder trusts the header and reads beyond the end."""

from __future__ import annotations

import struct
from typing import Any

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.codecs import BloscCodec
from zarr.storage import WrapperStore

# Version, version of the codec, flags, size of an item; bytes when decoded, of a block, and of the whole chunk.
_HEADER = struct.Struct("<4B3I")
_METADATA = (".json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def checked(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array, reading its chunks through a check where they are in Blosc; those within shards are not."""
    compressors = array.compressors
    if array.shards is not None or len(compressors) != 1:
        return array
    # Of Zarr v2 they are numcodecs' own.
    if not isinstance(compressors[0], BloscCodec) and getattr(compressors[0], "codec_id", "") != "blosc":
        return array
    return zarr.open_array(store=_WholeChunks(array.store), path=array.path, mode="r")


class _WholeChunks(WrapperStore[Store]):
    """A store that raises ValueError for a chunk which is shorter than its header says."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None and not key.endswith(_METADATA):
            length = len(found)
            wanted = _HEADER.unpack(found[: _HEADER.size].to_bytes())[-1] if length >= _HEADER.size else _HEADER.size
            if length < wanted:
                raise ValueError(f"{length} of {wanted} bytes")
        return found
