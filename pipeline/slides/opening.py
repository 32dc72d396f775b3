"""Open slides: choose the reader by the file's content, and explain plainly why one cannot be opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from openslide import OpenSlide
from tifffile import TiffFile

from pipeline.elsewhere.address import is_elsewhere, is_zarr_address
from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.base import Level, Shows, Slide
from pipeline.slides.kinds import kind_named
from pipeline.slides.openslide_reader import OpenSlideSlide
from pipeline.slides.record import SideRecord
from pipeline.slides.tiff_images import check_focal_planes, chosen_image, images_of, notes_on_others
from pipeline.slides.tiff_metadata import check_xml
from pipeline.slides.tiff_plane import BROKEN_TIFF
from pipeline.slides.tiff_reader import TiffSlide
from pipeline.slides.tiff_structure import MAX_SIDE_PX, check_whole, is_tiff
from pipeline.slides.zarr_folder import is_zarr

# What tifffile logs of odd tags would reach the terminal; what matters of it is checked here and stated.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")


def open_slide(
    path: Path | str, *, slide: str = "", image: str = "", levels: Sequence[Level] = (), shows: Shows = "file"
) -> Slide:
    """Open any supported file.

    Args:
        path: an SVS, NDPI, MRXS, SCN, BIF, DICOM, OME-TIFF, QPTIFF, inForm or other TIFF file, an OME-Zarr folder,
            or the address of such a folder elsewhere.
        slide: name of the slide, for errors.
        image: name or number of the image, where the file holds several; empty takes the largest.
        levels: as inspected; empty finds them.
        shows: what to take samples for that may be colours or channels: `colours` makes RGB of three grey planes and of
            a colour table, `channels` takes the samples of an RGB image apart, all of them.

    Raises:
        StatedError: if it is absent, empty, cut off, of a kind that no reader serves, or holds several images that may
            be meant.
    """
    try:
        return _open(path, slide, image, levels, shows)
    except StatedError as error:
        raise StatedError(
            slide=error.slide or slide, file=error.file or path, expected=error.expected, found=error.found
        ) from None


def open_side(side: SideRecord, *, slide: str = "") -> Slide:
    """Open an image as inspected: the same one of the file, the same levels, the record's mpp and channel names.

    Raises:
        StatedError: if it cannot be opened or is no longer what was inspected.
    """
    path = side.path if is_elsewhere(side.path) else Path(side.path)
    shows = kind_named(side.kind).shows
    opened = open_slide(path, slide=slide, image=side.image, levels=side.levels, shows=shows)
    header = opened.header
    found = (tuple(x.size_xy for x in header.levels), len(header.channels), header.dtype)
    wanted = (tuple(x.size_xy for x in side.levels), len(side.channels), side.dtype)
    if found != wanted:
        opened.close()
        raise StatedError(slide=slide, file=path, expected=f"the image as inspected, {wanted}", found=f"{found}")
    opened.header = replace(header, mpp=side.mpp, channels=side.channels)
    return opened


def _open(path: Path | str, slide: str, image: str, levels: Sequence[Level], shows: Shows) -> Slide:
    opened: Slide
    if isinstance(path, str):
        if not is_zarr_address(path):
            raise StatedError(expected="a slide that is here: stage fetches it", found="an address")
        opened = _open_zarr(path, slide, image, levels, shows)
        _check_size(opened)
        return opened
    if path.is_dir():
        opened = _open_folder(path, slide, image, levels, shows)
        _check_size(opened)
        return opened
    if not path.is_file():
        raise StatedError(expected="a slide file", found="no such file")
    try:
        if path.stat().st_size == 0:
            raise StatedError(expected="a slide file", found="an empty file")
        tiff = is_tiff(path)
        vendor = OpenSlide.detect_format(path)
    except OSError as error:
        raise StatedError(expected="a readable slide file", found=str(error)) from None
    if tiff:
        check_whole(path)
    if not tiff and vendor is None:
        _refuse_incomplete(path)
        with path.open("rb") as stream:
            beginning = stream.read(16)
        expected = "a slide that OpenSlide or tifffile reads"
        if beginning.startswith(_PICTURES):
            expected += " (make a tiled TIFF of a PNG or JPEG: vips tiffsave in.png out.tif --tile --pyramid)"
        raise StatedError(expected=expected, found=f"a file that begins with {beginning!r}")
    if vendor is None or (vendor == "generic-tiff" and (shows == "channels" or not _is_plain_rgb(path))):
        opened = TiffSlide(path, slide, image, levels, shows)
    elif vendor == "generic-tiff":
        opened = _open_plain(path, slide, image, levels, shows)
    else:
        if image not in ("", "0"):
            raise StatedError(expected="no image named in the sheet, for OpenSlide shows one of this file", found=image)
        if vendor == "aperio":
            check_focal_planes(path)
        opened = OpenSlideSlide(path, slide, levels, shows)
    _check_size(opened)
    return opened


def _check_size(opened: Slide) -> None:
    width, height = opened.header.size_xy
    if max(width, height) > MAX_SIDE_PX:
        opened.close()
        raise StatedError(expected=f"sides of at most {MAX_SIDE_PX} px", found=f"{width} x {height} px")


def _open_folder(path: Path, slide: str, image: str, levels: Sequence[Level], shows: Shows) -> Slide:
    """Open an OME-Zarr folder; the package zarr is imported for it only, for the VALIS engine runs without."""
    if not is_zarr(path):
        raise StatedError(expected="a slide file or an OME-Zarr folder (zarr.json or .zattrs in it)", found="a folder")
    return _open_zarr(path, slide, image, levels, shows)


def _open_zarr(path: Path | str, slide: str, image: str, levels: Sequence[Level], shows: Shows) -> Slide:
    try:
        from pipeline.slides.zarr_reader import ZarrSlide
    except ModuleNotFoundError as error:
        if error.name != "zarr":
            raise
        expected = "the package zarr, which the environment of register.engine valis lacks: choose another engine"
        raise StatedError(expected=expected, found="an OME-Zarr folder without it") from None
    return ZarrSlide(path, slide, image, levels, shows)


def _refuse_incomplete(path: Path) -> None:
    """Say what is wrong with a file that is one part of a slide."""
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        raise StatedError(expected=f"the folder {path.stem} beside the MRXS file, with its pixels", found="none")
    if path.suffix.lower() == ".ndpis":
        raise StatedError(expected="an NDPI file", found="a list of NDPI files, one per channel")


def _open_plain(path: Path, slide: str, image: str, levels: Sequence[Level], shows: Shows) -> Slide:
    """Open an RGB TIFF: OpenSlide shows the image of the first page and its levels, tifffile any other."""
    try:
        with TiffFile(path) as tif:
            images = images_of(tif, path)
            chosen = chosen_image(images, image, path)
            if chosen.series.keyframe.index != 0 or tif.pages.first.subifds:
                # OpenSlide does not look into SubIFDs, where some writers keep the levels.
                return TiffSlide(path, slide, image, levels, shows)
            try:
                opened = OpenSlideSlide(path, slide, levels, shows)
            except StatedError:
                # OpenSlide names any tiled TIFF its own and then lacks the codec of many.
                return TiffSlide(path, slide, image, levels, shows)
            if not levels:
                notes = notes_on_others(images, chosen, opened.stored_sizes_xy, image, path)
                opened.header = replace(opened.header, notes=(*opened.header.notes, *notes))
            return opened
    except BROKEN_TIFF as error:
        reraise_bug(error)
        raise StatedError(expected="a TIFF that can be read", found=str(error)) from None


def _is_plain_rgb(path: Path) -> bool:
    """Return whether OpenSlide's generic reader shows all there is; of several channels it shows the first, as RGB."""
    try:
        with TiffFile(path) as tif:
            page = tif.pages.first
            check_xml(page.description, path)
            plain = page.dtype == np.uint8 and page.samplesperpixel == 3 and page.planarconfig == 1
            return plain and page.photometric in (2, 6) and not (tif.is_ome or tif.is_qpi or tif.is_imagej)
    except BROKEN_TIFF as error:
        reraise_bug(error)
        return False
