"""HDF5 files: a full disk while writing is an error and no crash, and damage while reading is not taken for our bug."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

# What h5py raises on files that are damaged or of another layout; to be caught around its calls only.
HDF5_ERRORS = (OSError, KeyError, ValueError, RuntimeError, TypeError)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return the dataset of that name.

    Raises:
        KeyError: if there is none.
        ValueError: if it is a group.
    """
    if name not in file:
        raise KeyError(f"no dataset {name}")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{name} is not a dataset")
    return item


@contextmanager
def written_hdf5(path: Path) -> Iterator[h5py.File]:
    """Return a new HDF5 file to fill.

    Raises:
        OSError: when it is closed, if it could not be written.
    """
    with checked_hdf5(path) as (file, _):
        yield file


@contextmanager
def checked_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Return a new HDF5 file to fill, and what tells meanwhile whether all could be written so far.

    HDF5 cannot close a file that it fails to write: it tries again at the end of the process and crashes there. So it
    never hears of a failure; the first one is raised by the check and here.

    Raises:
        OSError: when it is closed, if it could not be written.
    """
    with path.open("w+b") as stream:
        guarded = _Guarded(stream)
        try:
            with h5py.File(guarded, "w") as file:
                yield file, guarded.check
        except HDF5_ERRORS:
            # What was not written reads back as anything; what HDF5 says of that is not the cause.
            guarded.check()
            raise
        guarded.flush()
        guarded.check()


class _Guarded:
    """A file, as h5py asks for it, that keeps the first failure to write and drops what comes after it."""

    def __init__(self, stream: io.BufferedRandom) -> None:
        self._stream = stream
        self._failure: OSError | None = None

    def check(self) -> None:
        """Raise the failure, where there was one."""
        if self._failure is not None:
            raise self._failure

    def write(self, data: memoryview) -> int:
        """Write the bytes; returns how many they are, whether they could be written or not."""
        self._attempt(lambda: self._stream.write(data))
        return data.nbytes

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from the file."""
        return self._stream.readinto(buffer) if self._failure is None else 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, from the end where `whence` says so."""
        self._attempt(lambda: self._stream.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes; h5py asks for `readinto`, but takes a file for one by this."""
        return self._stream.read(size)

    def truncate(self, size: int) -> int:
        """Set the file's size."""
        self._attempt(lambda: self._stream.truncate(size))
        return size

    def flush(self) -> None:
        """Write out what is buffered."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        """Do it, unless something failed before."""
        if self._failure is None:
            try:
                act()
            except OSError as error:
                self._failure = error
