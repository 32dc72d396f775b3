"""Encode pixels as Blosc chunks that zarr-python's codec `blosc` decodes.

Measured with benchmarks/store_codec.py on ORION patches. Without shuffling, uint8 planes are a seventh smaller
than with bits shuffled and decode twice as fast, for most of a fluorescence plane is long runs; uint16 planes are 9 %
smaller with bytes shuffled. lz4 decodes uint8 three to five times as fast as zstd (uint16 1.7 times) and takes 1.4 to
1.5 times the room: zstd, for what a slide takes on disk decides whether a cohort is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from imagecodecs import blosc_encode
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

_SHUFFLE = {"noshuffle": 0, "shuffle": 1}


@dataclass(frozen=True)
class BloscEncoding:
    """Blosc with zstd.

    Attributes:
        level: of zstd, as blosc counts, 1 to 9.
        shuffle: whether the bytes of the pixels are sorted by significance first.
        itemsize: bytes of a pixel.
    """

    level: int
    shuffle: Literal["noshuffle", "shuffle"]
    itemsize: int

    @property
    def zarr_codec(self) -> BloscCodec:
        """What the metadata of an array of such chunks name."""
        return BloscCodec(cname="zstd", clevel=self.level, shuffle=self.shuffle, typesize=self.itemsize)

    def encode(self, pixels: NDArray[Any]) -> tuple[bytes, ...]:
        """Return the chunk in pieces; none for pixels that are all 0, which Zarr does not store."""
        if not pixels.any():
            return ()
        # The encoder believes the array's type rather than `typesize`: of bytes it would shuffle nothing.
        encoded = blosc_encode(
            cast(bytes, np.ascontiguousarray(pixels)),
            level=self.level,
            compressor="zstd",
            shuffle=_SHUFFLE[self.shuffle],
            typesize=self.itemsize,
            numthreads=1,
        )
        return (bytes(encoded),)


def dense_encoding(dtype: np.dtype[Any]) -> BloscEncoding:
    """Return the encoding of dense patches of this type; float32, which was not measured, as uint16."""
    return BloscEncoding(3, "noshuffle" if dtype.itemsize == 1 else "shuffle", dtype.itemsize)
