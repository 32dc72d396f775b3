"""A file elsewhere as a stream: blocks that were read are kept, and what is read next is fetched with them.

Readers of TIFF jump back and forth between directories and small values; the stream makes few requests of that.
"""

from __future__ import annotations

import io
from collections import OrderedDict

from pipeline.elsewhere.source import Source

BLOCK_BYTES = 2**16
_KEPT_BYTES = 64 * 2**20


class ReadAhead(io.RawIOBase):
    """A binary stream that can be sought in, over ranges of a source.

    Args:
        source: the file.
        name: what libraries call it.
    """

    def __init__(self, source: Source, name: str) -> None:
        super().__init__()
        self.name = name
        self._source, self._at = source, 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which may lie beyond the end, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.state.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative position {start + offset}")
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes from here, all to the end where it is negative or None."""
        end = self._source.state.size
        stop = end if size is None or size < 0 else min(end, self._at + size)
        if stop <= self._at:
            return b""
        first, last = self._at // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        self._fetch(first, last)
        data = b"".join(self._blocks[i] for i in range(first, last + 1))
        found = data[self._at - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]
        self._at = stop
        while len(self._blocks) * BLOCK_BYTES > _KEPT_BYTES:
            self._blocks.popitem(last=False)
        return found

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from here; returns how many bytes there were."""
        # Arrays of larger items come as well.
        into = memoryview(buffer).cast("B")
        found = self.read(len(into))
        into[: len(found)] = found
        return len(found)

    def _fetch(self, first: int, last: int) -> None:
        """Read the blocks from `first` to `last` that are not kept, those side by side at once."""
        missing = [i for i in range(first, last + 1) if i not in self._blocks]
        for i in range(first, last + 1):
            if i in self._blocks:
                self._blocks.move_to_end(i)
        while missing:
            run = [missing.pop(0)]
            while missing and missing[0] == run[-1] + 1:
                run.append(missing.pop(0))
            data = self._source.read(run[0] * BLOCK_BYTES, (run[-1] + 1) * BLOCK_BYTES)
            for i, block in enumerate(run):
                self._blocks[block] = data[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES]
