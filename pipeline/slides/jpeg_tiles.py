"""Read the JPEG tiles of a slide as the scanner wrote them: complete streams, nothing decoded.

A TIFF keeps the quantisation and Huffman tables once per level and says in a tag, not in the tile, whether the
samples are RGB or YCbCr. A tile becomes a complete stream by putting the tables in front, and an Adobe marker that
tells every decoder the colour space; the entropy-coded pixels stay byte for byte what they were.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg
from tifffile import TiffFile, TiffPage

from pipeline.errors import reraise_bug
from pipeline.slides.base import CorruptTileError
from pipeline.slides.closing import Closing
from pipeline.slides.jpeg_markers import ADOBE, FRAMES, JFIF, OTHER_FRAMES, SOI, SOS, segments
from pipeline.slides.jpeg_markers import RGB as RGB
from pipeline.slides.jpeg_markers import YCBCR as YCBCR
from pipeline.slides.tiff_plane import BROKEN_TIFF

_JPEG, _CHUNKY = 7, 1
# One read serves several tiles where at least half of what lies between the first and the last is theirs.
_LARGEST_READ_BYTES = 128 * 2**20


# What broken data looks like that still has a beginning: no end-of-image marker, or blocks that a transfer left blank.
_EOI = b"\xff\xd9"
_BLANK = bytes(64)

# A complete stream in pieces, what is put in front and what of the file follows: no byte of a tile is moved.
Stream = tuple[bytes, NDArray[np.uint8]]


@dataclass(frozen=True)
class _Beginning:
    """How the tiles of a level begin, up to and with the start-of-scan marker, and what replaces it."""

    found: bytes
    replacement: bytes


class JpegTiles(Closing):
    """The JPEG tiles of one level; safe to read from several threads.

    Attributes:
        path: the file.
        side_px: side of a tile, which is square.
        across: tiles in a row.
        offsets: (n,) int64, where each tile begins in the file, row by row.
        counts: (n,) int64, its bytes; 0 for a tile that the scanner left out.
    """

    def __init__(self, path: Path, page: TiffPage) -> None:
        self.path = path
        self.side_px = int(page.tilewidth)
        self.across = -(-int(page.imagewidth) // self.side_px)
        self.offsets = np.array(page.dataoffsets, dtype=np.int64)
        self.counts = np.array(page.databytecounts, dtype=np.int64)
        self._tables: bytes | None = page.jpegtables
        self._beginnings: dict[int, _Beginning] = {}
        self._file = os.open(path, os.O_RDONLY)
        self._file_bytes = os.fstat(self._file).st_size

    @classmethod
    def open(cls, path: Path, level_size_xy: tuple[int, int]) -> Self | None:
        """Return the tiles of the page of that size, or of that size rounded up to whole tiles.

        None where there is no such page, or its tiles are not square 8-bit RGB JPEG.
        """
        try:
            with TiffFile(path) as tif:
                for fits in (_is_of_size, _is_padded):
                    for page in _pages(tif):
                        if _is_copyable(page) and fits(page, level_size_xy):
                            return cls(path, page)
        except BROKEN_TIFF as error:
            reraise_bug(error)
            return None
        return None

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def stream(self, number: int, transform: int) -> bytes:
        """Return the complete JPEG stream of one tile, counted row by row, that the scanner did not leave out.

        Args:
            number: which tile.
            transform: what the stream will say of its colours, `RGB` or `YCBCR`.

        Raises:
            CorruptTileError: if the tile is cut off, no JPEG, or of another size than its page says.
        """
        tile = self._read(int(self.offsets[number]), int(self.counts[number]))
        self._check_length(len(tile), number)
        beginning = self._beginnings.get(transform)
        if beginning is None or not tile.startswith(beginning.found):
            beginning = self._beginning(tile, number, transform)
        end = b"" if tile.endswith(_EOI) else _EOI
        return b"".join((beginning.replacement, memoryview(tile)[len(beginning.found) :], end))

    def streams(self, numbers: NDArray[np.int64], transform: int) -> list[Stream | None]:
        """Return the complete JPEG streams of tiles, in pieces; None for one that cannot be one.

        Nothing is decoded, unless a tile looks damaged: if it does not end as JPEG does, or 64 bytes in it are 0 (which
        happens in a blank tile, too), a strict decoder has the last word.

        Args:
            numbers: tiles, counted row by row; none that the scanner left out.
            transform: what the streams will say of their colours, `RGB` or `YCBCR`.

        Raises:
            CorruptTileError: if the file ends before a tile does.
        """
        found: list[Stream | None] = []
        for block, starts in self._blocks(numbers):
            stops = starts + self.counts[numbers[len(found) : len(found) + len(starts)]]
            pixels = np.frombuffer(block, dtype=np.uint8)
            doubtful = (pixels[stops - 2] != _EOI[0]) | (pixels[stops - 1] != _EOI[1])
            blank = block.find(_BLANK)
            while blank >= 0:
                doubtful |= (starts <= blank) & (blank < stops)
                # The rest of that tile need not be searched.
                later = stops[(starts <= blank) & (blank < stops)]
                blank = block.find(_BLANK, int(later.max(initial=blank + len(_BLANK))))
            found += self._cut(block, pixels, starts, stops, numbers[len(found) :], transform, doubtful)
        return found

    def _cut(
        self,
        block: bytes,
        pixels: NDArray[np.uint8],
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        numbers: NDArray[np.int64],
        transform: int,
        doubtful: NDArray[np.bool_],
    ) -> Iterator[Stream | None]:
        """Yield the streams of the tiles that begin and end there in a block of the file."""
        beginning = self._beginnings.get(transform)
        length = len(beginning.found) if beginning else 0
        extents = zip(starts.tolist(), stops.tolist(), doubtful.tolist(), strict=True)
        for index, (start, stop, is_doubtful) in enumerate(extents):
            if beginning is None or is_doubtful or not block.startswith(beginning.found, start, stop):
                number = int(numbers[index])
                try:
                    beginning = self._beginning(block[start:stop], number, transform)
                    if is_doubtful:
                        decode_strictly(self.stream(number, transform))
                except (CorruptTileError, ValueError):
                    yield None
                    continue
                length = len(beginning.found)
            rest = pixels[start + length : stop]
            if is_doubtful and rest[-2:].tobytes() != _EOI:
                # Decoders do without, but some call it an error.
                rest = np.concatenate([rest, np.frombuffer(_EOI, dtype=np.uint8)])
            yield beginning.replacement, rest

    def _blocks(self, numbers: NDArray[np.int64]) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
        """Yield successive bytes of the file that hold some of the tiles, and where in them these begin."""
        starts, counts = self.offsets[numbers], self.counts[numbers]
        first = int(starts.min(initial=np.iinfo(np.int64).max))
        span = int((starts + counts).max(initial=0)) - first
        if 0 < span <= min(_LARGEST_READ_BYTES, 2 * int(counts.sum())):
            block = self._read(first, span)
            self._check_length(len(block), int(numbers[0]), span)
            yield block, starts - first
            return
        for number, start, count in zip(numbers, starts.tolist(), counts.tolist(), strict=True):
            block = self._read(start, count)
            self._check_length(len(block), int(number))
            yield block, np.zeros(1, dtype=np.int64)

    def _read(self, start: int, count: int) -> bytes:
        """Return bytes of the file, fewer where it ends before.

        Memory is not asked for what a file only claims to hold.
        """
        return os.pread(self._file, max(0, min(count, self._file_bytes - start)), start)

    def _check_length(self, found: int, number: int, wanted: int | None = None) -> None:
        if found < (self.counts[number] if wanted is None else wanted):
            expected = f"the whole of JPEG tile {number}"
            raise CorruptTileError(file=self.path, expected=expected, found=f"{found} bytes, then the file's end")

    def _beginning(self, tile: bytes, number: int, transform: int) -> _Beginning:
        try:
            beginning = _spliced(tile, self._tables, self.side_px, transform)
        except (ValueError, IndexError, struct.error) as error:
            expected = f"a JPEG stream of {self.side_px} x {self.side_px} px in tile {number}"
            raise CorruptTileError(file=self.path, expected=expected, found=str(error)) from None
        self._beginnings[transform] = beginning
        return beginning


def decode_strictly(stream: bytes, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8: the pixels of a stream, in `out` where it is given.

    Other doors to libjpeg-turbo pass over its warnings, and half of the pixels come out grey.

    Raises:
        ValueError: if libjpeg-turbo has anything to say against the stream.
    """
    return np.asarray(decode_jpeg(stream, colorspace="RGB", buffer=out))


def decode_leniently(stream: bytes, side_px: int) -> NDArray[np.uint8]:
    """Return (side, side, 3) uint8: what can be decoded of a broken stream.

    What cannot is grey, as libjpeg leaves it.
    """
    try:
        return np.asarray(decode_jpeg(stream, colorspace="RGB", strict=False))
    except ValueError:
        return np.full((side_px, side_px, 3), 128, dtype=np.uint8)


def joined(stream: Stream) -> bytes:
    """Return a stream in one piece, as decoders want it."""
    beginning, rest = stream
    return beginning + rest.tobytes()


def _pages(tif: TiffFile) -> Iterator[TiffPage]:
    for page in tif.pages:
        whole = page.aspage()
        yield whole
        if whole.subifds:
            yield from (sub.aspage() for sub in whole.pages or ())


def _is_of_size(page: TiffPage, size_xy: tuple[int, int]) -> bool:
    return (page.imagewidth, page.imagelength) == size_xy


def _is_padded(page: TiffPage, size_xy: tuple[int, int]) -> bool:
    """Return whether a page is of a size rounded up to whole tiles, as some writers store levels."""
    side = page.tilewidth
    return all(
        -(-wanted // side) * side == stored
        for wanted, stored in zip(size_xy, (page.imagewidth, page.imagelength), strict=True)
    )


def _is_copyable(page: TiffPage) -> bool:
    # YCbCr JPEG planes may lie apart, tiles of other shapes cannot be patches.
    square = page.is_tiled and page.tilewidth == page.tilelength and page.imagedepth == 1
    plain = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == _CHUNKY
    return bool(square and plain and page.compression == _JPEG and page.jpegheader is None)


def _spliced(tile: bytes, tables: bytes | None, side_px: int, transform: int) -> _Beginning:
    """Return what a tile's bytes up to its scan are to be replaced by.

    Markers that speak of colours are left out, for ours would have to agree with them: a decoder that finds JFIF's
    takes the samples for YCbCr, whatever the TIFF says.
    """
    own, scan = segments(tile)
    shared = segments(tables)[0] if tables else []
    frames = [segment for marker, segment in own if marker in FRAMES]
    if len(frames) != 1 or any(marker in OTHER_FRAMES for marker, _ in own) or scan is None:
        raise ValueError("no baseline or progressive frame with a scan")
    precision, height, width, components = struct.unpack(">BHHB", frames[0][4:10])
    if (precision, height, width, components) != (8, side_px, side_px, 3):
        raise ValueError(f"{components} components of {width} x {height} px, {precision} bits")
    kept = [segment for marker, segment in [*shared, *own] if marker not in (JFIF, ADOBE)]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return _Beginning(tile[: scan + 2], SOI + adobe + b"".join(kept) + SOS)
