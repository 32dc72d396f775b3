"""Read OpenSlide's properties of a file: um per pixel, scanned part, filter, colours of its tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tifffile import TiffFile, TiffPage

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.stated_mpp import StatedMpp, stated_by_tag, stated_mpp
from pipeline.slides.tiff_plane import BROKEN_TIFF, Plane


def mpp_of(properties: Mapping[str, str], vendor: str) -> StatedMpp:
    """Return the um per pixel that OpenSlide's properties state; a plain TIFF's tag may be a printing resolution."""
    try:
        x_um, y_um = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return StatedMpp()
    return stated_by_tag(x_um, y_um) if vendor == "generic-tiff" else stated_mpp(x_um, y_um)


def bounds_xy_of(properties: Mapping[str, str]) -> tuple[int, int]:
    """Return the corner of the scanned part, which some vendors state; (0, 0) elsewhere."""
    try:
        return int(properties["openslide.bounds-x"]), int(properties["openslide.bounds-y"])
    except (KeyError, ValueError):
        return 0, 0


def fluorescence_filter(path: Path) -> str:
    """Name of the filter of a fluorescence NDPI, which only the file's own tag tells; empty for brightfield."""
    try:
        with TiffFile(path) as tif:
            tags = tif.pages.first.ndpi_tags or {}
            return str(tags.get("Fluorescence", "")).strip()
    except BROKEN_TIFF as error:
        reraise_bug(error)
        return ""


def page_size_xy(page: TiffPage, size_xy: tuple[int, int], *, padded: bool) -> tuple[int, int]:
    """Return the size of the page that stores a level of that size: as it is, or rounded up to whole tiles."""
    tile_xy = (page.tilewidth, page.tilelength) if padded else (1, 1)
    width, height = (-(-size // tile) * tile for size, tile in zip(size_xy, tile_xy, strict=True))
    return width, height


def refuse_other_colours(path: Path, slide: str) -> None:
    """Refuse a slide that OpenSlide would show in false colours.

    Raises:
        StatedError: if JPEG tiles state other colours than the photometric tag.
    """
    try:
        with TiffFile(path) as tif:
            pages = ((number, page, page.keyframe) for number, page in enumerate(tif.pages))
            planes = (Plane.of(page, (number, 0)) for number, page, frame in pages if frame and frame.is_tiled)
            remark = next(filter(None, (plane.colour_remark() for plane in planes)), "")
    except BROKEN_TIFF as error:
        reraise_bug(error)
        # OpenSlide has opened it; what it shows must do.
        return
    if remark:
        found = remark.partition(":")[0]
        expected = "a photometric tag that says what the tiles do: write the slide again as a plain tiled TIFF"
        raise StatedError(slide=slide, file=path, expected=expected, found=found)
