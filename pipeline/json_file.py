"""Read JSON files within bounds and check them against a stated type."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

MAX_BYTES = 2**28

T = TypeVar("T")
# Built once per type: a cohort of thousands of stores is checked by the same one.
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
# What taking a value out of JSON raises where the JSON is of another shape, or the value of another kind; to be caught
# around expressions that do no more than that.
MISFIT = (LookupError, TypeError, ValueError, OverflowError)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is larger than 256 MiB, not UTF-8, not JSON, nested too deeply, or holds a NaN or infinite
            number, which JSON does not know.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes of JSON, more than {MAX_BYTES}")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def read_json_as(path: Path, kind: type[T]) -> T:
    """Return the value of a JSON file as `kind`; see `checked_as` and `read_json` for what is raised."""
    return checked_as(read_json(path), kind)


def checked_as(value: Any, kind: type[T]) -> T:
    """Return a value from outside as `kind`, a dataclass, so that later code can rely on its types.

    Keys that `kind` does not name are ignored.

    Raises:
        ValueError: in one line, which names the first entry that does not fit and its value.
    """
    try:
        checked: T = _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        found = "" if first["type"] == "missing" else f", not {first['input']!r:.80}"
        raise ValueError(f"{where}: {first['msg']}{found}".removeprefix(": ")) from None
    return checked


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text}")
    return value
