"""Small slides that the tests of the readers write."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

Image = NDArray[Any]
NM_PER_PX = 500


def smooth_rgb(width: int, height: int) -> NDArray[np.uint8]:
    """An image of gradients and waves: JPEG keeps it almost as it is, and every place looks different."""
    y, x = np.mgrid[:height, :width].astype(float)
    red = 40 + 160 * x / width
    green = 40 + 160 * y / height
    blue = 128 + 60 * np.sin(x / 23) * np.cos(y / 31)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def halved(image: Image) -> Image:
    """Every 2 x 2 pixels averaged, an odd last row or column dropped: what scanners write."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    parts = image[:height, :width].astype(float).reshape(height // 2, 2, width // 2, 2, *image.shape[2:])
    return np.rint(parts.mean(axis=(1, 3))).astype(image.dtype)


def pyramid(image: Image, levels: int) -> list[Image]:
    found = [image]
    while len(found) < levels:
        found.append(halved(found[-1]))
    return found


def write_rgb(
    path: Path, levels: list[Image], *, mpp: float | None = 0.5, tile: int = 64, compression: str | None = "jpeg"
) -> Path:
    """A tiled RGB pyramid that OpenSlide opens as a generic TIFF."""
    resolution: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    arguments = {"compressionargs": {"level": 95}} if compression == "jpeg" else {}
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate(levels):
            writer.write(
                image,
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                subfiletype=1 if index else 0,
                metadata=None,
                **arguments,
                **resolution,
            )
    return path


def write_svs(
    path: Path, levels: list[Image], description: str = "MPP = 0.5000", compression: str | int = "jpeg"
) -> Path:
    """What OpenSlide and we take for an Aperio slide."""
    arguments = {"compressionargs": {"level": 95}} if compression == "jpeg" else {}
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate(levels):
            writer.write(
                image,
                tile=(64, 64),
                photometric="rgb",
                compression=compression,
                description=f"Aperio Image Library v11.2.1|AppMag = 20|{description}",
                subfiletype=1 if index else 0,
                metadata=None,
                **arguments,
            )
    return path


def write_ome(path: Path, levels: list[Image], names: list[str] | None, **options: Any) -> Path:
    """An OME-TIFF of axes CYX with its pyramid in SubIFDs."""
    metadata: dict[str, Any] = {"axes": "CYX", "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 0.65, "PhysicalSizeYUnit": "µm"}
    if names:
        metadata["Channel"] = {"Name": names}
    metadata |= options.pop("metadata", {})
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"} | options
    with tifffile.TiffWriter(path, ome=True, bigtiff=options.pop("bigtiff", False)) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for image in levels[1:]:
            writer.write(image, subfiletype=1, metadata=None, **options)
    return path


def channels_image(channels: int, width: int, height: int, dtype: str = "uint16") -> Image:
    """Noise, so that a misplaced pixel cannot pass unnoticed."""
    noise = np.random.default_rng(channels).random((channels, height, width))
    return noise.astype(dtype) if dtype == "float32" else (noise * np.iinfo(dtype).max).astype(dtype)


def window_of(image: Image, corner_xy: tuple[int, int], size_xy: tuple[int, int], fill: int) -> Image:
    """The window that `read_region` must give, by a way of its own: the image (H, W, C) padded on all sides."""
    margin = max(abs(value) for value in (*corner_xy, *size_xy)) + max(size_xy)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=fill)
    left, top = corner_xy[0] + margin, corner_xy[1] + margin
    return padded[top : top + size_xy[1], left : left + size_xy[0]]


def write_ome_set(folder: Path, image: Image, names: list[str]) -> list[Path]:
    """Write one OME-TIFF per channel of (C, H, W), each with one further level and the XML of the whole set."""
    folder.mkdir()
    whole = write_ome(folder / "whole.ome.tif", [image], names)
    with tifffile.TiffFile(whole) as tif:
        text = str(tif.ome_metadata)
    whole.unlink()
    files = [folder / f"focus_{number}.ome.tif" for number in range(len(image))]
    uuids = [f"urn:uuid:24e883cc-d05f-4f32-be50-fe98ab2a95d{number}" for number in range(len(image))]
    planes = "".join(
        f'<TiffData IFD="0" FirstC="{number}" PlaneCount="1"><UUID FileName="{file.name}">{uuid}</UUID></TiffData>'
        for number, (file, uuid) in enumerate(zip(files, uuids, strict=True))
    )
    text = re.sub(r"<TiffData.*?/>|<TiffData.*?</TiffData>", planes, re.sub(r' UUID="[^"]*"', "", text), flags=re.S)
    options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", "metadata": None}
    for file, uuid, plane in zip(files, uuids, image, strict=True):
        with tifffile.TiffWriter(file) as writer:
            description = text.replace("<OME ", f'<OME UUID="{uuid}" ', 1).encode()
            writer.write(plane, subifds=1, description=description, **options)
            writer.write(halved(plane), subfiletype=1, **options)
    return files


def _scn_image(name: str, size: tuple[int, int], corner: tuple[int, int], levels: list[tuple[int, int, int]]) -> str:
    dimensions = "".join(
        f'<dimension sizeX="{width}" sizeY="{height}" r="{number}" ifd="{page}"/>'
        for number, (width, height, page) in enumerate(levels)
    )
    return (
        f'<image name="{name}" uuid="urn:uuid:0"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        '<device model="Leica SCN400;Leica SCN" version="1.4"/>'
        f'<pixels sizeX="{levels[0][0]}" sizeY="{levels[0][1]}">{dimensions}</pixels>'
        f'<view sizeX="{size[0]}" sizeY="{size[1]}" offsetX="{corner[0]}" offsetY="{corner[1]}" spacingZ="0"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


def write_scn(path: Path, image: Image, corner_xy: tuple[int, int], sheet_px: int) -> Path:
    """Write a Leica slide of 0.5 um per pixel: an image with one further level, its corner there on a square sheet."""
    height, width = image.shape[:2]
    sheet = (sheet_px * NM_PER_PX, sheet_px * NM_PER_PX)
    size, corner = (width * NM_PER_PX, height * NM_PER_PX), (corner_xy[0] * NM_PER_PX, corner_xy[1] * NM_PER_PX)
    described = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">'
        f'<collection name="c" uuid="urn:uuid:2" sizeX="{sheet[0]}" sizeY="{sheet[1]}">'
        + _scn_image("macro", sheet, (0, 0), [(256, 256, 0)])
        + _scn_image("main", size, corner, [(width, height, 1), (width // 2, height // 2, 2)])
        + "</collection></scn>"
    )
    options: dict[str, Any] = {
        "photometric": "rgb",
        "tile": (256, 256),
        "compression": "jpeg",
        "compressionargs": {"level": 95},
        "metadata": None,
        "software": False,
    }
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(np.full((256, 256, 3), 230, np.uint8), description=described, **options)
        for level in (image, image[::2, ::2]):
            writer.write(level, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **options)
    return path


def write_dicom(
    path: Path,
    series: str,
    *,
    delimited: bool = False,
    implicit: bool = False,
    photometric: str = "YBR_FULL_422",
    frame: bytes = b"",
) -> Path:
    """Write the header of a DICOM slide of 1536 x 1280 px in frames of 512 x 256 at 0.5 um, and its first frame.

    A sequence before the series names another series, as references do. Without a frame the header ends the file.
    """

    def element(tag: tuple[int, int], kind: bytes, value: bytes, *, short: bool = False) -> bytes:
        value += b"\0" if len(value) % 2 else b""
        head = struct.pack("<HH", *tag)
        if implicit and not short:
            return head + struct.pack("<I", len(value)) + value
        if kind == b"SQ":
            return head + kind + b"\0\0" + struct.pack("<I", len(value)) + value
        return head + kind + struct.pack("<H", len(value)) + value

    def sequence(tag: tuple[int, int], item: bytes) -> bytes:
        if not delimited:
            return element(tag, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
        head = struct.pack("<HH", *tag) + (b"" if implicit else b"SQ\0\0") + b"\xff" * 4
        ends = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        return head + struct.pack("<HH", 0xFFFE, 0xE000) + b"\xff" * 4 + item + ends

    def number(tag: tuple[int, int], kind: bytes, value: int) -> bytes:
        return element(tag, kind, struct.pack("<H" if kind == b"US" else "<I", value))

    syntax = b"1.2.840.10008.1.2" if implicit else b"1.2.840.10008.1.2.1"
    spacing = sequence((0x0028, 0x9110), element((0x0028, 0x0030), b"DS", b"0.0005\\0.0005"))
    parts = [
        element((0x0002, 0x0010), b"UI", syntax, short=True),
        element((0x0008, 0x0008), b"CS", b"ORIGINAL\\PRIMARY\\VOLUME\\NONE"),
        sequence((0x0008, 0x1115), element((0x0020, 0x000E), b"UI", b"9.9.9")),
        element((0x0020, 0x000E), b"UI", series.encode()),
        element((0x0028, 0x0004), b"CS", photometric.encode()),
        number((0x0028, 0x0010), b"US", 256),
        number((0x0028, 0x0011), b"US", 512),
        number((0x0048, 0x0006), b"UL", 1536),
        number((0x0048, 0x0007), b"UL", 1280),
        sequence((0x5200, 0x9229), spacing),
    ]
    if frame:
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        head = struct.pack("<HH", 0x7FE0, 0x0010) + b"OB\0\0" + b"\xff" * 4
        parts.append(head + item + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame)
    path.write_bytes(bytes(128) + b"DICM" + b"".join(parts))
    return path
