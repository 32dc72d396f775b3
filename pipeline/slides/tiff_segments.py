"""Read windows of TIFF planes: only the tiles or strips that a window touches are decoded."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from pathlib import Path

import imagecodecs
import numpy as np
from tifffile import TiffPage

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.alpha import alpha_of, on_white
from pipeline.slides.base import CorruptTileError, Pixels
from pipeline.slides.jpeg_markers import RGB, YCBCR, stated_transform
from pipeline.slides.tiff_plane import BROKEN_TIFF, Plane

CACHE_BYTES = 64 * 2**20
# No codec makes pixels twice as large; what claims to be is not a tile.
_LARGEST_EXPANSION = 2
_EXPANSION_SLACK = 2**16


_COLOURSPACE = {RGB: "RGB", YCBCR: "YCBCR"}


class SegmentReader:
    """Reads planes of one file, from several threads at once; keeps a bounded number of decoded tiles."""

    def __init__(self, path: Path, slide: str = "") -> None:
        self._path, self._slide = path, slide
        self._file = os.open(path, os.O_RDONLY)
        self._cache: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()
        self._raw: np.memmap[tuple[int], np.dtype[np.uint8]] | None = None

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._raw = None
        self._cache.clear()

    def paint(self, plane: Plane, target: Pixels, corner_xy: tuple[int, int], samples: Sequence[int]) -> None:
        """Write a window of a plane into `target`; tiles that the file leaves out are not touched.

        Args:
            plane: what to read.
            target: (height, width, len(samples)), may be a view; the window must lie within the plane.
            corner_xy: upper-left pixel of the window.
            samples: which samples of the pixel, in this order.
        """
        if plane.is_raw:
            self._paint_raw(plane, target, corner_xy, samples)
            return
        left, top = corner_xy
        height, width = target.shape[:2]
        rows, columns = plane.segment_shape
        down, across = plane.grid
        wanted = [(sample * across * down, slice(i, i + 1), [0]) for i, sample in enumerate(samples)]
        for first, into, which in wanted if plane.is_separate else [(0, slice(None), list(samples))]:
            for row in range(top // rows, (top + height - 1) // rows + 1):
                for column in range(left // columns, (left + width - 1) // columns + 1):
                    tile = self._segment(plane, first + row * across + column)
                    if tile is not None:
                        offset = (column * columns - left, row * rows - top)
                        _overlay(tile, target[..., into], offset, which)

    def paint_colours(self, plane: Plane, target: Pixels, corner_xy: tuple[int, int], colours: Sequence[int]) -> None:
        """Write a window of an RGB plane into `target` as `paint` does, its alpha, if it has one, seen on white."""
        alpha = alpha_of(plane.keyframe)
        if alpha is None:
            self.paint(plane, target, corner_xy, colours)
            return
        rgba = np.full((*target.shape[:2], len(colours) + 1), np.iinfo(target.dtype).max, target.dtype)
        self.paint(plane, rgba, corner_xy, [*colours, 3])
        target[...] = on_white(rgba, alpha)

    def _paint_raw(self, plane: Plane, target: Pixels, corner_xy: tuple[int, int], samples: Sequence[int]) -> None:
        if self._raw is None:
            self._raw = np.memmap(self._path, dtype=np.uint8, mode="r")
        page = plane.keyframe
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        planes, _, height, width, contiguous = page.shaped
        try:
            image = np.ndarray((planes, height, width, contiguous), dtype, self._raw, plane.offsets[0])
        except TypeError:
            raise StatedError(
                slide=self._slide,
                file=self._path,
                expected=f"{page.nbytes} bytes of pixels at byte {plane.offsets[0]}",
                found=f"a file of {self._raw.size} bytes",
            ) from None
        (left, top), (rows, columns) = corner_xy, target.shape[:2]
        window = image[:, top : top + rows, left : left + columns]
        for i, sample in enumerate(samples):
            target[..., i] = window[sample, ..., 0] if planes > 1 else window[0, ..., sample]

    def _segment(self, plane: Plane, index: int) -> Pixels | None:
        """Return one decoded tile or strip (height, width, samples), cut at the border of the image."""
        key = (*plane.key, index)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        if not plane.counts[index]:
            return None
        tile = self._decode(plane, index)
        with self._lock:
            if tile is not None and key not in self._cache:
                self._cache[key] = tile
                self._cached_bytes += tile.nbytes
                while self._cached_bytes > CACHE_BYTES:
                    self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, plane: Plane, index: int) -> Pixels | None:
        page = plane.keyframe
        options = {"jpegtables": plane.jpegtables, "jpegheader": page.jpegheader} if _is_jpeg(page) else {}
        try:
            # Text, where the tag is of that type.
            offset, count = int(plane.offsets[index]), int(plane.counts[index])
            whole = prod(plane.segment_shape) * page.samplesperpixel * np.dtype(page.dtype).itemsize
            if count > _LARGEST_EXPANSION * whole + _EXPANSION_SLACK:
                # Deflate unfolds to a thousand times its size, which is known only once memory is taken.
                raise ValueError(f"{count} compressed bytes for {whole} bytes of pixels")
            data = os.pread(self._file, count, offset)
            if len(data) < count:
                raise ValueError(f"{len(data)} of {count} bytes")
            transform = plane.tagged_transform
            if transform is None:
                tile, _, shape = plane.decode(data, index, _fullsize=page.is_tiled, **options)
            else:
                _, _, shape = plane.decode(None, index)
                tile = _decoded_jpeg(data, plane, transform)[None]
            if tile is not None and (tile.shape[1] < shape[1] or tile.shape[2] < shape[2]):
                raise ValueError(f"{tile.shape[2]} x {tile.shape[1]} px, not {shape[2]} x {shape[1]}")
            samples = 1 if plane.is_separate else page.samplesperpixel
            if tile is not None and (tile.shape[-1], tile.dtype) != (samples, page.dtype):
                raise ValueError(f"{tile.shape[-1]} samples of {tile.dtype}, not {samples} of {page.dtype}")
        except BROKEN_TIFF as error:
            reraise_bug(error)
            raise CorruptTileError(
                slide=self._slide,
                file=self._path,
                expected=f"readable pixels in tile or strip {index} of page {page.index}",
                found=str(error) or type(error).__name__,
            ) from None
        return None if tile is None else tile[0, : shape[1], : shape[2]]


def _overlay(tile: Pixels, target: Pixels, offset_xy: tuple[int, int], samples: Sequence[int]) -> None:
    """Copy the part of `tile`, whose corner lies at `offset_xy` of `target`, that `target` covers."""
    x, y = offset_xy
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + tile.shape[1], target.shape[1]), min(y + tile.shape[0], target.shape[0])
    if right > left and bottom > top:
        part = tile[top - y : bottom - y, left - x : right - x]
        whole = list(samples) == list(range(part.shape[-1]))
        target[top:bottom, left:right] = part if whole else part[..., list(samples)]


def _decoded_jpeg(data: bytes, plane: Plane, transform: int) -> Pixels:
    """Return the RGB pixels of a JPEG tile or strip; its own markers are believed before the photometric tag's."""
    stated = stated_transform(data)
    colourspace = _COLOURSPACE[transform if stated is None else stated]
    pixels = imagecodecs.jpeg8_decode(data, tables=plane.jpegtables, colorspace=colourspace, outcolorspace="RGB")
    if plane.keyframe.is_tiled and pixels.shape[:2] != plane.segment_shape:
        raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} px, not {plane.segment_shape[::-1]}")
    return np.asarray(pixels)


def _is_jpeg(page: TiffPage) -> bool:
    return page.compression in (6, 7, 34892, 33007)
