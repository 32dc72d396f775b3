"""The bytes of one file that lies elsewhere, written to disk; what is there of an earlier attempt is not asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pipeline.elsewhere.source import Source
from pipeline.errors import StatedError
from pipeline.progress import progress

PIECE_BYTES = 8 * 2**20
_MB = 10**6


def fetch(source: Source, part: Path, *, connections: int, label: str) -> None:
    """Complete a file on disk that holds the first bytes of a source, or none.

    Args:
        source: the file elsewhere, in the version that the bytes on disk are of.
        part: where its bytes are kept; stays as far as it came if this fails.
        connections: ranges that are asked for at once.
        label: what progress is called.

    Raises:
        StatedError: if a range cannot be read, or the file changes meanwhile.
    """
    size = source.state.size
    start = part.stat().st_size if part.exists() else 0
    if start > size:
        raise StatedError(file=part, expected=f"at most {size} bytes of {source.address}", found=f"{start}")
    count = -(-(size - start) // PIECE_BYTES)
    with part.open("ab") as stream, ThreadPoolExecutor(connections) as readers:
        pieces = _pieces(source, start, connections, readers)
        for piece in progress(pieces, label=label, unit="MB", total=count, units_per_item=round(PIECE_BYTES / _MB)):
            stream.write(piece)
    source.check_unchanged()


def _pieces(source: Source, start: int, connections: int, readers: ThreadPoolExecutor) -> Iterator[bytes]:
    """Yield the pieces of a file in order while the next ones are read; few are in memory at a time."""
    places = iter(range(start, source.state.size, PIECE_BYTES))
    pending: deque[Future[bytes]] = deque()

    def ask() -> None:
        for place in places:
            pending.append(readers.submit(source.read, place, min(place + PIECE_BYTES, source.state.size)))
            break

    try:
        for _ in range(connections):
            ask()
        while pending:
            data = pending.popleft().result()
            ask()
            yield data
    finally:
        for future in pending:
            future.cancel()
