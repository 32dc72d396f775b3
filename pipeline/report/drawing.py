"""Drawing many slides at once: decoding, scaling and encoding pictures leave Python to other threads meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")

_SLIDES_AT_ONCE = 4


def drawn_in_order(draw: Callable[[Item], Drawn], items: Iterable[Item]) -> Iterator[Drawn]:
    """What `draw` makes of each item, in order; the pictures of a few slides at a time are in memory."""
    with ThreadPoolExecutor(min(_SLIDES_AT_ONCE, os.cpu_count() or 1)) as pool:
        yield from pool.map(draw, items)
