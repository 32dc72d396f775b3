"""Whether the JPEG frames of a DICOM slide hold the colours that its header names, by which OpenSlide decodes them."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.slides.dicom_header import dicom_header
from pipeline.slides.jpeg_markers import RGB, YCBCR, stated_transform

# Pixel data in frames: its tag, type and undefined length, then the item of offsets.
_FRAMES = struct.pack("<HH4sI", 0x7FE0, 0x0010, b"OB\0\0", 0xFFFFFFFF) + struct.pack("<HH", 0xFFFE, 0xE000)
# The frames begin after the header and the table of frames; pixels without frames are not looked through for them.
_HEADER_BYTES = 2**28
_NAMES = {RGB: "RGB", YCBCR: "YCbCr"}


def refuse_contradicting_frames(files: Iterable[Path], slide: str) -> None:
    """Refuse a DICOM slide that OpenSlide would show in false colours.

    Raises:
        StatedError: if the first JPEG frame of a level states other colours than its photometric interpretation.
    """
    for path in files:
        header = dicom_header(path)
        if header is None or not header.is_level or not header.photometric:
            continue
        try:
            stated = stated_transform(_first_frame(path))
        except ValueError:
            # No frame, or one of another codec, which says nothing of its colours.
            continue
        tagged = RGB if header.photometric == "RGB" else YCBCR
        if stated is not None and stated != tagged:
            raise StatedError(
                slide=slide,
                file=path,
                expected=f"frames of {header.photometric}, as the photometric interpretation says",
                found=f"JPEG frames that state {_NAMES[stated]}",
            )


def _first_frame(path: Path) -> bytes:
    """Return the first fragment of the pixels; empty where they are not kept in frames."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_FRAMES, 0, _HEADER_BYTES)
        if at < 0:
            return b""
        at += len(_FRAMES)
        (offsets,) = struct.unpack("<I", data[at : at + 4])
        at += 4 + offsets
        head = data[at : at + 8]
        if len(head) < 8 or struct.unpack("<HH", head[:4]) != (0xFFFE, 0xE000):
            return b""
        (length,) = struct.unpack("<I", head[4:])
        return data[at + 8 : at + 8 + length]
