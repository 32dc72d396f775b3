"""Locate and decode one stored plane of a TIFF, and check that its tags are possible."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFrame, TiffPage

from pipeline.slides.base import Pixels
from pipeline.slides.jpeg_markers import RGB, YCBCR, stated_transform

# What tifffile and its codecs raise on files that make no sense.
BROKEN_TIFF = (
    OSError, ValueError, ArithmeticError, LookupError, RuntimeError, MemoryError, TypeError, AttributeError,
    AssertionError, struct.error,
)  # fmt: skip

JPEG = 7


@dataclass(frozen=True)
class Plane:
    """One stored plane: where its bytes lie and how they are decoded.

    Attributes:
        key: what tells it from the others of the file.
        keyframe: the page that says how to decode it.
        offsets: where its tiles or strips begin.
        counts: their lengths in bytes.
        jpegtables: tables that its JPEG tiles share.
        decode: tifffile's decoder of its tiles; made while the file is open, for it looks into it.
        file: the file it lies in, of a set of files.
    """

    key: tuple[int, int]
    keyframe: TiffPage
    offsets: Sequence[int]
    counts: Sequence[int]
    jpegtables: bytes | None
    decode: Callable[..., tuple[Pixels | None, Any, tuple[int, int, int, int]]]
    file: str

    @classmethod
    def of(cls, page: TiffPage | TiffFrame, key: tuple[int, int]) -> Plane:
        """Return the plane of a page.

        Raises:
            ValueError: if the page does not tell what its pixels are, or has too few tiles or strips.
        """
        if page.keyframe is None:
            raise ValueError(f"page {page.index} without a description of its pixels")
        frame = page.keyframe
        file = str(page.parent.filehandle.path)
        plane = cls(key, frame, page.dataoffsets, page.databytecounts, page.jpegtables, frame.decode, file)
        if min(*plane.segment_shape, frame.imagewidth, frame.imagelength) <= 0:
            raise ValueError(f"page {page.index} with an image or tiles of no size")
        if min(len(plane.offsets), len(plane.counts)) < (1 if plane.is_raw else plane.segment_count):
            raise ValueError(f"page {page.index} with {len(plane.offsets)} of {plane.segment_count} tiles or strips")
        return plane

    @property
    def tagged_transform(self) -> int | None:
        """What the photometric tag says of the colours of JPEG tiles, `RGB` or `YCBCR`; None where they are no such."""
        page = self.keyframe
        plain = page.compression == JPEG and page.jpegheader is None and page.bitspersample == 8
        if not plain or page.planarconfig != 1 or page.samplesperpixel != 3:
            return None
        return {2: RGB, 6: YCBCR}.get(int(page.photometric))

    def colour_remark(self) -> str:
        """Return what to tell where JPEG tiles state other colours than the photometric tag; empty where they do not.

        Some tiles, the one of most bytes among them, stand for all.
        """
        tagged = self.tagged_transform
        present = np.flatnonzero(np.asarray(self.counts))
        if tagged is None or not len(present):
            return ""
        numbers = {int(present[0]), int(present[len(present) // 2]), int(np.argmax(self.counts))}
        with Path(self.file).open("rb") as stream:
            for index in numbers:
                stream.seek(int(self.offsets[index]))
                try:
                    stated = stated_transform(stream.read(int(self.counts[index])))
                except ValueError:
                    # A broken tile is reported where it is read.
                    continue
                if stated is not None and stated != tagged:
                    names = {RGB: "RGB", YCBCR: "YCbCr"}
                    both = f"JPEG tiles state {names[stated]}, the photometric tag {names[tagged]}"
                    return f"{both}: the tiles are believed"
        return ""

    @property
    def segment_shape(self) -> tuple[int, int]:
        """Height and width in pixels of a tile, or of a strip."""
        page = self.keyframe
        if page.is_tiled:
            return int(page.tilelength), int(page.tilewidth)
        return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles or strips from top to bottom and from left to right."""
        rows, columns = self.segment_shape
        return -(-self.keyframe.imagelength // rows), -(-self.keyframe.imagewidth // columns)

    @property
    def is_separate(self) -> bool:
        """Whether the samples of a pixel are stored apart, all tiles of the first before those of the second."""
        return self.keyframe.planarconfig == 2 and self.keyframe.samplesperpixel > 1

    @property
    def segment_count(self) -> int:
        """How many tiles or strips the plane must have."""
        return self.grid[0] * self.grid[1] * (self.keyframe.samplesperpixel if self.is_separate else 1)

    @property
    def is_raw(self) -> bool:
        """Whether the pixels lie in the file as they are in memory, row after row."""
        return bool(self.keyframe.is_final)

    def lacks(self, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Return whether a window on the plane touches a tile or strip of the first sample that the file leaves out."""
        (left, top), (width, height) = corner_xy, size_xy
        if self.is_raw or not (width and height):
            return False
        rows, columns = self.segment_shape
        across = self.grid[1]
        return any(
            not self.counts[row * across + column]
            for row in range(top // rows, (top + height - 1) // rows + 1)
            for column in range(left // columns, (left + width - 1) // columns + 1)
        )
