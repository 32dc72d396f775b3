"""Runs a verb of the command line that meets its end in the middle: `python stopped.py SIGNAL NUMBER VERB …`.

The signal comes when the result of that number, from 1, is whole under its temporary name and about to be renamed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from pipeline import provenance
from pipeline.cli import main


def stop_before_rename(name: str, number: int) -> None:
    """The `number`-th rename of a partial result never comes: the process gets the signal first."""
    replace, exchange, count = Path.replace, provenance._exchange, 0

    def stop(path: Path) -> None:
        nonlocal count
        if path.name.startswith(".") and path.name.endswith(".partial"):
            count += 1
            if count == number:
                os.kill(os.getpid(), getattr(signal, name))
                time.sleep(0.05)

    def stopped_replace(path: Path, target: Path) -> Path:
        stop(path)
        return replace(path, target)

    def stopped_exchange(one: Path, other: Path) -> bool:
        stop(one)
        return exchange(one, other)

    Path.replace = stopped_replace  # type: ignore[method-assign,assignment]
    provenance._exchange = stopped_exchange


if __name__ == "__main__":
    stop_before_rename(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    sys.exit(main())
