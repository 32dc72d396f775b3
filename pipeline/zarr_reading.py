"""Turn whatever zarr-python raises on damaged Zarr into one kind of error."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

# Broken metadata: ValueError; TypeError or KeyError for a missing entry, AttributeError where a number takes the place
# of a mapping, IndexError where shapes do not match. Broken chunks: RuntimeError, and what Python's own decoders raise.
_RAISED_BY_ZARR = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, EOFError, zlib.error,
    lzma.LZMAError,
)  # fmt: skip


@contextmanager
def reading_zarr() -> Iterator[None]:
    """Turn what zarr-python raises within the block into a ValueError; only its own calls belong there.

    Raises:
        ValueError: in one line, for metadata or chunks that cannot be read.
    """
    try:
        yield
    except _RAISED_BY_ZARR as error:
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from None
