"""Drawing many slides at once: decoding, scaling and encoding pictures leave Python to other threads meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")


def drawn_in_order(draw: Callable[[Item], Drawn], items: Iterable[Item], threads: int) -> Iterator[Drawn]:
    """Yield what `draw` makes of each item, in order; the pictures of `threads` slides at a time are in memory."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        yield from pool.map(draw, items)
