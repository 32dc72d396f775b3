"""A file of S3, of Google Cloud Storage or of a zip, read by ranges through fsspec."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.elsewhere.address import without_secrets
from pipeline.elsewhere.source import FileState, UnreadableError, changed, check_packages, options_of, with_package

# What a store says its version by, the surest first.
_VERSION_KEYS = ("ETag", "etag", "VersionId", "generation", "CRC", "md5Hash", "mtime", "LastModified", "updated")
_STORED_PLAIN = 0

T = TypeVar("T")


class StoreSource:
    """A file of S3, Google Cloud Storage or a zip, read by fsspec."""

    def __init__(self, address: str, url: str) -> None:
        fsspec = with_package(address, "fsspec")
        self.address = address
        self.requests = self.bytes_read = 0
        check_packages(address, url)
        self._errors = _errors_of(url)
        self._fs, self._path = self._asked(lambda: fsspec.core.url_to_fs(url, **options_of(url)))
        self.state = self._stated()

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range; see `Source`."""
        stop = min(stop, self.state.size)
        found: bytes = self._asked(lambda: self._fs.cat_file(self._path, start=start, end=stop))
        self.requests += 1
        self.bytes_read += len(found)
        if len(found) != stop - start:
            raise UnreadableError(file=self.address, expected=f"{stop - start} bytes", found=f"{len(found)}")
        return found

    def check_unchanged(self) -> None:
        """Ask for the state again; see `Source`."""
        now = self._stated()
        if now != self.state:
            raise changed(self.address, self.state, now)

    def _stated(self) -> FileState:
        # Stores keep listings, which would tell of the file as it was.
        self._fs.invalidate_cache()
        info: dict[str, Any] = self._asked(lambda: self._fs.info(self._path))
        self.requests += 1
        if info.get("type") == "directory":
            raise UnreadableError(file=self.address, expected="a file", found="a folder")
        if info.get("compress_type", _STORED_PLAIN) != _STORED_PLAIN:
            expected = "a file that its zip keeps without compression (zip -0), so that parts of it can be read"
            raise UnreadableError(file=self.address, expected=expected, found="a compressed one")
        version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
        return FileState(int(info["size"]), " ".join(version.strip('"').split()))

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except FileNotFoundError:
            raise UnreadableError(file=self.address, expected="a file", found="none of this name (404)") from None
        except PermissionError as error:
            found = f"no permission (403): {self._told(error)}"
            expected = "a file that may be read, with credentials from the environment"
            raise UnreadableError(file=self.address, expected=expected, found=found) from None
        except self._errors as error:
            expected = "a file that can be read"
            raise UnreadableError(file=self.address, expected=expected, found=self._told(error)) from None

    def _told(self, error: Exception) -> str:
        return without_secrets(f"{type(error).__name__}: {error}", self.address)


def _errors_of(url: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that the libraries of an address raise, those of cloud libraries included."""
    found: list[type[Exception]] = [OSError, ValueError, KeyError, RuntimeError]
    roots = (("s3://", "botocore.exceptions", "BotoCoreError"), ("gs://", "google.auth.exceptions", "GoogleAuthError"))
    for scheme, module, name in roots:
        if scheme in url:
            found.append(getattr(importlib.import_module(module), name))
    if "zip://" in url:
        found.append(importlib.import_module("zipfile").BadZipFile)
    if "http" in url:
        found.append(importlib.import_module("aiohttp").ClientError)
    return tuple(found)
