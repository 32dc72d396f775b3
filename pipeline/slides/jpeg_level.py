"""Read windows of a level of JPEG tiles: each tile is decoded from the file's bytes by libjpeg-turbo.

OpenSlide composes every window anew and gives it back in another pixel layout, which takes several times as long as
decoding. Here its pixels are met exactly, or the level is left to it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.base import CorruptTileError, Pixels
from pipeline.slides.closing import Closing
from pipeline.slides.jpeg_tiles import RGB, YCBCR, JpegTiles, decode_leniently, decode_strictly
from pipeline.slides.window import clip_window

# Of each thread: what it decoded last is still in the processor's cache, and holds the two or three rows of tiles that
# neighbouring squares share.
CACHE_BYTES = 24 * 2**20

# Gives the pixels (h, w, 3) of a window by its corner and size, in pixels of the level.
Show = Callable[[tuple[int, int], tuple[int, int]], Pixels]


class JpegLevel(Closing):
    """One level; safe to read from several threads.

    A tile that a window cuts is kept a while by the thread that decoded it, for its next window will want the rest;
    one that lies wholly in the window is not. A tile that cannot be decoded shows what the decoder makes of it, and is
    remembered.

    Attributes:
        transform: what the tiles' streams say of their colours, `RGB` or `YCBCR` of `pipeline.slides.jpeg_tiles`.
    """

    def __init__(self, tiles: JpegTiles, transform: int, size_xy: tuple[int, int]) -> None:
        self._tiles, self.transform, self._size_xy = tiles, transform, size_xy
        self._own = threading.local()
        self._corrupt: set[int] = set()

    @classmethod
    def verified(cls, path: Path, size_xy: tuple[int, int], show: Show) -> Self | None:
        """Return the level of that size.

        None where it has no such tiles, or they do not come out as `show` shows them.
        """
        tiles = JpegTiles.open(path, size_xy)
        if tiles is None:
            return None
        transform = shown_transform(tiles, size_xy, show)
        if transform is None:
            tiles.close()
            return None
        return cls(tiles, transform, size_xy)

    def close(self) -> None:
        """Release the file."""
        self._tiles.close()
        self._own = threading.local()

    def read(self, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8: a window, which may reach beyond the level; white where there is no tile."""
        (x, y), side = corner_xy, self._tiles.side_px
        whole = x % side == 0 and y % side == 0 and size_xy == (side, side) and x >= 0 and y >= 0
        if whole and x + side <= self._size_xy[0] and y + side <= self._size_xy[1]:
            number = y // side * self._tiles.across + x // side
            if self._tiles.counts[number]:
                return self._decode(number)
        out = np.empty((size_xy[1], size_xy[0], 3), dtype=np.uint8)
        window = clip_window(corner_xy, size_xy, self._size_xy)
        (left, top), (right, bottom) = window.start_xy, window.stop_xy
        if (left, top) != (0, 0) or (right, bottom) != size_xy:
            out[...] = 255
        if not window.is_empty:
            self._paint(out[top:bottom, left:right], window.corner_xy)
        return out

    def is_corrupt(self, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Return whether a tile of this window, which was read before, could not be decoded."""
        if not self._corrupt:
            return False
        window = clip_window(corner_xy, size_xy, self._size_xy)
        (x, y), side = window.corner_xy, self._tiles.side_px
        width, height = (stop - start for start, stop in zip(window.start_xy, window.stop_xy, strict=True))
        rows, columns = range(y // side, (y + height - 1) // side + 1), range(x // side, (x + width - 1) // side + 1)
        return any(row * self._tiles.across + column in self._corrupt for row in rows for column in columns)

    def _paint(self, target: NDArray[np.uint8], corner_xy: tuple[int, int]) -> None:
        """Fill `target`, which lies on the level."""
        (x, y), (height, width) = corner_xy, target.shape[:2]
        side = self._tiles.side_px
        scratch = np.empty((side, side, 3), dtype=np.uint8)
        for row in range(y // side, (y + height - 1) // side + 1):
            top, bottom = max(row * side, y), min((row + 1) * side, y + height)
            for column in range(x // side, (x + width - 1) // side + 1):
                number = row * self._tiles.across + column
                left, right = max(column * side, x), min((column + 1) * side, x + width)
                part = target[top - y : bottom - y, left - x : right - x]
                if not self._tiles.counts[number]:
                    part[...] = 255
                elif part.shape[:2] == (side, side):
                    part[...] = self._decode(number, scratch)
                else:
                    part[...] = self._kept(number)[
                        top - row * side : bottom - row * side, left - column * side : right - column * side
                    ]

    def _kept(self, number: int) -> NDArray[np.uint8]:
        """Return a tile, which is this thread's to read until it asks for another."""
        kept: OrderedDict[int, NDArray[np.uint8]] | None = getattr(self._own, "kept", None)
        if kept is None:
            kept = self._own.kept = OrderedDict()
        tile = kept.pop(number, None)
        if tile is None:
            side = self._tiles.side_px
            if kept and (len(kept) + 1) * 3 * side**2 > CACHE_BYTES:
                # Decoded over the oldest: new memory would be asked of the system page by page.
                _, room = kept.popitem(last=False)
            else:
                room = np.empty((side, side, 3), dtype=np.uint8)
            tile = self._decode(number, room)
        kept[number] = tile
        return tile

    def _decode(self, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        stream = b""
        try:
            stream = self._tiles.stream(number, self.transform)
            return decode_strictly(stream, out)
        except (CorruptTileError, ValueError):
            self._corrupt.add(number)
            return decode_leniently(stream, self._tiles.side_px)


def shown_transform(tiles: JpegTiles, level_size_xy: tuple[int, int], show: Show) -> int | None:
    """Return what a tile's stream must say of its colours for it to show what `show` does.

    Files contradict themselves: a tile may claim YCbCr where its page says RGB, and readers differ in which they
    believe. So some tiles, the one of most bytes among them, are decoded either way and compared with the pixels
    shown, which must be met exactly.

    Returns:
        `RGB` or `YCBCR`; None where neither meets them, or no tile can be compared.
    """
    present = np.flatnonzero(tiles.counts)
    side = tiles.side_px
    numbers = {int(n) for n in present[[0, len(present) // 2]]} | {int(tiles.counts.argmax())} if len(present) else ()
    possible, compared = {RGB, YCBCR}, 0
    for number in sorted(numbers):
        row, column = divmod(number, tiles.across)
        width, height = (min(side, level_size_xy[i] - (column, row)[i] * side) for i in (0, 1))
        try:
            decoded = {t: decode_strictly(tiles.stream(number, t))[:height, :width] for t in (RGB, YCBCR)}
            shown = show((column * side, row * side), (width, height))
        except (StatedError, ValueError):
            # A broken tile says nothing of the others.
            continue
        compared += 1
        possible &= {t for t, pixels in decoded.items() if np.array_equal(pixels, shown)}
    return min(possible) if compared and possible else None
