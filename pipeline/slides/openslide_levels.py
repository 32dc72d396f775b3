"""Read what a file states of the levels that OpenSlide shows: their tiles and resolutions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from openslide import OpenSlide, OpenSlideError
from tifffile import TiffFile, TiffPage

from pipeline.errors import reraise_bug
from pipeline.slides.base import CorruptTileError, Pixels
from pipeline.slides.companions import slide_files_of
from pipeline.slides.dicom_header import dicom_header
from pipeline.slides.level_content import Read, compare_by, plane_reader
from pipeline.slides.pyramid import Compare, StoredLevel
from pipeline.slides.tiff_metadata import tag_um
from pipeline.slides.tiff_plane import BROKEN_TIFF, Plane
from pipeline.slides.tiff_segments import SegmentReader

Size = tuple[int, int]
_SIZES_ONLY = ("aperio", "leica")


def stored_levels(slide: OpenSlide, path: Path, vendor: str) -> list[StoredLevel]:
    """Return what is known of each level of OpenSlide, in its order.

    The levels of a plain TIFF are all pages that are marked as reduced, among which a label picture may be; those of
    other files are levels by their vendor's word.
    """
    sizes: tuple[Size, ...] = slide.level_dimensions
    if vendor == "generic-tiff":
        pages = _pages(path)
        return [StoredLevel(size, *pages.get(size, (None, None)), is_level=i == 0) for i, size in enumerate(sizes)]
    if vendor == "dicom":
        stated = _dicom(path)
        return [StoredLevel(size, *stated.get(size, (None, None))) for size in sizes]
    # Of these OpenSlide knows sizes only, and reports the mean of both ratios.
    downsamples = [None] * len(sizes) if vendor in _SIZES_ONLY else list(slide.level_downsamples)
    return [StoredLevel(size, _tile(slide, i), stated_downsample=downsamples[i]) for i, size in enumerate(sizes)]


@contextmanager
def comparison(slide: OpenSlide, path: Path, vendor: str) -> Iterator[Compare]:
    """Give what compares the pixels of two levels, without the handle that serves the slide.

    After its first error a handle of OpenSlide refuses everything, and one broken tile must not cost a slide.
    """
    sizes: tuple[Size, ...] = slide.level_dimensions
    downsamples: tuple[float, ...] = slide.level_downsamples
    with ExitStack() as stack:
        opened: list[OpenSlide] = []

        def by_openslide(index: int) -> Read:
            def read(corner_xy: Size, size_xy: Size) -> Pixels:
                if not opened:
                    opened.append(stack.enter_context(OpenSlide(path)))
                location = (round(corner_xy[0] * downsamples[index]), round(corner_xy[1] * downsamples[index]))
                try:
                    return np.asarray(opened[0].read_region(location, index, size_xy))[..., :3]
                except OpenSlideError as error:
                    raise CorruptTileError(file=path, expected="readable pixels", found=str(error)) from None

            return read

        planes: dict[Size, Plane] = {}
        segments: list[SegmentReader] = []

        def by_pages(index: int) -> Read:
            if not segments:
                segments.append(SegmentReader(path))
                stack.callback(segments[0].close)
                tif = stack.enter_context(TiffFile(path))
                for number, page in enumerate(_tiled_pages(tif)):
                    planes.setdefault(_size(page), Plane.of(page, (number, 0)))
            return plane_reader(planes[sizes[index]], segments[0].paint)

        yield compare_by(by_pages if vendor == "generic-tiff" else by_openslide, sizes[0])


def _tiled_pages(tif: TiffFile) -> Iterator[TiffPage]:
    for page in tif.pages:
        whole = page.aspage()
        if whole.is_tiled:
            yield whole


def _size(page: TiffPage) -> Size:
    return int(page.imagewidth), int(page.imagelength)


def _tile(slide: OpenSlide, level: int) -> Size | None:
    sides = (slide.properties.get(f"openslide.level[{level}].tile-{side}", "") for side in ("width", "height"))
    width, height = (int(side) if side.isdecimal() else 0 for side in sides)
    return (width, height) if width and height else None


def _pages(path: Path) -> dict[Size, tuple[Size | None, float | None]]:
    """Return tile and length of a pixel of each tiled page, by its size; of one size the first counts."""
    found: dict[Size, tuple[Size | None, float | None]] = {}
    try:
        with TiffFile(path) as tif:
            for page in _tiled_pages(tif):
                found.setdefault(_size(page), ((int(page.tilewidth), int(page.tilelength)), tag_um(page)))
    except BROKEN_TIFF as error:
        reraise_bug(error)
        # OpenSlide has opened it; sizes and pixels must do.
        return {}
    return found


def _dicom(path: Path) -> dict[Size, tuple[Size | None, float | None]]:
    """Return frame and pixel spacing of the files of a DICOM slide that hold levels, by the size of the level."""
    headers = [header for file in slide_files_of(path) if (header := dicom_header(file)) is not None]
    return {header.size_xy: (header.tile_xy, header.spacing_um) for header in headers if header.is_level}
