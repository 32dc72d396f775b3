"""Show the progress of long work: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 15.0


def say(text: str) -> None:
    """Print one line on stderr, for what the user should know although nothing fails."""
    # A reader that is gone, as when a cluster ends all processes of a job, is no reason to lose work.
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def progress(
    items: Iterable[T], *, label: str, unit: str, total: int | None = None, units_per_item: int = 1
) -> Iterator[T]:
    """Yield the items, one by one, while stderr tells how far they are.

    Args:
        items: what to go through.
        label: what is being done, in a word or two.
        unit: plural name of an item.
        total: how many there are; taken from `items` where they have a length.
        units_per_item: for items that are batches: how many units one of them is; `total` counts items all the same.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    if count is not None:
        count *= units_per_item
    if sys.stderr.isatty():
        with tqdm(desc=label, unit=f" {unit}", total=count) as bar:
            for item in items:
                yield item
                bar.update(units_per_item)
        return
    start = reported = time.monotonic()
    done = 0
    for number, item in enumerate(items, start=1):
        yield item
        done = number * units_per_item
        now = time.monotonic()
        if now - reported >= SECONDS_BETWEEN_LINES:
            reported = now
            say(_line(label, unit, done, count, now - start))
    say(_line(label, unit, done, count, time.monotonic() - start))


def _line(label: str, unit: str, done: int, total: int | None, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    left = f", {(total - done) / rate:.0f} s left" if total and done and done < total else ""
    return f"{label}: {done}{f'/{total}' if total else ''} {unit}, {rate:.1f}/s{left}"
