"""Read what a JPEG stream states before its first scan, and which colours its samples stand for."""

from __future__ import annotations

# Values of the transform byte of Adobe's marker (ITU-T T.872, 6.5.3).
RGB, YCBCR = 0, 1

SOI, SOS = b"\xff\xd8", b"\xff\xda"
FRAMES = {0xC0, 0xC1, 0xC2}
OTHER_FRAMES = set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
JFIF, ADOBE = 0xE0, 0xEE
_EOI = 0xD9


def segments(stream: bytes) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return marker and bytes of each segment before the scan or the end, and where the scan begins.

    Raises:
        ValueError: if the bytes are no JPEG stream.
    """
    if stream[:2] != SOI:
        raise ValueError(f"bytes that begin with {stream[:4]!r}")
    found: list[tuple[int, bytes]] = []
    position = 2
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise ValueError(f"no marker at byte {position}")
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == SOS[1]:
            return found, position
        if marker == _EOI:
            break
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        found.append((marker, stream[position:end]))
        position = end
    return found, None


def stated_transform(stream: bytes) -> int | None:
    """Return what a stream of three components says of its colours: `RGB`, `YCBCR`, or None where it says nothing.

    JFIF knows no RGB, Adobe's marker names the transform, and libjpeg calls the components of RGB by their letters.
    Where none of them is there, a second component of fewer samples than the first is a colour difference.
    Markers that contradict each other say nothing. Only the stream's own markers count, as for libjpeg: those of
    shared tables describe the tables.

    Raises:
        ValueError: if the bytes are no JPEG stream.
    """
    found, _ = segments(stream)
    stated: set[int] = set()
    for marker, segment in found:
        if marker == JFIF and segment[4:9] == b"JFIF\0":
            stated.add(YCBCR)
        elif marker == ADOBE and segment[4:9] == b"Adobe" and len(segment) >= 16:
            stated.add(RGB if segment[15] == 0 else YCBCR)
    if not stated:
        frames = [segment for marker, segment in found if marker in FRAMES]
        if [frame[10::3][:3] for frame in frames] == [b"RGB"]:
            return RGB
        sampling = [tuple(frame[11::3][:3]) for frame in frames]
        return YCBCR if any(len(factors) == 3 and factors[1] < factors[0] for factors in sampling) else None
    return stated.pop() if len(stated) == 1 else None
