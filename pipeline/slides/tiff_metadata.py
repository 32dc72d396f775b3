"""Read resolution and channel names of a TIFF: OME-XML, QPTIFF and inForm XML, ImageJ labels, tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tifffile import TiffFile, TiffPage, TiffPageSeries

from pipeline.errors import StatedError
from pipeline.slides.page_names import label_name, one_line, page_names
from pipeline.slides.stated_mpp import INCH_UM, StatedMpp, stated_by_tag, stated_mpp, unit_um

MAX_XML_CHARACTERS = 32 * 2**20


def parse_xml(text: str, file: Path) -> ElementTree.Element:
    """Return the root element of XML found in a slide.

    Document types are refused, so no entity can be declared: neither files nor expansion bombs come in that way.

    Raises:
        StatedError: if the XML is too long, declares a document type, or is not well-formed.
    """
    check_xml(text, file)
    try:
        return ElementTree.fromstring(text.strip().rstrip("\0"))
    except ElementTree.ParseError as error:
        raise StatedError(file=file, expected="well-formed XML in the image description", found=str(error)) from None


def check_xml(text: str, file: Path) -> None:
    """Refuse XML that is dangerous to parse, before this or another library does."""
    if len(text) > MAX_XML_CHARACTERS:
        found = f"{len(text)}"
        raise StatedError(file=file, expected=f"at most {MAX_XML_CHARACTERS} characters of XML", found=found)
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, flags=re.IGNORECASE):
        raise StatedError(file=file, expected="XML without a document type", found="<!DOCTYPE or <!ENTITY in it")


def mpp_of(tif: TiffFile, series: TiffPageSeries, file: Path) -> StatedMpp:
    """Return what the file states of the um per level-0 pixel of a series."""
    pixels = _ome_pixels(tif, series, file) if tif.is_ome else None
    if pixels is not None:
        x_um, y_um = (_ome_size(pixels, axis) for axis in "XY")
        if x_um is not None:
            return stated_mpp(x_um, y_um)
    page = series.keyframe
    if tif.is_imagej:
        text = str((tif.imagej_metadata or {}).get("unit", ""))
        unit = unit_um(text)
        if unit is not None:
            return stated_mpp(*_per_unit(page, unit))
        # Bio-Formats writes ImageJ's text without a unit, and the resolution as tags have it.
        if text:
            return StatedMpp()
    return tag_mpp(page)


def tag_mpp(page: TiffPage) -> StatedMpp:
    """Return the um per pixel by the resolution tags, if they give a unit and a value that a microscope can have."""
    unit = page.tags.valueof("ResolutionUnit")
    if unit not in (2, 3):
        return StatedMpp()
    return stated_by_tag(*_per_unit(page, INCH_UM if unit == 2 else 1e4))


def tag_um(page: TiffPage) -> float | None:
    """Return the um per pixel by the resolution tags, plausible or not; None where they name no unit.

    Writers that know nothing give one pixel per nothing, which beside a page with a unit is no scale.
    """
    unit = {2: INCH_UM, 3: 1e4}.get(page.tags.valueof("ResolutionUnit"))
    return None if unit is None else _per_unit(page, unit)[0]


def channel_names(
    tif: TiffFile, series: TiffPageSeries, pages: Sequence[TiffPage], count: int, file: Path
) -> tuple[tuple[str, ...], str]:
    """Return the names of the channels of a series, and a remark where the file names another number of channels.

    A channel without a name is `C0`, `C1`, … by its place.

    Args:
        tif: the open file.
        series: the image.
        pages: the page of each channel, where each has its own.
        count: number of channels.
        file: its path, for errors.
    """
    names: list[str] = []
    if tif.is_ome:
        pixels = _ome_pixels(tif, series, file)
        if pixels is not None:
            names = [item.get("Name", "") for item in pixels if _local(item) == "Channel"]
    elif tif.is_qpi:
        names = [_akoya_name(page.description, file) for page in pages]
    elif tif.is_imagej:
        labels = (tif.imagej_metadata or {}).get("Labels") or []
        names = [label_name(str(label)) for label in labels]
    remark = ""
    if any(names) and len(names) != count:
        remark = f"{len(names)} names in the file for {count} channels, so that none is used"
    if len(names) != count or not any(names):
        names = list(page_names(pages)) if len(pages) == count else []
        names = names or [""] * count
    return tuple(one_line(name) or f"C{index}" for index, name in enumerate(names)), remark


@dataclass(frozen=True)
class OmeImage:
    """What the OME-XML states of one image.

    Attributes:
        name: of the image; may be empty.
        channels: the name of each channel; may be empty.
        size_xy: width and height in pixels.
        mpp_text: size of a pixel, as written.
        position: stage position of its first plane, as written; empty where there is none.
    """

    name: str
    channels: tuple[str, ...]
    size_xy: tuple[int, int]
    mpp_text: str
    position: str


def ome_images(tif: TiffFile, file: Path) -> tuple[OmeImage, ...]:
    """Return the images of the OME-XML, in its order.

    Raises:
        ValueError: if a size is not a whole number.
    """
    found: list[OmeImage] = []
    for image in parse_xml(tif.ome_metadata or "<OME/>", file):
        for pixels in image if _local(image) == "Image" else ():
            if _local(pixels) != "Pixels":
                continue
            names = [one_line(item.get("Name", "")) for item in pixels if _local(item) == "Channel"]
            size_xy = (int(pixels.get("SizeX", "0")), int(pixels.get("SizeY", "0")))
            mpp = " ".join(f"{key}={value}" for key, value in sorted(pixels.items()) if key.startswith("Physical"))
            positions = [(x.get("PositionX"), x.get("PositionY")) for x in pixels if _local(x) == "Plane"]
            found.append(OmeImage(one_line(image.get("Name", "")), tuple(names), size_xy, mpp, str(positions[:1])))
    return tuple(found)


def _akoya_name(description: str, file: Path) -> str:
    """Return marker of a QPTIFF or inForm page: `Biomarker` where Akoya's newer software wrote it, else `Name`."""
    if not description.lstrip().startswith("<?xml"):
        return ""
    root = parse_xml(description, file)
    return (root.findtext("Biomarker") or root.findtext("Name") or "").strip()


def _ome_pixels(tif: TiffFile, series: TiffPageSeries, file: Path) -> ElementTree.Element | None:
    """Return the `Pixels` element whose size is that of the series, and of several the one of its name."""
    wanted = tuple(str(series.keyframe.shape[series.keyframe.axes.index(axis)]) for axis in "XY")
    found = [
        (image.get("Name", ""), pixels)
        for image in parse_xml(tif.ome_metadata or "<OME/>", file)
        for pixels in (image if _local(image) == "Image" else ())
        if _local(pixels) == "Pixels" and (pixels.get("SizeX"), pixels.get("SizeY")) == wanted
    ]
    named = [pixels for name, pixels in found if name == series.name]
    return next(iter(named or [pixels for _, pixels in found]), None)


def _ome_size(pixels: ElementTree.Element, axis: str) -> float | None:
    unit = unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "")) * unit if unit is not None else None
    except ValueError:
        return None


def _per_unit(page: TiffPage, unit_um: float) -> tuple[float | None, float | None]:
    x, y = (_fraction(page.tags.valueof(name)) for name in ("XResolution", "YResolution"))
    return (unit_um / x if x else None, unit_um / y if y else None)


def _fraction(value: tuple[int, int] | None) -> float | None:
    return value[0] / value[1] if value and value[0] and value[1] else None


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
