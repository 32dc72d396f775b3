"""Read windows of Zarr arrays: only touched chunks are read, and a bounded number stays decoded.

Zarr decodes the chunks of one request side by side, and each request costs about a millisecond whatever it asks for. So
chunks that are missing side by side are asked for at once, and kept as the one block that zarr returns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from math import prod
from pathlib import Path

from pipeline.slides.base import CorruptTileError, Pixels
from pipeline.slides.zarr_images import Box, LevelArray

CACHE_BYTES = 192 * 2**20
# Of what is read at once, so that a strip across a slide takes no more memory than it must.
_BLOCK_BYTES = 48 * 2**20

# Of a chunk in the grid of chunks: c, y, x.
Place = tuple[int, int, int]
# Number of a level, then the place of a chunk.
Key = tuple[int, int, int, int]
Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, eq=False)
class _Block:
    """Chunks side by side: the place of the first, that beyond the last, and their pixels (c, y, x)."""

    level: int
    start: Place
    stop: Place
    pixels: Pixels

    def chunks(self) -> list[Key]:
        """Return what its chunks are found by."""
        return [(self.level, *index) for index in _places(self.start, self.stop)]


class ChunkReader:
    """Reads the levels of one image, from several threads at once.

    Args:
        levels: the arrays.
        path: of the folder, for errors.
        slide: name of the slide, for errors.
    """

    def __init__(self, levels: Sequence[LevelArray], path: Path | str, slide: str = "") -> None:
        self._levels, self._path, self._slide = levels, path, slide
        self._blocks: OrderedDict[_Block, None] = OrderedDict()
        self._holders: dict[Key, _Block] = {}
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Forget what is kept."""
        with self._lock:
            self._blocks.clear()
            self._holders.clear()
            self._cached_bytes = 0

    def paint(self, level: int, target: Pixels, corner_xy: tuple[int, int], channels: Sequence[int]) -> None:
        """Write a window into `target` (len(channels), height, width), which may be a view and must lie on the level.

        A chunk that is not stored shows the array's fill value.

        Raises:
            CorruptTileError: if a chunk cannot be read or decoded, naming it.
        """
        deep, high, wide = self._levels[level].chunk_cyx
        left, top = corner_xy
        planes = sorted({channel // deep for channel in channels})
        rows = range(top // high, (top + target.shape[1] - 1) // high + 1)
        columns = range(left // wide, (left + target.shape[2] - 1) // wide + 1)
        held: dict[_Block, None] = {}
        missing: dict[tuple[int, int], list[int]] = {}
        for row, column in product(rows, columns):
            for plane in planes:
                block = self._kept((level, plane, row, column))
                if block is None:
                    missing.setdefault((row, column), []).append(plane)
                else:
                    held[block] = None
        for block in held:
            self._copy(block, target, corner_xy, channels)
        for start, stop in self._boxes(level, missing):
            block = _Block(level, start, stop, self._read(level, start, stop))
            self._copy(block, target, corner_xy, channels)
            self._keep(block)

    def _copy(self, block: _Block, target: Pixels, corner_xy: tuple[int, int], channels: Sequence[int]) -> None:
        """Copy what a block shows of the window."""
        first, top, left = (a * size for a, size in zip(block.start, self._levels[block.level].chunk_cyx, strict=True))
        count, height, width = block.pixels.shape
        x, y = corner_xy
        y0, y1 = max(top, y), min(top + height, y + target.shape[1])
        x0, x1 = max(left, x), min(left + width, x + target.shape[2])
        if y1 <= y0 or x1 <= x0:
            return
        shown = block.pixels[:, y0 - top : y1 - top, x0 - left : x1 - left]
        for into, channel in enumerate(channels):
            if first <= channel < first + count:
                target[into, y0 - y : y1 - y, x0 - x : x1 - x] = shown[channel - first]

    def _boxes(self, level: int, missing: dict[tuple[int, int], list[int]]) -> Iterator[tuple[Place, Place]]:
        """Yield boxes of chunks, each at most as large as is read at once, that hold all that is missing."""
        array = self._levels[level]
        chunk_bytes = prod(array.chunk_cyx) * array.array.dtype.itemsize
        for planes in dict.fromkeys(map(tuple, missing.values())):
            indices = sorted(index for index, absent in missing.items() if tuple(absent) == planes)
            runs: dict[tuple[int, int], list[int]] = {}
            for row, found in groupby(indices, key=lambda index: index[0]):
                for first, end in _runs([column for _, column in found]):
                    runs.setdefault((first, end), []).append(row)
            most = max(1, _BLOCK_BYTES // chunk_bytes)
            for (first, end), rows in runs.items():
                for c, y in product(_runs(planes), _runs(rows)):
                    yield from _split((c, y, (first, end)), most)

    def _read(self, level: int, start: Place, stop: Place) -> Pixels:
        array = self._levels[level]
        try:
            return array.read(self._box(array, start, stop))
        except ValueError as error:
            index, found = start, str(error)
            # Of many chunks read at once zarr does not say which one it was.
            for one in _places(start, stop):
                try:
                    array.read(self._box(array, one, (one[0] + 1, one[1] + 1, one[2] + 1)))
                except ValueError as its_error:
                    index, found = one, str(its_error)
                    break
            index_of = dict(zip("cyx", index, strict=True))
            name = ", ".join(f"{axis} {index_of.get(axis, 0)}" for axis in array.axes if axis in "cyx")
            raise CorruptTileError(
                slide=self._slide,
                file=self._path,
                expected=f"readable pixels in chunk {name} of level {array.name}",
                found=found,
            ) from None

    @staticmethod
    def _box(array: LevelArray, start: Place, stop: Place) -> Box:
        c, y, x = (
            slice(a * size, min(b * size, whole))
            for a, b, size, whole in zip(start, stop, array.chunk_cyx, array.shape_cyx, strict=True)
        )
        return c, y, x

    def _kept(self, key: Key) -> _Block | None:
        with self._lock:
            block = self._holders.get(key)
            if block is not None:
                self._blocks.move_to_end(block)
            return block

    def _keep(self, block: _Block) -> None:
        with self._lock:
            self._blocks[block] = None
            self._holders.update(dict.fromkeys(block.chunks(), block))
            self._cached_bytes += block.pixels.nbytes
            while self._cached_bytes > CACHE_BYTES:
                oldest, _ = self._blocks.popitem(last=False)
                self._cached_bytes -= oldest.pixels.nbytes
                for key in oldest.chunks():
                    if self._holders.get(key) is oldest:
                        del self._holders[key]


def _places(start: Place, stop: Place) -> Iterator[Place]:
    """Yield the place of every chunk of a box."""
    for c in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for x in range(start[2], stop[2]):
                yield c, y, x


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and end of each run of ascending numbers that follow one another."""
    breaks = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1]
    edges = [0, *breaks, len(numbers)]
    return [(numbers[a], numbers[b - 1] + 1) for a, b in pairwise(edges)]


def _split(bounds: Bounds, most: int) -> Iterator[tuple[Place, Place]]:
    """Yield start and stop of boxes of at most `most` chunks: rows are parted first, then columns, then planes."""
    for axis in (1, 2, 0):
        count = prod(end - first for first, end in bounds)
        first, end = bounds[axis]
        if count > most and end - first > 1:
            middle = (first + end) // 2
            for half in ((first, middle), (middle, end)):
                sides = list(bounds)
                sides[axis] = half
                yield from _split((sides[0], sides[1], sides[2]), most)
            return
    (c0, c1), (y0, y1), (x0, x1) = bounds
    yield (c0, y0, x0), (c1, y1, x1)
