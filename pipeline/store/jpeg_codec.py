"""Define JPEG as a Zarr codec, so that stock zarr-python reads patches kept as the scanner's streams.

Name and spelling are those of the package imagecodecs-zarr, which needs Python 3.12 and reads these stores as we do
(tried: Python 3.12, zarr 3.4.2, imagecodecs-zarr 2026.10.10). Metadata written here has no configuration, for a
stream says itself how it is to be decoded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from imagecodecs import jpeg8_decode, jpeg8_encode
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration
from zarr.registry import register_codec

NAME = "imagecodecs_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One JPEG stream per chunk.

    Attributes:
        level: quality of what is encoded, 0 to 100; None leaves it to the encoder. Decoding does not look at it.
    """

    level: int | None = None

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Return the codec that metadata names.

        Raises:
            ValueError: if its configuration has a key that would change what comes out.
        """
        _, configuration = parse_named_configuration(data, NAME, require_configuration=False)
        values: dict[str, Any] = dict(configuration or {})
        level = values.pop("level", None)
        if values:
            raise ValueError(f"expected no other configuration of {NAME} than level, found {sorted(values)}")
        return cls(level)

    def to_dict(self) -> dict[str, JSON]:
        """Return the metadata that names this codec."""
        return {"name": NAME} if self.level is None else {"name": NAME, "configuration": {"level": self.level}}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError, as zarr asks of codecs whose output has no fixed size."""
        raise NotImplementedError

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        decoded = jpeg8_decode(chunk_bytes.to_bytes()).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(decoded)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        pixels = np.ascontiguousarray(np.squeeze(chunk_array.as_numpy_array()))
        return chunk_spec.prototype.buffer.from_bytes(jpeg8_encode(pixels, level=self.level))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)


register_codec(NAME, JpegCodec)
