"""Slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, tiled RGB TIFF, DICOM.

The frame is that of level-0 pixel (0, 0); OpenSlide's bounds properties, which name the scanned part, do not move it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError
from tifffile import TiffFile

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.alpha import LEFT_OUT, STRAIGHT, alpha_of, on_white
from pipeline.slides.base import RGB, CorruptTileError, Level, Pixels, Shows, SlideHeader
from pipeline.slides.closing import Closing
from pipeline.slides.companions import slide_files_of
from pipeline.slides.dicom_colours import refuse_contradicting_frames
from pipeline.slides.jpeg_level import JpegLevel
from pipeline.slides.openslide_levels import comparison, stored_levels
from pipeline.slides.openslide_properties import (
    bounds_xy_of,
    fluorescence_filter,
    mpp_of,
    page_size_xy,
    refuse_other_colours,
)
from pipeline.slides.pyramid import kept_levels, notes_on_levels, recorded_levels
from pipeline.slides.tiff_plane import BROKEN_TIFF, Plane
from pipeline.slides.tiff_segments import SegmentReader
from pipeline.slides.window import clip_window

APART = ("red", "green", "blue")
_PLAIN_TIFF = ("aperio", "generic-tiff")
# OpenSlide decodes the tiles of these as the photometric tag says, whatever the tiles say: Philips' lie in a plain
# mosaic, the others' where only OpenSlide knows. Streams of NDPI and MRXS it decodes as they say themselves.
_PADDED_TIFF, _PLACED_TIFF = ("philips",), ("leica", "trestle", "ventana")
# Aperio's JPEG 2000 of YCbCr: only this tag says so, and tifffile's decoder leaves the colours as they are.
_JPEG_2000_YCBCR = 33003


class OpenSlideSlide(Closing):
    """A slide that OpenSlide opens.

    A fluorescence NDPI shows one channel in a false colour: it comes out as that one channel, named by its filter.

    Args:
        path: the file.
        slide: name of the slide, for errors.
        levels: as found before, so that they need not be judged anew; empty judges them.
        shows: `channels` takes R, G and B as channels that have nothing to do with each other; they end in darkness.

    Raises:
        StatedError: if OpenSlide refuses the file.
    """

    def __init__(self, path: Path, slide: str = "", levels: Sequence[Level] = (), shows: Shows = "file") -> None:
        self._slide, self._path = slide, path
        try:
            self._openslide = OpenSlide(path)
        except (OpenSlideError, OSError) as error:
            found = str(error).removeprefix(f"Reading {path}: ")
            raise StatedError(slide=slide, file=path, expected="a slide that OpenSlide reads", found=found) from None
        properties = self._openslide.properties
        vendor = properties.get("openslide.vendor", "")
        # OpenSlide's own downsamples are means of rounded ratios. They are what it divides locations by, so they
        # serve for asking it, but not for saying where a pixel lies: see `pipeline.slides.pyramid`.
        self._asked_downsamples: tuple[float, ...] = self._openslide.level_downsamples
        self._indices = tuple(range(self._openslide.level_count))
        stored = stored_levels(self._openslide, path, vendor)
        with comparison(self._openslide, path, vendor) as compare:
            kept = recorded_levels(stored, levels) or kept_levels(stored, compare)
        notes = () if levels else notes_on_levels(stored, kept)
        self._indices = tuple(index for index, _ in kept)
        self._asked_downsamples = tuple(self._asked_downsamples[index] for index in self._indices)
        fluorescence = fluorescence_filter(path) if vendor == "hamamatsu" else ""
        mpp = mpp_of(properties, vendor)
        self._apart = shows == "channels" and not fluorescence
        channels = (fluorescence,) if fluorescence else APART if self._apart else RGB
        self.header = SlideHeader(
            path,
            "openslide",
            mpp.um,
            tuple(level for _, level in kept),
            channels,
            "uint8",
            mpp.remark,
            notes,
            bounds_xy_of(properties),
        )
        self._component = self._brightest() if fluorescence else None
        self._exact: dict[int, Plane] = {}
        self._segments: SegmentReader | None = None
        # Level 0 of vendors that place tiles freely is not a plain mosaic; pixels show whether these are.
        self._jpeg_levels: dict[int, JpegLevel | None] = {}
        self._is_plain = vendor in _PLAIN_TIFF
        self._lock = threading.Lock()
        if vendor in _PLACED_TIFF:
            refuse_other_colours(path, slide)
        if vendor == "dicom":
            refuse_contradicting_frames(slide_files_of(path), slide)
        if self._is_plain or vendor in _PADDED_TIFF:
            self._exact, exactness = self._planes_read_exactly()
            self._segments = SegmentReader(path, slide) if self._exact else None
            self.header = replace(self.header, notes=(*notes, *exactness))

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """Return pixels (height, width, channels) of a window; see `pipeline.slides.base.Slide`."""
        jpeg = self._jpeg_level(level) if self._is_plain and not self._apart else None
        pixels: Pixels
        if jpeg is not None:
            pixels = jpeg.read(corner_xy, size_xy)
        elif self._apart and level not in self._exact:
            pixels = self._without_border(_on_black(self._read(level, corner_xy, size_xy)), level, corner_xy)
        else:
            pixels = self._shown(level, corner_xy, size_xy)
        if self._component is not None:
            pixels = self._without_border(pixels, level, corner_xy)[..., self._component, None]
        return pixels if channels is None else pixels[..., list(channels)]

    @property
    def stored_sizes_xy(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level as stored, with the padding that some files have."""
        sizes = self._openslide.level_dimensions
        return tuple(sizes[index] for index in self._indices)

    def is_corrupt(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Return whether a window that was read shows a tile that cannot be decoded.

        See `pipeline.slides.base.Slide`.
        """
        jpeg = self._jpeg_levels.get(level)
        return jpeg is not None and jpeg.is_corrupt(corner_xy, size_xy)

    def jpeg_transform(self, level: int) -> int | None:
        """Return the transform by which the tiles of this level are decoded here; see `pipeline.slides.base.Slide`."""
        jpeg = self._jpeg_level(level) if self._is_plain else None
        return None if jpeg is None else jpeg.transform

    def close(self) -> None:
        """Release the file."""
        self._openslide.close()
        for jpeg in self._jpeg_levels.values():
            if jpeg is not None:
                jpeg.close()
        if self._segments is not None:
            self._segments.close()

    def _jpeg_level(self, level: int) -> JpegLevel | None:
        """Return the tiles of a level, where they are met exactly; opened when first asked for."""
        if level in self._jpeg_levels:
            return self._jpeg_levels[level]
        with self._lock:
            if level not in self._jpeg_levels:

                def show(corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels:
                    return self._shown(level, corner_xy, size_xy)

                size = self.header.levels[level].size_xy
                self._jpeg_levels[level] = JpegLevel.verified(self.header.path, size, show)
            return self._jpeg_levels[level]

    def _shown(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels:
        if level in self._exact and self._segments is not None:
            return self._read_exactly(self._segments, level, corner_xy, size_xy)
        return self._within(level, corner_xy, _on_white(self._read(level, corner_xy, size_xy)))

    def _read(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> NDArray[np.uint8]:
        """Return RGBA as OpenSlide gives it.

        It takes the location in level-0 pixels, whole ones. Where its downsample is a whole number nothing is lost;
        elsewhere the window lies up to half a level-0 pixel off and is interpolated.
        """
        downsample = self._asked_downsamples[level]
        location = (round(corner_xy[0] * downsample), round(corner_xy[1] * downsample))
        try:
            return np.asarray(self._openslide.read_region(location, self._indices[level], size_xy))
        except OpenSlideError:
            return self._read_anew(location, self._indices[level], size_xy)

    def _within(self, level: int, corner_xy: tuple[int, int], pixels: Pixels) -> Pixels:
        """Return the window with white in place of the padding of a level."""
        field_xy = self.header.levels[level].size_xy
        if field_xy == self.stored_sizes_xy[level]:
            return pixels
        height, width = pixels.shape[:2]
        window = clip_window(corner_xy, (width, height), field_xy)
        out = np.full_like(pixels, 255)
        if not window.is_empty:
            inside = np.s_[window.start_xy[1] : window.stop_xy[1], window.start_xy[0] : window.stop_xy[0]]
            out[inside] = pixels[inside]
        return out

    def _read_anew(self, location: tuple[int, int], level: int, size_xy: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the window by a new handle, which serves all further windows if it can read this one.

        After its first error a handle of OpenSlide refuses everything, and other threads may have met that error.
        """
        try:
            anew = OpenSlide(self._path)
            pixels = np.asarray(anew.read_region(location, level, size_xy))
        except OpenSlideError as error:
            raise CorruptTileError(
                slide=self._slide, file=self._path, expected="readable pixels", found=str(error)
            ) from None
        # Threads that still read by the old handle hold it; the last of them closes it.
        self._openslide = anew
        return pixels

    def _read_exactly(
        self, segments: SegmentReader, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]
    ) -> Pixels:
        out = np.full((size_xy[1], size_xy[0], 3), 0 if self._apart else 255, np.uint8)
        window = clip_window(corner_xy, size_xy, self.header.levels[level].size_xy)
        (left, top), (right, bottom) = window.start_xy, window.stop_xy
        if not window.is_empty:
            paint = segments.paint if self._apart else segments.paint_colours
            paint(self._exact[level], out[top:bottom, left:right], window.corner_xy, [0, 1, 2])
        return out

    def _planes_read_exactly(self) -> tuple[dict[int, Plane], tuple[str, ...]]:
        """Return the levels of a tiled TIFF whose tiles are read directly, and what to tell of them.

        OpenSlide would interpolate some of a plain one, believes the photometric tag where the JPEG tiles state other
        colours, and takes any fourth sample for premultiplied alpha.
        """
        found: dict[int, Plane] = {}
        notes: list[str] = []
        left = dict(enumerate(self.stored_sizes_xy))
        try:
            with TiffFile(self.header.path) as tif:
                for number, page in enumerate(tif.pages):
                    frame = page.keyframe
                    if frame is None or not frame.is_tiled:
                        continue
                    sizes_xy = {
                        level: page_size_xy(frame, size, padded=not self._is_plain) for level, size in left.items()
                    }
                    same = [x for x, size in sizes_xy.items() if size == (frame.imagewidth, frame.imagelength)]
                    if not same or frame.compression == _JPEG_2000_YCBCR or frame.samplesperpixel not in (3, 4):
                        continue
                    level = same[0]
                    del left[level]
                    is_rounded = self._is_plain and not self._asked_downsamples[level].is_integer()
                    plane = Plane.of(page, (number, 0))
                    remark = plane.colour_remark()
                    if is_rounded or remark or frame.samplesperpixel == 4:
                        found[level] = plane
                        notes += [remark] if remark else []
                        notes += [LEFT_OUT] if frame.samplesperpixel == 4 and alpha_of(frame) is None else []
        except BROKEN_TIFF as error:
            reraise_bug(error)
            raise StatedError(
                slide=self._slide, file=self.header.path, expected="a TIFF that can be read", found=str(error)
            ) from None
        return found, tuple(dict.fromkeys(notes))

    def _brightest(self) -> int:
        """Return which of R, G, B carries the light of a false-colour image, judged on its coarsest level."""
        level = len(self.header.levels) - 1
        pixels = self._read(level, (0, 0), self.header.levels[level].size_xy)
        return int(pixels[..., :3].reshape(-1, 3).sum(axis=0, dtype=np.int64).argmax())

    def _without_border(self, pixels: Pixels, level: int, corner_xy: tuple[int, int]) -> Pixels:
        """Return pixels whose outside is black, as in fluorescence."""
        height, width = pixels.shape[:2]
        window = clip_window(corner_xy, (width, height), self.header.levels[level].size_xy)
        out = np.zeros_like(pixels)
        if not window.is_empty:
            inside = np.s_[window.start_xy[1] : window.stop_xy[1], window.start_xy[0] : window.stop_xy[0]]
            out[inside] = pixels[inside]
        return out


def _on_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Return RGB; what no tile covers is transparent, and becomes white."""
    return rgba[..., :3] if rgba[..., 3].min(initial=255) == 255 else on_white(rgba, STRAIGHT)


def _on_black(rgba: NDArray[np.uint8]) -> Pixels:
    """Return r, G and B as intensities; what no tile covers is transparent, and becomes 0."""
    weight = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * weight + 127) // 255).astype(np.uint8)
