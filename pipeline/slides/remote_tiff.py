"""A look at a TIFF that lies elsewhere: its header and an overview, in a few requests; nothing of it is kept on disk.

Slides of scanners are read by tiffslide, images of several channels by tifffile, both over one stream that keeps what
it has read. The pixels of the slide itself are not looked at: that is for when it is staged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from tifffile import TiffFile, TiffPageSeries

from pipeline.elsewhere.address import file_name
from pipeline.elsewhere.opening import open_source
from pipeline.elsewhere.read_ahead import ReadAhead
from pipeline.elsewhere.source import FileState, with_package
from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.base import DTYPES, RGB, Pixels, Shows, SlideHeader
from pipeline.slides.pyramid import StoredLevel, kept_levels
from pipeline.slides.stated_mpp import StatedMpp, stated_by_tag, stated_mpp
from pipeline.slides.tiff_images import chosen_image, images_of, is_guessed, notes_on_others, size_of, stored_level
from pipeline.slides.tiff_metadata import check_xml
from pipeline.slides.tiff_plane import BROKEN_TIFF
from pipeline.slides.tiff_reader import channels_of, check_kind
from pipeline.slides.tiff_structure import check_whole_stream, is_tiff_stream

# Of the coarsest level as it is stored: what is fetched for the overview.
_MOST_OVERVIEW_BYTES = 2 * 2**20
_MOST_OVERVIEW_PX = 2**24
# Photometric interpretations: RGB and YCbCr.
_COLOURS = (2, 6)


@dataclass(frozen=True, eq=False)
class Look:
    """What a look at a slide elsewhere brought.

    Attributes:
        header: what it says of itself; its path is the name of the file alone.
        overview: (height, width, 3) uint8, the coarsest level of an RGB image; None where that is too large to fetch,
            and of other images.
        state: size and version of the file.
        requests: how many were made.
        bytes_read: how many bytes they brought.
    """

    header: SlideHeader
    overview: Pixels | None
    state: FileState
    requests: int
    bytes_read: int


def look_at(address: str, *, slide: str = "", image: str = "", shows: Shows = "file") -> Look:
    """Return what a TIFF elsewhere says of itself.

    Args:
        address: as it stands in the sheet.
        slide: name of the slide, for errors.
        image: name or number of the image, where the file holds several; empty takes the largest.
        shows: see `pipeline.slides.base.Shows`.

    Raises:
        StatedError: if it cannot be read, is cut off, is no TIFF, or holds no image that the program works with.
    """
    name = Path(file_name(address))
    try:
        source = open_source(address)
        stream = ReadAhead(source, name.name)
        if not is_tiff_stream(stream):
            stream.seek(0)
            expected = "a TIFF (SVS, OME-TIFF, …) or an address of OME-Zarr that ends in .zarr: fetch other formats"
            raise StatedError(expected=expected, found=f"a file that begins with {stream.read(16)!r}")
        check_whole_stream(stream, source.state.size, name)
        stream.seek(0)
        try:
            with TiffFile(cast(BinaryIO, stream), name=name.name, _multifile=False) as tif:
                header, overview = _seen(tif, stream, name, image, shows)
        except BROKEN_TIFF as error:
            reraise_bug(error)
            raise StatedError(expected="a TIFF that can be read", found=str(error)) from None
        source.check_unchanged()
    except StatedError as error:
        raise StatedError(slide=slide, file=address, expected=error.expected, found=error.found) from None
    return Look(header, overview, source.state, source.requests, source.bytes_read)


def _seen(tif: TiffFile, stream: ReadAhead, name: Path, image: str, shows: Shows) -> tuple[SlideHeader, Pixels | None]:
    page = tif.pages.first
    check_xml(page.description, name)
    is_plain = page.dtype == np.uint8 and page.samplesperpixel == 3 and page.planarconfig == 1
    if is_plain and not image and shows != "channels" and not (tif.is_ome or tif.is_qpi or tif.is_imagej):
        return _by_tiffslide(tif, stream, name)
    return _by_tifffile(tif, name, image, shows), None


def _by_tiffslide(tif: TiffFile, stream: ReadAhead, name: Path) -> tuple[SlideHeader, Pixels | None]:
    """Return header and overview of an RGB slide as tiffslide shows it."""
    package = with_package(name.name, "tiffslide")
    stream.seek(0)
    opened = package.TiffSlide(stream)
    vendor = str(opened.properties.get("tiffslide.vendor", ""))
    levels = opened.level_dimensions
    tiles = [
        tuple(int(opened.properties.get(f"tiffslide.level[{i}].tile-{side}") or 0) for side in ("width", "height"))
        for i in range(len(levels))
    ]
    stored = [
        StoredLevel((int(w), int(h)), (t[0], t[1]) if all(t) else None) for (w, h), t in zip(levels, tiles, strict=True)
    ]
    kept = kept_levels(stored, lambda *_: None)
    mpp = _mpp(opened.properties, vendor)
    fluorescence = str((tif.pages.first.ndpi_tags or {}).get("Fluorescence", "")).strip() if tif.is_ndpi else ""
    channels = (fluorescence,) if fluorescence else RGB
    header = SlideHeader(name, "tiffslide", mpp.um, tuple(x for _, x in kept), channels, "uint8", mpp.remark)
    coarsest, size_xy = kept[-1][0], stored[kept[-1][0]].size_xy
    series = tif.series[0].levels
    fits = (
        coarsest < len(series) and size_of(series[coarsest]) == size_xy and size_xy[0] * size_xy[1] < _MOST_OVERVIEW_PX
    )
    if not fits or not _fetch(series[coarsest], stream):
        return header, None
    return header, np.asarray(opened.read_region((0, 0), coarsest, size_xy, as_array=True))[..., :3]


def _fetch(level: TiffPageSeries, stream: ReadAhead) -> bool:
    """Fetch all of a level with one request, where it is small enough and lies in one piece; returns whether it is."""
    page = level.keyframe
    pieces = [(int(a), int(a) + int(n)) for a, n in zip(page.dataoffsets, page.databytecounts, strict=True) if n]
    if not pieces:
        return False
    start, stop = min(a for a, _ in pieces), max(b for _, b in pieces)
    if stop - start > _MOST_OVERVIEW_BYTES:
        return False
    stream.seek(start)
    stream.read(stop - start)
    return True


def _mpp(properties: dict[str, object], vendor: str) -> StatedMpp:
    try:
        x_um, y_um = (float(str(properties[f"tiffslide.mpp-{axis}"])) for axis in "xy")
    except (KeyError, ValueError):
        return StatedMpp()
    # Of a plain TIFF it is a resolution tag.
    return stated_by_tag(x_um, y_um) if vendor in ("", "generic-tiff") else stated_mpp(x_um, y_um)


def _by_tifffile(tif: TiffFile, name: Path, image: str, shows: Shows) -> SlideHeader:
    """Return the header of an image of any channels; levels that only pixels could prove are left for later."""
    images = images_of(tif, name)
    chosen = chosen_image(images, image, name)
    series = chosen.series
    check_kind(series, name)
    if any(page is None for page in series.pages):
        raise StatedError(expected="an OME-TIFF of one file: fetch a set of several", found="planes in other files")
    levels = [series] if is_guessed(series) else list(series.levels)
    stored = [stored_level(level, is_level=i > 0) for i, level in enumerate(levels)]
    kept = kept_levels(stored, lambda *_: None)
    page = series.keyframe
    is_rgb = page.photometric in _COLOURS and page.samplesperpixel in (3, 4) and shows != "channels"
    channels, told = (RGB, ()) if is_rgb else channels_of(tif, [series], (), name, shows)
    notes = (*told, *notes_on_others(images, chosen, [size_of(level) for level in levels], image, name))
    found, mpp, dtype = tuple(level for _, level in kept), chosen.mpp, DTYPES[series.dtype.name]
    return SlideHeader(name, "tifffile", mpp.um, found, channels, dtype, mpp.remark, notes)
