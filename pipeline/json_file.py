"""JSON from a file that somebody may have damaged or made up: what it cannot be is told as one kind of error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 2**28

# What taking a value out of JSON raises where the JSON is of another shape, or the value of another kind; to be caught
# around expressions that do no more than that.
MISFIT = (LookupError, TypeError, ValueError, OverflowError)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger than 256 MiB, no UTF-8, no JSON, nested too deeply, or holds a number that is not
            finite, which JSON does not know.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes of JSON, more than {MAX_BYTES}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"the number {word}")
    return value
