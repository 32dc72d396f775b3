"""Keep files open between reads: opening is slow on a network disk, and open files are limited."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A quarter of the 1024 that Linux lets a process open unless told otherwise; macOS begins at 256.
LIMIT = 200


@dataclass
class _Open:
    """An open file and how many reads are under way in it."""

    file: int
    users: int = 0


class OpenFiles:
    """A bounded number of files open for reading, the least recently used closed first; safe among threads.

    Args:
        limit: how many stay open; more are open only while more threads than that read.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[Hashable, str], _Open] = OrderedDict()
        self._forgotten: deque[Hashable] = deque()

    def __len__(self) -> int:
        return len(self._files)

    @contextmanager
    def reading(self, owner: Hashable, path: str) -> Iterator[int]:
        """Return the descriptor of a file, for `os.pread`.

        Args:
            owner: who opens it. Another owner opens the file anew, so that what was written since is seen.
            path: the file.

        Raises:
            OSError: if it cannot be opened.
        """
        opened = self._take((owner, path))
        try:
            yield opened.file
        finally:
            with self._lock:
                opened.users -= 1
                self._trim()

    def forget(self, owner: Hashable) -> None:
        """Close what this owner opened, at the latest after the next read of anyone; it must not be reading.

        Never waits: garbage may be collected, and an owner with it, in the very thread that holds the lock.
        """
        self._forgotten.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._trim()
            finally:
                self._lock.release()

    def _take(self, key: tuple[Hashable, str]) -> _Open:
        with self._lock:
            opened = self._files.get(key)
            if opened is not None:
                self._files.move_to_end(key)
                opened.users += 1
                return opened
        # Opening may take long; others go on meanwhile, and where two opened the same file, the first one's stays.
        file = os.open(key[1], os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            opened = self._files.setdefault(key, _Open(file))
            if opened.file != file:
                os.close(file)
            opened.users += 1
            return opened

    def _trim(self) -> None:
        """Close what was forgotten, then what is too many; who calls holds the lock."""
        while self._forgotten:
            owner = self._forgotten.popleft()
            for key in [key for key in self._files if key[0] == owner]:
                os.close(self._files.pop(key).file)
        if len(self._files) <= self._limit:
            return
        for key in [key for key, opened in self._files.items() if not opened.users]:
            if len(self._files) <= self._limit:
                return
            os.close(self._files.pop(key).file)
