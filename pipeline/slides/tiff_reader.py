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

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.alpha import LEFT_OUT, alpha_of
from pipeline.slides.apart_channels import apart_channels
from pipeline.slides.base import DTYPES, MAX_SEGMENT_BYTES, RGB, Level, Pixels, Shows, SlideHeader
from pipeline.slides.closing import WithoutJpegTiles
from pipeline.slides.colour_names import may_be_colours
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
from pipeline.slides.tiff_plane import BROKEN_TIFF, Plane
from pipeline.slides.tiff_set import SegmentSet, check_set, files_of, opened_plane, set_files
from pipeline.slides.window import clip_window

# What the samples of an RGB image are called where they are channels that have nothing to do with each other.
_SAMPLES = ("red", "green", "blue", "C3")
# Viewers of imaging mass cytometry store channels as points in time.
_CHANNEL_AXES = "CIQT"
_MIN_IS_BLACK, _RGB, _PALETTE, _YCBCR = 1, 2, 3, 6
# JPEG, WebP, PNG, JPEG XR and JPEG XL say themselves whether they hold YCbCr; of other codecs the tag alone does.
_OWN_COLOURS = {6, 7, 22610, 33007, 34892, 34933, 34934, 50001, 50002, 52546}
_JPEG_2000_YCBCR = 33003


class TiffSlide(WithoutJpegTiles):
    """One image, with its pyramid, of a TIFF file or of a set of OME-TIFF files.

    Args:
        path: the file.
        slide: name of the slide, for errors.
        image: name or number of the image, where the file holds several; empty takes the largest.
        levels: as found before, so that they need not be judged anew; empty judges them.
        shows: what to take samples for that may be colours or channels; see `pipeline.slides.base.Shows`.

    Raises:
        StatedError: if the file holds no image of a kind that the program works with, or several that may be meant.
    """

    def __init__(
        self,
        path: Path,
        slide: str = "",
        image: str = "",
        levels: Sequence[Level] = (),
        shows: Shows = "file",
    ) -> None:
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
            check_kind(series, path)
            self._segments = SegmentSet(path, slide, set_files(series, path))
            same = [x for x in images if size_of(x.series) == size_of(series)]
            names = apart_channels(self._tif, [x.series for x in same], path) if len(same) > 1 and not image else None
            group = [chosen.series] if names is None else [x.series for x in same]
            others = images if names is None else [x for x in images if x is chosen or x not in same]
            self._levels, self.header = self._described(others, chosen, group, names or (), levels, shows)
            if not levels:
                sizes_xy = [size_of(level[0]) for level in self._levels]
                notes = notes_on_others(others, chosen, sizes_xy, image, path)
                self.header = replace(self.header, notes=(*self.header.notes, *notes))
        except BROKEN_TIFF as error:
            reraise_bug(error)
            raise StatedError(slide=slide, file=path, expected="a TIFF that can be read", found=str(error)) from None
        page = group[0].keyframe
        self._has_alpha = self.header.is_rgb and alpha_of(page) is not None
        self._table = _colour_table(page) if self.header.is_rgb and page.photometric == _PALETTE else None

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """Return pixels (height, width, channels) of a window; see `pipeline.slides.base.Slide`."""
        header = self.header
        wanted = list(range(len(header.channels)) if channels is None else channels)
        planes = self._planes_of(level)
        window = clip_window(corner_xy, size_xy, header.levels[level].size_xy)
        (left, top), (right, bottom), corner = window.start_xy, window.stop_xy, window.corner_xy
        fill = 255 if header.is_rgb else 0
        if self._table is not None:
            # White, the last line of the table, where the file leaves a tile out.
            indices = np.full((size_xy[1], size_xy[0], 1), len(self._table) - 1, np.uint32)
            if not window.is_empty:
                self._segments.paint(planes[0], indices[top:bottom, left:right], corner, [0])
            return self._table[indices[..., 0]][..., wanted]
        if len(planes) == 1 and (planes[0].keyframe.planarconfig != 2 or self._has_alpha):
            out = np.full((size_xy[1], size_xy[0], len(wanted)), fill, header.dtype)
            if not window.is_empty:
                paint = self._segments.paint_colours if header.is_rgb else self._segments.paint
                paint(planes[0], out[top:bottom, left:right], corner, wanted)
            return out
        stack = np.full((len(wanted), size_xy[1], size_xy[0]), fill, header.dtype)
        out = np.moveaxis(stack, 0, -1)
        if not window.is_empty:
            for i, channel in enumerate(wanted):
                plane, sample = (planes[0], channel) if len(planes) == 1 else (planes[channel], 0)
                self._segments.paint(plane, out[top:bottom, left:right, i : i + 1], corner, [sample])
        return out

    def close(self) -> None:
        """Release the file."""
        self._segments.close()
        self._tif.close()

    def _described(
        self,
        images: Sequence[TiffImage],
        chosen: TiffImage,
        group: list[TiffPageSeries],
        names: tuple[str, ...],
        known: Sequence[Level],
        shows: Shows,
    ) -> tuple[list[tuple[TiffPageSeries, ...]], SlideHeader]:
        """Return the series of each level, one or one for each channel, and what they state."""
        path, series = self._tif_path, chosen.series
        structured: list[tuple[tuple[TiffPageSeries, ...], bool]] = [(tuple(group), False)]
        if not is_guessed(series):
            structured = [(level, True) for level in zip(*(item.levels for item in group), strict=True)]
        if len(structured) == 1:
            # Older writers store the levels as separate images; images of one resolution are not levels.
            smaller = [x.series for x in images if x is not chosen and may_be_level(x, chosen)]
            sizes_xy = dict.fromkeys(size_of(x) for x in smaller) if len(group) > 1 else {}
            sets = [tuple(x for x in smaller if size_of(x) == size) for size in sizes_xy] or [(x,) for x in smaller]
            structured += [(level, False) for level in sets if len(level) == len(group)]
        candidates = [structured[0], *sorted(structured[1:], key=lambda item: -area_of(item[0][0]))]
        stored = [stored_level(item[0], is_level=is_level) for item, is_level in candidates]
        compare = self._compare([item[0] for item, _ in candidates])
        kept = recorded_levels(stored, known) or kept_levels(stored, compare)
        channels, channel_notes = channels_of(self._tif, group, names, path, shows)
        notes = (*channel_notes, *(() if known else notes_on_levels(stored, kept)))
        levels = tuple(level for _, level in kept)
        mpp = chosen.mpp
        is_table = channels == RGB and series.keyframe.photometric == _PALETTE
        dtype = "uint8" if is_table else DTYPES[series.dtype.name]
        header = SlideHeader(path, "tifffile", mpp.um, levels, channels, dtype, mpp.remark, notes)
        return [candidates[i][0] for i, _ in kept], header

    def _compare(self, candidates: Sequence[TiffPageSeries]) -> Compare:
        """Return what compares the first channel of two candidates."""
        planes: dict[int, Plane] = {}

        def reader(index: int) -> Read:
            if index not in planes:
                # Keys below 0, for the numbers of the levels are not known yet.
                planes[index] = _planes((candidates[index],), -1 - index)[0]
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
                    reraise_bug(error)
                    expected = f"a readable level {level}"
                    raise StatedError(slide=self._slide, file=path, expected=expected, found=str(error)) from None
            return self._planes[level]


def channels_of(
    tif: TiffFile, group: list[TiffPageSeries], names: tuple[str, ...], path: Path, shows: Shows
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the channels are called, and what to tell of them."""
    series, page = group[0], group[0].keyframe
    count = len(group) if len(group) > 1 else prod(series.shape) // area_of(series)
    if len(group) > 1:
        channel_notes = f"{count} images of one plane and one size taken as channels of one image"
        return tuple(name or f"C{index}" for index, name in enumerate(names)), (channel_notes,)
    remarks: list[str]
    if page.photometric in (_RGB, _YCBCR) and count in (3, 4):
        if shows == "channels":
            return _SAMPLES[:count], ()
        remarks = [Plane.of(page, (0, 0)).colour_remark()]
        if count == 4 and alpha_of(page) is None:
            remarks.append(LEFT_OUT)
        return RGB, tuple(remark for remark in remarks if remark)
    if page.photometric == _PALETTE and count == 1 and shows == "colours":
        return RGB, ()
    # Pages that tifffile does not hold, or whose file it has closed, tell nothing more.
    is_apart = len(files_of(series)) > 1 or (series.dataoffset is not None and count > 1)
    pages = [] if is_apart else [p.aspage() for p in series if p is not None]
    found, channel_notes = channel_names(tif, series, pages, count, path)
    remarks = [channel_notes] if channel_notes else []
    if dict(zip(series.axes, series.shape, strict=True)).get("T", 1) > 1:
        remarks.append(f"{count} points in time (axis T) taken as channels")
    if DTYPES[series.dtype.name] != series.dtype.name:
        remarks.append(f"pixels of {series.dtype.name} read as {DTYPES[series.dtype.name]}")
    if page.photometric == _PALETTE:
        remarks.append("the colour table is left out: pixels are the numbers that it colours")
    if shows == "colours" and may_be_colours(found, series.dtype.name):
        return RGB, (*remarks, "three grey planes taken as red, green and blue")
    return found, tuple(remarks)


def _colour_table(page: TiffPage) -> Pixels:
    """Return the colours (n + 1, 3) uint8 of a colour table of n, and white."""
    table = np.asarray(page.colormap).T
    # Some writers fill the lower byte of a colour's 16 bits, some the upper one, most both.
    eight_bits = table >> 8 if table.max(initial=0) > 255 else table
    return np.vstack([eight_bits, np.full((1, 3), 255)]).astype(np.uint8)


def check_kind(series: TiffPageSeries, path: Path) -> None:
    """Refuse what cannot be read as planes of channels."""
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
        expected = f"pixels of type {', '.join(DTYPES)}: write it again as uint16 or float32"
        raise StatedError(file=path, expected=expected, found=series.dtype.name)
    is_table = page.photometric == _PALETTE and page.samplesperpixel == 1 and series.dtype.name in ("uint8", "uint16")
    if not (page.photometric in (_MIN_IS_BLACK, _RGB, _YCBCR) or is_table) or page.imagedepth != 1:
        raise StatedError(
            file=path, expected="a grey, RGB or YCbCr image", found=f"photometric interpretation {page.photometric!s}"
        )
    is_ycbcr = page.photometric == _YCBCR and int(page.compression) not in _OWN_COLOURS
    if is_ycbcr or page.compression == _JPEG_2000_YCBCR:
        found = f"YCbCr in compression {int(page.compression)}"
        raise StatedError(file=path, expected="YCbCr as JPEG only: write it again as RGB", found=found)
    plane = Plane.of(page, (0, 0))
    if (
        not plane.is_raw
        and prod(plane.segment_shape) * page.samplesperpixel * series.dtype.itemsize > MAX_SEGMENT_BYTES
    ):
        found = f"strips of {plane.segment_shape[1]} x {plane.segment_shape[0]} px"
        raise StatedError(file=path, expected="an image in tiles or in strips below 2 GiB", found=found)


def _planes(level: tuple[TiffPageSeries, ...], index: int) -> tuple[Plane, ...]:
    planes = [plane for series in level for plane in _planes_of_series(series)]
    return tuple(replace(plane, key=(index, i)) for i, plane in enumerate(planes))


def _planes_of_series(level: TiffPageSeries) -> list[Plane]:
    page = level.keyframe
    count = prod(n for axis, n in zip(level.axes, level.shape, strict=True) if axis in _CHANNEL_AXES)
    start = None if len(files_of(level)) > 1 else level.dataoffset
    if start is not None and count > 1:
        # ImageJ and others describe a stack by its first page only; the planes follow each other.
        first = Plane.of(page, (0, 0))
        return [replace(first, offsets=(start + i * page.nbytes,)) for i in range(count)]
    pages: list[TiffPage | TiffFrame] = [p for p in level if p is not None]
    if len(pages) != count:
        raise ValueError(f"{len(pages)} of {count} planes")
    return [opened_plane(p, (0, i)) for i, p in enumerate(pages)]
