"""List the images of a TIFF file: which one is the slide, which are its levels, which are something else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage, TiffPageSeries

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.pyramid import SAME_UM, StoredLevel
from pipeline.slides.stated_mpp import StatedMpp
from pipeline.slides.tiff_metadata import mpp_of, tag_um
from pipeline.slides.tiff_plane import BROKEN_TIFF

# What scanners store beside the slide.
_BESIDE = re.compile(r"(?<![^\W\d_])(label|macro|thumb(nail)?|overview|barcode|map)(?![^\W\d_])", re.IGNORECASE)
# Without a stated resolution, an image smaller than this part of the slide is taken for a picture of the glass.
RIVAL_AREA = 0.25
_HEIGHT = re.compile(r"\|\s*OffsetZ\s*=\s*([-+.\d]+)")
# Kinds of files whose levels tifffile finds by their sizes only.
_GUESSED = ("generic", "uniform", "shaped")


@dataclass(frozen=True)
class TiffImage:
    """One image of a file.

    Attributes:
        index: its place in the file, from 0.
        name: as the file names it; empty where it does not.
        series: its pages, with the levels that the file's structure gives it.
        mpp: what the file states of its um per pixel.
    """

    index: int
    name: str
    series: TiffPageSeries
    mpp: StatedMpp

    def __str__(self) -> str:
        width, height = size_of(self.series)
        return f"{self.index}{f' ({self.name})' if self.name else ''}: {width} x {height} px"

    @property
    def is_beside(self) -> bool:
        """Whether it is a label, a macro or a thumbnail by its name, or by the first line of its description."""
        first_line = self.series.keyframe.description[:200].partition("\n")[0]
        label = self.name or ("" if first_line.startswith(("<", "{", "ImageJ")) else first_line)
        return bool(_BESIDE.search(label))

    @property
    def is_reduced(self) -> bool:
        """Whether the file marks it as a reduced version of another image."""
        return bool(self.series.keyframe.is_reduced)

    def rivals(self, other: TiffImage) -> bool:
        """Return whether it may be meant as well as another, larger image: by its um per pixel, or else by its size."""
        if self.is_beside or self.is_reduced:
            return False
        one, two = self.mpp.um, other.mpp.um
        if one is not None and two is not None:
            return abs(one - two) <= SAME_UM * two
        return area_of(self.series) >= RIVAL_AREA * area_of(other.series)


def images_of(tif: TiffFile, file: Path) -> list[TiffImage]:
    """Return all images of a file, in its order; pages of colour are images, not channels of one."""
    found = []
    for series in _series_of(tif):
        for item in series.levels if is_guessed(series) else [series]:
            parts = _single_colour_pages(item)
            found += [TiffImage(0, "" if len(parts) > 1 else _name(item), x, mpp_of(tif, x, file)) for x in parts]
    found.sort(key=lambda image: _place(image.series))
    return [TiffImage(i, image.name, image.series, image.mpp) for i, image in enumerate(found)]


def chosen_image(images: Sequence[TiffImage], wanted: str, file: Path) -> TiffImage:
    """Return the image that the sheet names, by name or number, or else the largest one.

    Raises:
        StatedError: if there is none, or none of that name, or several.
    """
    images = [image for image in images if area_of(image.series)]
    if not images:
        raise StatedError(file=file, expected="a TIFF with an image", found="none")
    if not wanted:
        return max(images, key=lambda image: area_of(image.series))
    named = [image for image in images if image.name == wanted] or [x for x in images if str(x.index) == wanted]
    if len(named) != 1:
        raise StatedError(file=file, expected=f"one image named or numbered {wanted}", found=_listed(images))
    return named[0]


def notes_on_others(
    images: Sequence[TiffImage], chosen: TiffImage, sizes_xy: Sequence[tuple[int, int]], wanted: str, file: Path
) -> tuple[str, ...]:
    """Return a line on each image that is neither the slide nor one of its levels nor a picture of the glass.

    Args:
        images: all of the file.
        chosen: the slide.
        sizes_xy: sizes of its levels as stored, the finest first.
        wanted: what the sheet says; empty where it leaves the choice to the program.
        file: its path.

    Raises:
        StatedError: if another image may be meant and the sheet does not say which.
    """
    levels_xy = set(sizes_xy[1:])
    others = [x for x in images if x is not chosen and area_of(x.series)]
    rivals = [x for x in others if x.rivals(chosen) and not (x.mpp.um is None and size_of(x.series) in levels_xy)]
    if rivals and not wanted:
        raise StatedError(
            file=file,
            expected="one image, or its name or number in the sheet (sparse_image, dense_image)",
            found=f"{len(rivals) + 1} images: {_listed(sorted([chosen, *rivals], key=lambda x: x.index))}",
        )
    aside = [x for x in others if not x.is_beside and x not in rivals and size_of(x.series) not in levels_xy]
    return tuple(f"leaves out image {x}, which is not a level of image {chosen}" for x in aside)


def is_guessed(series: TiffPageSeries) -> bool:
    """Return whether levels of such a file are known by their sizes only, which a label picture may have as well."""
    return series.kind in _GUESSED


def may_be_level(image: TiffImage, chosen: TiffImage) -> bool:
    """Return whether an image may be a level of the chosen one: of its kind and not of its um per pixel."""
    one, two = image.mpp.um, chosen.mpp.um
    same_um = one is not None and two is not None and abs(one - two) <= SAME_UM * two and not image.is_reduced
    return not same_um and not image.is_beside and _kind(image.series) == _kind(chosen.series)


def _kind(series: TiffPageSeries) -> tuple[str, object, list[int]]:
    kept = [n for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YX"]
    return series.axes, series.dtype, kept


def stored_level(series: TiffPageSeries, *, is_level: bool) -> StoredLevel:
    """Return what the pages of a series state about it as a level."""
    page = series.keyframe
    tile_xy = (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else None
    return StoredLevel(size_of(series), tile_xy, tag_um(page), is_level)


def size_of(series: TiffPageSeries) -> tuple[int, int]:
    """Return width and height in pixels."""
    return int(series.keyframe.imagewidth), int(series.keyframe.imagelength)


def area_of(series: TiffPageSeries) -> int:
    """Return the number of pixels of one plane."""
    width, height = size_of(series)
    return width * height


def check_focal_planes(path: Path) -> None:
    """Refuse an Aperio slide of several focal planes, whose levels OpenSlide takes for those of one.

    Raises:
        StatedError: if its pages lie at several heights.
    """
    try:
        with TiffFile(path) as tif:
            heights = [match[1] for page in tif.pages if (match := _HEIGHT.search(page.aspage().description))]
    except BROKEN_TIFF as error:
        reraise_bug(error)
        # Whoever opens it says what is wrong.
        return
    planes = list(dict.fromkeys(heights))
    if len(planes) > 1:
        found = f"{len(planes)} (OffsetZ {', '.join(planes)})"
        raise StatedError(file=path, expected="a slide of one focal plane", found=found)


def _series_of(tif: TiffFile) -> list[TiffPageSeries]:
    """Return tifffile's series, also of OME-TIFF whose first plane lies in a later page and has levels in SubIFDs.

    tifffile reads the SubIFDs of each plane as it has read those of the first one, which must be read in full for that.
    """
    try:
        return list(tif.series)
    except RuntimeError as error:
        if "keyframe" not in str(error):
            raise
    for number in range(len(tif.pages)):
        tif.pages.set_keyframe(number)
    return list(tif.series)


def _single_colour_pages(series: TiffPageSeries) -> list[TiffPageSeries]:
    """Return one series for each page of a stack of colour pages; otherwise the series as it is."""
    axes = dict(zip(series.axes, series.shape, strict=True))
    pages = [page for page in series.pages if page is not None]
    stacked = [axis for axis, n in axes.items() if axis not in "YXS" and n > 1]
    if series.kind == "ome" or axes.get("S", 1) < 3 or len(stacked) != 1 or len(pages) != axes[stacked[0]]:
        return [series]
    whole = [page if isinstance(page, TiffPage) else page.aspage() for page in pages]
    return [TiffPageSeries([page], page.shape, page.dtype, page.axes, kind=series.kind) for page in whole]


def _place(series: TiffPageSeries) -> int:
    # Of a SubIFD the number of its page, then its own.
    return int(np.atleast_1d(series.keyframe.index)[0])


def _name(series: TiffPageSeries) -> str:
    return "" if series.name in ("Baseline", "Resolution") else series.name.strip()


def _listed(images: Sequence[TiffImage]) -> str:
    return "; ".join(map(str, images)) or "none"
