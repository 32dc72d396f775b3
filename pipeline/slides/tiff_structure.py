"""Check that all a TIFF promises lies within the file, which finds a broken copy before hours of work."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_STRIP_OFFSETS, _STRIP_COUNTS, _TILE_OFFSETS, _TILE_COUNTS, _SUB_IFDS = 273, 279, 324, 325, 330
_READ = {256, 257, 273, 279, 322, 323, 324, 325, 330}
_MAX_DIRECTORIES = 100_000

Stream = BinaryIO | io.RawIOBase

# OpenSlide ends the whole process where it cannot allocate a tile, so absurd sizes must not reach it.
MAX_SIDE_PX = 1_000_000
MAX_TILE_PX = 2**26


@dataclass(frozen=True)
class _Form:
    """Byte order and field widths of a TIFF: classic (32 bit) or BigTIFF (64 bit)."""

    order: str
    big: bool

    @property
    def pointer(self) -> str:
        return f"{self.order}{'Q' if self.big else 'I'}"

    @property
    def entry(self) -> np.dtype[np.void]:
        wide = "u8" if self.big else "u4"
        value = ("value", "V8" if self.big else "V4")
        return np.dtype(
            [("tag", f"{self.order}u2"), ("type", f"{self.order}u2"), ("count", f"{self.order}{wide}"), value]
        )


def is_tiff(path: Path) -> bool:
    """Return whether the file begins as a TIFF or BigTIFF does."""
    with path.open("rb") as stream:
        return is_tiff_stream(stream)


def is_tiff_stream(stream: Stream) -> bool:
    """Return whether a stream, read from where it is, begins as a TIFF or BigTIFF does."""
    return _form(stream) is not None


def check_whole(path: Path) -> None:
    """Check that every directory, tag value, tile and strip of a TIFF lies within the file, and that sizes make sense.

    Only tags are read. NDPI files beyond 4 GiB are skipped: their pointers are not what the TIFF standard says.

    Raises:
        StatedError: if something lies beyond the end, so the file was cut off, or a size is absurd.
    """
    with path.open("rb") as stream:
        check_whole_stream(stream, path.stat().st_size, path)


def check_whole_stream(stream: Stream, size: int, path: Path) -> None:
    """Check a TIFF of `size` bytes by its stream; `path` is for errors. See `check_whole`."""
    stream.seek(0)
    form = _form(stream)
    if form is None:
        raise StatedError(file=path, expected="a TIFF file", found=f"{size} bytes that do not begin as one")
    if size >= 2**32 and not form.big:
        return
    try:
        first = _first(stream, form)
        pending, seen = [first], set[int]()
        while pending:
            offset = pending.pop()
            if offset and offset not in seen:
                seen.add(offset)
                pending += _directory(stream, form, offset, size, is_first=offset == first)
            if len(seen) > _MAX_DIRECTORIES:
                raise _BrokenError(f"more than {_MAX_DIRECTORIES} directories")
    except _BrokenError as error:
        raise StatedError(file=path, expected="a whole TIFF file", found=f"{error} (file of {size} bytes)") from None
    if not seen:
        raise StatedError(file=path, expected="a TIFF file with an image", found="none: it was not written to its end")


class _BrokenError(Exception):
    """What the file says of itself cannot be."""


def _form(stream: Stream) -> _Form | None:
    magic = stream.read(4) or b""
    order = {b"II": "<", b"MM": ">"}.get(magic[:2])
    if order is None or len(magic) < 4:
        return None
    version = struct.unpack(f"{order}H", magic[2:])[0]
    return _Form(order, version == 43) if version in (42, 43) else None


def _first(stream: Stream, form: _Form) -> int:
    stream.seek(8 if form.big else 4)
    return int(struct.unpack(form.pointer, _take(stream, struct.calcsize(form.pointer), "the header"))[0])


def _directory(stream: Stream, form: _Form, offset: int, size: int, *, is_first: bool) -> list[int]:
    """Check one directory; returns where the ones lie that it points to."""
    what = f"a directory at byte {offset}"
    if offset >= size:
        raise _BrokenError(f"{what} beyond the end")
    stream.seek(offset)
    count_form = f"{form.order}{'Q' if form.big else 'H'}"
    count = int(struct.unpack(count_form, _take(stream, struct.calcsize(count_form), what))[0])
    if count > 65535:
        raise _BrokenError(f"{what} with {count} tags")
    entries = np.frombuffer(_take(stream, count * form.entry.itemsize, what), form.entry)
    following = int(struct.unpack(form.pointer, _take(stream, struct.calcsize(form.pointer), what))[0])
    values = {int(entry["tag"]): _integers(stream, form, entry, size) for entry in entries}
    _check_sizes(values, what)
    for offsets, counts in ((_STRIP_OFFSETS, _STRIP_COUNTS), (_TILE_OFFSETS, _TILE_COUNTS)):
        _check_segments(values.get(offsets), values.get(counts), what, size)
        lengths = values.get(counts)
        if is_first and lengths is not None and len(lengths) and not lengths.any():
            # Scanners leave out some tiles; an image without any is one whose writing failed.
            raise _BrokenError(f"none of {len(lengths)} tiles or strips of the first image")
    sub = values.get(_SUB_IFDS)
    return [following, *([] if sub is None else (int(x) for x in sub))]


def _integers(stream: Stream, form: _Form, entry: np.void, size: int) -> NDArray[np.uint64] | None:
    """Return values of a tag that points into the file; of all others only the extent is checked."""
    tag, kind, count = int(entry["tag"]), int(entry["type"]), int(entry["count"])
    length = _TYPE_BYTES.get(kind, 1) * count
    raw = bytes(entry["value"])
    inline = length <= len(raw)
    start = 0 if inline else int(struct.unpack(form.pointer, raw)[0])
    if not inline and start + length > size:
        raise _BrokenError(f"tag {tag} that ends at byte {start + length}")
    if tag not in _READ or kind not in _INTEGERS:
        return None
    if not inline:
        stream.seek(start)
        raw = _take(stream, length, f"tag {tag}")
    return np.frombuffer(raw[:length], f"{form.order}{_INTEGERS[kind]}").astype(np.uint64)


def _check_sizes(values: dict[int, NDArray[np.uint64] | None], what: str) -> None:
    """Refuse sizes that no slide has, and fewer tiles than the image needs."""

    def one(tag: int) -> int:
        value = values.get(tag)
        return int(value[0]) if value is not None and len(value) else 0

    width, height, tile_width, tile_height = (one(tag) for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT))
    if max(width, height) > MAX_SIDE_PX:
        raise _BrokenError(f"{what} with an image of {width} x {height} px")
    offsets = values.get(_TILE_OFFSETS)
    if offsets is None:
        return
    if not (0 < tile_width * tile_height <= MAX_TILE_PX):
        raise _BrokenError(f"{what} with tiles of {tile_width} x {tile_height} px")
    needed = -(-width // tile_width) * -(-height // tile_height)
    if len(offsets) < needed:
        raise _BrokenError(f"{what} with {len(offsets)} of {needed} tiles")


def _check_segments(
    offsets: NDArray[np.uint64] | None, counts: NDArray[np.uint64] | None, what: str, size: int
) -> None:
    if offsets is None or counts is None or not len(offsets) or len(offsets) != len(counts):
        return
    # A tile of no bytes is one that the scanner left out.
    ends = np.where(counts > 0, offsets + counts, 0)
    worst = int(ends.max())
    if worst > size:
        beyond = int((ends > size).sum())
        raise _BrokenError(f"{beyond} of {len(ends)} tiles or strips of {what} beyond the end, up to byte {worst}")


def _take(stream: Stream, count: int, what: str) -> bytes:
    data = stream.read(count) or b""
    if len(data) < count:
        raise _BrokenError(f"{what} that is cut off")
    return data
