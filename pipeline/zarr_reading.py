"""Turn whatever zarr-python raises on damaged Zarr into one kind of error."""

from __future__ import annotations

import lzma
import sys
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
    except _raised() as error:
        raise ValueError(" ".join(f"{type(error).__name__}: {error}".split())) from None


def _raised() -> tuple[type[Exception], ...]:
    """Return what zarr raises, and the libraries of stores elsewhere, of those that are in use."""
    roots = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
    return _RAISED_BY_ZARR + tuple(getattr(sys.modules[name], root) for name, root in roots if name in sys.modules)
