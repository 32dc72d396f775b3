"""One file that lies elsewhere: its size and version, and ranges of its bytes.

Every answer that names another version than the first one is an error: half of one file and half of another make none.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pipeline.errors import StatedError

INSTALL = "pip install 'more-from-less[remote]'"
_PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
# What the extra leaves out.
_ALONE = {"gcsfs": "pip install gcsfs"}
# A connection that was cut or a server that is busy is asked again after these.
PAUSES_S = (0.5, 2.0, 8.0)

T = TypeVar("T")


@dataclass(frozen=True)
class FileState:
    """What tells a file from the one that takes its place.

    Attributes:
        size: in bytes.
        version: ETag or whatever else the store names a version by; empty where it names none.
    """

    size: int
    version: str

    def __str__(self) -> str:
        return f"{self.size} bytes{f', version {self.version}' if self.version else ''}"


class Source(Protocol):
    """A file elsewhere, open; safe to read from several threads."""

    address: str
    state: FileState
    requests: int
    bytes_read: int

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range that lies within the file.

        Raises:
            StatedError: if it cannot be read, or if the file changed since it was opened.
        """
        ...

    def check_unchanged(self) -> None:
        """Raise StatedError if the file changed since it was opened."""
        ...


class UnreadableError(StatedError):
    """A file elsewhere that cannot be read."""


class TryAgainError(Exception):
    """A failure that may pass: a cut connection, a busy server."""


def with_package(address: str, name: str) -> Any:
    """Return a package of the extra `remote`; StatedError with the command that installs it where it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        raise StatedError(
            file=address, expected=f"the package {name}: {_ALONE.get(name, INSTALL)}", found="none"
        ) from None


def check_packages(address: str, url: str) -> None:
    """Raise StatedError with the command that installs it, where a package that an address needs is missing."""
    with_package(address, "fsspec")
    for part in url.lower().split("::"):
        name = _PACKAGES.get(part.partition("://")[0])
        if name:
            with_package(address, name)


def options_of(url: str) -> dict[str, Any]:
    """Return fsspec's options for an address: a .netrc and the proxies of the environment count."""
    scheme = url.rpartition("::")[2].partition("://")[0].lower()
    if scheme not in ("http", "https"):
        return {}
    options: dict[str, Any] = {"client_kwargs": {"trust_env": True}}
    # Sets the block size: the default read-ahead fetches five megabytes for a header.
    return {scheme: options | {"block_size": 2**18}} if "::" in url else options


def patiently(read: Callable[[], T], address: str) -> T:
    """Return what `read` does, asked again a few times where it fails for a moment.

    Raises:
        UnreadableError: if the last attempt fails as well.
    """
    for pause in (*PAUSES_S, None):
        try:
            return read()
        except TryAgainError as error:
            if pause is None:
                found = f"{error}, after {len(PAUSES_S) + 1} attempts"
                raise UnreadableError(file=address, expected="a file that can be read", found=found) from None
            time.sleep(pause)
    raise AssertionError


def changed(address: str, then: FileState, now: FileState) -> StatedError:
    """Return the error for a file that is another one by now."""
    return StatedError(file=address, expected=f"the file as opened, {then}", found=f"{now}: it changed")
