"""Recognise channels stored as separate images, as opposed to images of several regions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path

from tifffile import TiffFile, TiffPageSeries

from pipeline.slides.page_names import page_names
from pipeline.slides.tiff_metadata import ome_images

_GREY = (1, 3)
# Names that microscopes and converters give to places, not to stains.
_PLACE = re.compile(
    r"\W*(?:image|series|scene|roi|region|position|slide|scan|section|core|well|tile|fov|sample|label|macro|overview|"
    r"thumbnail)(?![a-z])",
    re.IGNORECASE,
)


def apart_channels(tif: TiffFile, series: Sequence[TiffPageSeries], file: Path) -> tuple[str, ...] | None:
    """Return the names of images that are one channel each of the same field, or None where they may be regions.

    They are channels where each is one grey plane, all have the same size, pixel type and resolution, and either an
    OME-TIFF gives each a distinct name, none the name of a place, and all the same stage position, or tifffile wrote
    them without OME-XML, whose calls end in a series each.

    Args:
        tif: the open file.
        series: all its images of one size.
        file: its path, for errors.

    Returns:
        A name for each image, empty where the file has none.
    """
    if len({_kind(item) for item in series}) > 1 or any(not _is_grey_plane(item) for item in series):
        return None
    if tif.is_ome:
        images = [image for image in ome_images(tif, file) if image.size_xy == _size_xy(series[0])]
        names = tuple(image.channels[0] if len(image.channels) == 1 else "" for image in images)
        names = tuple(name or image.name for name, image in zip(names, images, strict=True))
        one_place = len({image.position for image in images}) == len({image.mpp_text for image in images}) == 1
        if len(names) != len(series) or not one_place or not all(names):
            return None
    elif tif.is_shaped:
        names = page_names([item.keyframe for item in series]) or ("",) * len(series)
    else:
        return None
    if any(_PLACE.match(name) for name in names) or (any(names) and len(set(names)) < len(names)):
        return None
    return names


def _is_grey_plane(series: TiffPageSeries) -> bool:
    return series.keyframe.photometric in _GREY and prod(series.shape) == prod(_size_xy(series))


def _kind(series: TiffPageSeries) -> tuple[object, ...]:
    tags = series.keyframe.tags
    resolution = [tags.valueof(name) for name in ("XResolution", "YResolution", "ResolutionUnit")]
    return (str(series.dtype), tuple(level.shape for level in series.levels), repr(resolution))


def _size_xy(series: TiffPageSeries) -> tuple[int, int]:
    return int(series.keyframe.imagewidth), int(series.keyframe.imagelength)
