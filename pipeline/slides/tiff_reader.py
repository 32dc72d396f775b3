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
from pipeline.slides.base import Level, Pixels, SlideHeader
from pipeline.slides.closing import Closing
from pipeline.slides.level_content import Read, compare_by, plane_reader
from pipeline.slides.pyramid import Compare, kept_levels, notes_on_levels, recorded_levels
from pipeline.slides.tiff_images import (
    TiffImage,
    area_of,
    chosen_image,
    images_of,
    is_guessed,
    may_be_level,
    notes_on_others,
    size_of,
    stored_level,
)
from pipeline.slides.tiff_metadata import channel_names, check_xml
from pipeline.slides.tiff_segments import BROKEN_TIFF, MAX_SEGMENT_BYTES, Plane
from pipeline.slides.tiff_set import SegmentSet, check_set, files_of, opened_plane, set_files
from pipeline.slides.window import clip_window

DTYPES = ("uint8", "uint16", "float32")
RGB = ("R", "G", "B")
_CHANNEL_AXES = "CIQ"
_MIN_IS_BLACK, _RGB, _YCBCR = 1, 2, 6


class TiffSlide(Closing):
    """One image, with its pyramid, of a TIFF file or of a set of OME-TIFF files.

    Args:
        path: the file.
        slide: name of the slide, for errors.
        image: name or number of the image, where the file holds several; empty takes the largest.
        levels: as found before, so that they need not be judged anew; empty judges them.

    Raises:
        StatedError: if the file holds no image of a kind that the program works with, or several that may be meant.
    """

    def __init__(self, path: Path, slide: str = "", image: str = "", levels: Sequence[Level] = ()) -> None:
        self._slide = slide
        self._lock = threading.Lock()
        self._planes: dict[int, tuple[Plane, ...]] = {}
        self._tif_path = path
        try:
            self._tif = TiffFile(path)
            check_xml(self._tif.pages.first.description, path)
            check_set(path)
            images = images_of(self._tif, path)
            chosen = chosen_image(images, image, path)
            series = chosen.series
            _check_kind(series, path)
            self._segments = SegmentSet(path, slide, set_files(series, path))
            self._levels, self.header = self._described(images, chosen, levels)
            if not levels:
                notes = notes_on_others(images, chosen, [size_of(x) for x in self._levels], image, path)
                self.header = replace(self.header, notes=(*self.header.notes, *notes))
        except BROKEN_TIFF as error:
            raise StatedError(slide=slide, file=path, expected="a TIFF that can be read", found=str(error)) from None
        self._has_alpha = self.header.is_rgb and series.keyframe.samplesperpixel == 4

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

    def _described(
        self, images: Sequence[TiffImage], chosen: TiffImage, known: Sequence[Level]
    ) -> tuple[list[TiffPageSeries], SlideHeader]:
        """Return the series of each level, and what they state."""
        path, series = self._tif_path, chosen.series
        structured = [(item, True) for item in series.levels] if not is_guessed(series) else [(series, False)]
        if len(structured) == 1:
            # Older writers store the levels as images of their own; images of one resolution are no levels.
            structured += [(x.series, False) for x in images if x is not chosen and may_be_level(x, chosen)]
        candidates = [structured[0], *sorted(structured[1:], key=lambda item: -area_of(item[0]))]
        stored = [stored_level(item, is_level=is_level) for item, is_level in candidates]
        kept = recorded_levels(stored, known) or kept_levels(stored, self._compare([item for item, _ in candidates]))
        page = series.keyframe
        is_colour = page.photometric in (_RGB, _YCBCR)
        count = prod(series.shape) // prod(size_of(series))
        if is_colour and count in (3, 4):
            names: tuple[str, ...] = RGB
        else:
            described = [p.aspage().description for p in series if p is not None] if self._tif.is_qpi else []
            names = channel_names(self._tif, series, described, count, path)
        notes = () if known else notes_on_levels(stored, kept)
        levels = tuple(level for _, level in kept)
        mpp = chosen.mpp
        header = SlideHeader(path, "tifffile", mpp.um, levels, names, series.dtype.name, mpp.remark, notes)
        return [candidates[i][0] for i, _ in kept], header

    def _compare(self, candidates: Sequence[TiffPageSeries]) -> Compare:
        """Return what compares the first channel of two candidates."""
        planes: dict[int, Plane] = {}

        def reader(index: int) -> Read:
            if index not in planes:
                # Keys below 0, for the numbers of the levels are not known yet.
                planes[index] = _planes(candidates[index], -1 - index)[0]
            return plane_reader(planes[index], self._segments.paint)

        return compare_by(reader, size_of(candidates[0]))

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
    start = None if len(files_of(level)) > 1 else level.dataoffset
    if start is not None and count > 1:
        # ImageJ and others describe a stack by its first page only; the planes follow each other.
        offsets = [start + i * page.nbytes for i in range(count)]
        first = Plane.of(page, (index, 0))
        return tuple(replace(first, key=(index, i), offsets=(offset,)) for i, offset in enumerate(offsets))
    pages: list[TiffPage | TiffFrame] = [p for p in level if p is not None]
    if len(pages) != count:
        raise ValueError(f"{len(pages)} of {count} planes")
    return tuple(opened_plane(p, (index, i)) for i, p in enumerate(pages))


def _on_white(rgba: Pixels) -> Pixels:
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
