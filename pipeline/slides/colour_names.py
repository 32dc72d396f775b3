"""Decide by their names whether separate channels may be the colours of one image."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNNAMED = re.compile(r"(?:c|ch|channel)?[\s:_-]*(?:0:)?\d+", re.IGNORECASE)
_COLOURS = (["r", "g", "b"], ["red", "green", "blue"])


def may_be_colours(names: Sequence[str], dtype: str) -> bool:
    """Return whether three channels of 8 bits are named after the colours, or have no names but numbers."""
    if len(names) != 3 or dtype != "uint8":
        return False
    return all(_UNNAMED.fullmatch(name) for name in names) or [name.lower() for name in names] in _COLOURS
