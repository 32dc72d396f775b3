"""TIFFs that OpenSlide does not serve: OME-TIFF, QPTIFF, inForm, ImageJ and others, of any number of channels.

Tifffile parses the file and decodes its tiles. Its sibling tiffslide is not in the way: it reads one RGB image through
level-0 coordinates that it rounds, where several channels and exact coordinates of each level are needed here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from pipeline.errors import StatedError
from pipeline.slides.base import Pixels, SlideHeader
from pipeline.slides.closing import Closing
from pipeline.slides.pyramid import levels_of
from pipeline.slides.tiff_metadata import channel_names, check_xml, mpp_of
from pipeline.slides.tiff_segments import BROKEN_TIFF, MAX_SEGMENT_BYTES, Plane, SegmentReader
from pipeline.slides.window import clip_window

DTYPES = ("uint8", "uint16", "float32")
RGB = ("R", "G", "B")
_CHANNEL_AXES = "CIQ"
_MIN_IS_BLACK, _RGB, _YCBCR = 1, 2, 6


class TiffSlide(Closing):
    """One image, with its pyramid, of a TIFF file.

    Raises:
        StatedError: if the file holds no image of a kind that the program works with.
    """

    def __init__(self, path: Path, slide: str = "") -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self._planes: dict[int, tuple[Plane, ...]] = {}
        try:
            self._tif = TiffFile(path)
            check_xml(self._tif.pages.first.description, path)
            series = _main_series(self._tif, path)
            self._levels, self.header = _described(self._tif, series, path)
        except BROKEN_TIFF as error:
            raise StatedError(slide=slide, file=path, expected="a TIFF that can be read", found=str(error)) from None
        self._has_alpha = self.header.is_rgb and series.keyframe.samplesperpixel == 4
        self._segments = SegmentReader(path, slide)

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """Pixels (height, width, channels) of a window; see `pipeline.slides.base.Slide`."""
        header = self.header
        wanted = list(range(len(header.channels)) if channels is None else channels)
        planes = self._planes_of(level)
        window = clip_window(corner_xy, size_xy, header.levels[level].size_xy)
        (left, top), (right, bottom), corner = window.start_xy, window.stop_xy, window.corner_xy
        fill = 255 if header.is_rgb else 0
        if len(planes) == 1 and planes[0].keyframe.planarconfig != 2:
            read = [*wanted, 3] if self._has_alpha else wanted
            out = np.full((size_xy[1], size_xy[0], len(read)), fill, header.dtype)
            if not window.is_empty:
                self._segments.paint(planes[0], out[top:bottom, left:right], corner, read)
            return _on_white(out) if self._has_alpha else out
        stack = np.full((len(wanted), size_xy[1], size_xy[0]), fill, header.dtype)
        out = np.moveaxis(stack, 0, -1)
        if not window.is_empty:
            for i, channel in enumerate(wanted):
                plane, sample = (planes[0], channel) if len(planes) == 1 else (planes[channel], 0)
                self._segments.paint(plane, out[top:bottom, left:right, i : i + 1], corner, [sample])
        return out

    def is_corrupt(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Never: what cannot be decoded is raised; see `pipeline.slides.base.Slide`."""
        return False

    def jpeg_transform(self, level: int) -> int | None:
        """None: JPEG tiles are decoded by tifffile."""
        return None

    def close(self) -> None:
        """Releases the file."""
        self._segments.close()
        self._tif.close()

    def _planes_of(self, level: int) -> tuple[Plane, ...]:
        # tifffile loads directories when they are asked for, and is not made for several threads.
        with self._lock:
            if level not in self._planes:
                path = self.header.path
                try:
                    self._planes[level] = _planes(self._levels[level], level)
                except BROKEN_TIFF as error:
                    expected = f"a readable level {level}"
                    raise StatedError(slide=self._slide, file=path, expected=expected, found=str(error)) from None
            return self._planes[level]


def _main_series(tif: TiffFile, path: Path) -> TiffPageSeries:
    """The largest image of the file; labels, macros and thumbnails are smaller."""
    series = sorted(tif.series, key=lambda item: -_area(item))
    if not series or not _area(series[0]):
        raise StatedError(file=path, expected="a TIFF with an image", found="none")
    same = [item for item in series[1:] if _size_xy(item) == _size_xy(series[0])]
    if same:
        raise StatedError(file=path, expected="one image in the file", found=f"{len(same) + 1} of one size")
    return series[0]


def _described(tif: TiffFile, series: TiffPageSeries, path: Path) -> tuple[list[TiffPageSeries], SlideHeader]:
    """The series of each level, and what they say."""
    page = series.keyframe
    _check_kind(series, path)
    candidates = list(series.levels)
    if len(candidates) == 1:
        # Older writers store the levels as images of their own.
        candidates += [x for x in tif.series if x is not series and _same_but_size(x, series)]
    candidates[1:] = sorted(candidates[1:], key=_area, reverse=True)
    kept = levels_of([_size_xy(item) for item in candidates])
    is_colour = page.photometric in (_RGB, _YCBCR)
    count = prod(series.shape) // prod(_size_xy(series))
    if is_colour and count in (3, 4):
        names: tuple[str, ...] = RGB
    else:
        described = [p.aspage().description for p in series if p is not None] if tif.is_qpi else []
        names = channel_names(tif, series, described, count, path)
    mpp = mpp_of(tif, series, path)
    levels = tuple(level for _, level in kept)
    header = SlideHeader(path, "tifffile", mpp.um, levels, names, series.dtype.name, mpp.remark)
    return [candidates[i] for i, _ in kept], header


def _check_kind(series: TiffPageSeries, path: Path) -> None:
    """Refuses what cannot be read as planes of channels."""
    page = series.keyframe
    axes = dict(zip(series.axes, series.shape, strict=True))
    stacked = {axis: n for axis, n in axes.items() if axis not in "YXS" and n > 1}
    if any(axis not in _CHANNEL_AXES for axis in stacked) or len(stacked) > 1 or (stacked and axes.get("S", 1) > 1):
        raise StatedError(
            file=path,
            expected="an image of one plane with channels (axes C, Y, X or Y, X, S)",
            found=f"axes {series.axes}, shape {series.shape}",
        )
    if series.dtype.name not in DTYPES:
        raise StatedError(file=path, expected=f"pixels of type {', '.join(DTYPES)}", found=series.dtype.name)
    if page.photometric not in (_MIN_IS_BLACK, _RGB, _YCBCR) or page.imagedepth != 1:
        raise StatedError(
            file=path, expected="a grey, RGB or YCbCr image", found=f"photometric interpretation {page.photometric!s}"
        )
    if series.is_multifile:
        raise StatedError(file=path, expected="all planes in one file", found="an OME-TIFF of several files")
    plane = Plane.of(page, (0, 0))
    if (
        not plane.is_raw
        and prod(plane.segment_shape) * page.samplesperpixel * series.dtype.itemsize > MAX_SEGMENT_BYTES
    ):
        found = f"strips of {plane.segment_shape[1]} x {plane.segment_shape[0]} px"
        raise StatedError(file=path, expected="an image in tiles or in strips below 2 GiB", found=found)


def _planes(level: TiffPageSeries, index: int) -> tuple[Plane, ...]:
    page = level.keyframe
    count = prod(n for axis, n in zip(level.axes, level.shape, strict=True) if axis in _CHANNEL_AXES)
    start = level.dataoffset
    if start is not None and count > 1:
        # ImageJ and others describe a stack by its first page only; the planes follow each other.
        offsets = [start + i * page.nbytes for i in range(count)]
        first = Plane.of(page, (index, 0))
        return tuple(replace(first, key=(index, i), offsets=(offset,)) for i, offset in enumerate(offsets))
    pages: list[TiffPage | TiffFrame] = [p for p in level if p is not None]
    if len(pages) != count:
        raise ValueError(f"{len(pages)} of {count} planes")
    return tuple(Plane.of(p, (index, i)) for i, p in enumerate(pages))


def _same_but_size(one: TiffPageSeries, other: TiffPageSeries) -> bool:
    def kept(series: TiffPageSeries) -> list[int]:
        return [n for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YX"]

    return (one.axes, one.dtype, kept(one)) == (other.axes, other.dtype, kept(other))


def _size_xy(series: TiffPageSeries) -> tuple[int, int]:
    return int(series.keyframe.imagewidth), int(series.keyframe.imagelength)


def _area(series: TiffPageSeries) -> int:
    return prod(_size_xy(series))


def _on_white(rgba: Pixels) -> Pixels:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
