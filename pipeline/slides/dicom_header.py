"""Read from a DICOM header what slides need: series, sizes and the spacing of pixels.

Only the elements before the pixels are read, so that a folder of many slides is looked through in little time.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREAMBLE = 128
# The series is stated early; the spacing of pixels after colour profiles, before the table of frames.
_SERIES_BYTES, _HEADER_BYTES = 32 * 2**10, 8 * 2**20
_SYNTAX, _IMPLICIT = (0x0002, 0x0010), "1.2.840.10008.1.2"
_SERIES = (0x0020, 0x000E)
_IMAGE_TYPE = (0x0008, 0x0008)
_PHOTOMETRIC = (0x0028, 0x0004)
_ROWS, _COLUMNS = (0x0028, 0x0010), (0x0028, 0x0011)
_TOTAL_COLUMNS, _TOTAL_ROWS = (0x0048, 0x0006), (0x0048, 0x0007)
_SPACING = (0x0028, 0x0030)
_SHARED, _MEASURES = (0x5200, 0x9229), (0x0028, 0x9110)
_PER_FRAME, _PIXELS = (0x5200, 0x9230), (0x7FE0, 0x0010)
_META, _DELIMITERS = 0x0002, 0xFFFE
_ITEM, _SEQUENCE_END = (_DELIMITERS, 0xE000), (_DELIMITERS, 0xE0DD)
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_WANTED = {_SYNTAX, _SERIES, _IMAGE_TYPE, _PHOTOMETRIC, _ROWS, _COLUMNS, _TOTAL_COLUMNS, _TOTAL_ROWS, _SPACING}
_UNDEFINED = 0xFFFFFFFF

Tag = tuple[int, int]


@dataclass(frozen=True)
class DicomHeader:
    """One file of a slide.

    Attributes:
        series: UID of the series; a slide is one series.
        image_type: such as ORIGINAL, PRIMARY, VOLUME, NONE.
        size_xy: width and height in pixels of the whole image.
        tile_xy: of a frame.
        spacing_um: um per pixel from left to right; None where it is not stated.
        photometric: such as RGB, YBR_FULL_422, MONOCHROME2; empty where it is not stated.
    """

    series: str
    image_type: tuple[str, ...]
    size_xy: tuple[int, int]
    tile_xy: tuple[int, int]
    spacing_um: float | None
    photometric: str = ""

    @property
    def is_level(self) -> bool:
        """Whether the file holds a level of the slide, and no picture of its label or glass."""
        return not {"LABEL", "OVERVIEW", "THUMBNAIL"} & set(self.image_type[2:3])


def dicom_series(path: Path) -> str:
    """Return the UID of the series of a DICOM file; empty where it is none."""
    return _text(_elements_of(path, _SERIES_BYTES), _SERIES)


def dicom_header(path: Path) -> DicomHeader | None:
    """Return the header of a DICOM file; None where it is none."""
    found = _elements_of(path, _HEADER_BYTES)
    if not found:
        return None
    spacing = _text(found, _SPACING).split("\\")
    try:
        # Rows first: the second value is the distance between columns.
        spacing_um = float(spacing[-1]) * 1000
    except ValueError:
        spacing_um = None
    return DicomHeader(
        series=_text(found, _SERIES),
        image_type=tuple(_text(found, _IMAGE_TYPE).split("\\")),
        size_xy=(_number(found, _TOTAL_COLUMNS), _number(found, _TOTAL_ROWS)),
        tile_xy=(_number(found, _COLUMNS), _number(found, _ROWS)),
        spacing_um=spacing_um,
        photometric=_text(found, _PHOTOMETRIC),
    )


def _elements_of(path: Path, most_bytes: int) -> dict[Tag, bytes]:
    try:
        with path.open("rb") as stream:
            head = stream.read(_PREAMBLE + 4)
            if head[_PREAMBLE:] != b"DICM":
                return {}
            data = stream.read(most_bytes)
    except OSError:
        return {}
    found: dict[Tag, bytes] = {}
    try:
        for tag, value in _walk(data):
            found.setdefault(tag, value)
    except struct.error:
        # The part that was read ends within an element; what came before it is whole.
        return found
    return found


def _walk(data: bytes) -> Iterator[tuple[Tag, bytes]]:
    """Yield the wanted elements of the header, those of the shared pixel measures among them.

    Other sequences are skipped, for they describe other series and images. Those without a length end where
    their delimiter is, which only a walk through them finds.
    """
    at, implicit, passed_over = 0, False, 0
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        tag = (group, element)
        if tag in (_PIXELS, _PER_FRAME):
            return
        length, start = _extent(data, at, implicit=group == _DELIMITERS or (implicit and group != _META))
        if group == _DELIMITERS:
            passed_over -= tag == _SEQUENCE_END and passed_over > 0
            skipped = tag == _ITEM and passed_over and length != _UNDEFINED
            at = start + (length if skipped else 0)
        elif not passed_over and tag in (_SHARED, _MEASURES):
            at = start
        elif length == _UNDEFINED:
            passed_over += 1
            at = start
        else:
            if tag in _WANTED and not passed_over:
                value = data[start : start + length]
                yield tag, value
                if tag == _SYNTAX:
                    implicit = value.rstrip(b"\0 ").decode("ascii", "replace") == _IMPLICIT
            at = start + length


def _extent(data: bytes, at: int, *, implicit: bool) -> tuple[int, int]:
    """Return length and start of the value of the element at a byte."""
    if implicit:
        return int(struct.unpack_from("<I", data, at + 4)[0]), at + 8
    if data[at + 4 : at + 6] in _LONG:
        return int(struct.unpack_from("<I", data, at + 8)[0]), at + 12
    return int(struct.unpack_from("<H", data, at + 6)[0]), at + 8


def _text(found: dict[Tag, bytes], tag: Tag) -> str:
    return found.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace").strip()


def _number(found: dict[Tag, bytes], tag: Tag) -> int:
    value = found.get(tag, b"")
    return int.from_bytes(value[:4], "little")
