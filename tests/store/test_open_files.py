"""Files stay open between reads: not too many, and closed when their reader is gone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pipeline.store.open_files import OpenFiles


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Five files that hold their numbers."""
    found = [tmp_path / str(number) for number in range(5)]
    for path in found:
        path.write_text(path.name)
    return [str(path) for path in found]


def test_a_file_is_opened_once_and_the_least_recently_read_is_closed_first(paths: list[str]) -> None:
    files, me = OpenFiles(limit=2), object()
    opened: dict[str, int] = {}
    for path in (paths[0], paths[1], paths[0], paths[2]):
        with files.reading(me, path) as file:
            assert opened.setdefault(path, file) == file
            assert os.pread(file, 1, 0).decode() == Path(path).name
    assert len(files) == 2
    with files.reading(me, paths[0]) as file:
        assert file == opened[paths[0]]


def test_a_file_that_is_being_read_is_not_closed(paths: list[str]) -> None:
    files, me = OpenFiles(limit=1), object()
    with files.reading(me, paths[0]) as file:
        for path in paths[1:]:
            with files.reading(me, path):
                pass
        assert os.pread(file, 1, 0) == b"0"
    assert len(files) == 1


def test_what_is_forgotten_is_closed_and_the_files_of_others_are_not(paths: list[str]) -> None:
    files, one, other = OpenFiles(), object(), object()
    for owner in (one, other):
        with files.reading(owner, paths[0]) as file:
            last = file
    files.forget(one)
    assert len(files) == 1
    assert os.pread(last, 1, 0) == b"0"


def test_forgetting_does_not_wait_for_the_lock_that_its_own_thread_may_hold(paths: list[str]) -> None:
    """Readers are forgotten when they are collected as garbage, which happens anywhere, also while a file is opened."""
    files, gone, me = OpenFiles(), object(), object()
    with files.reading(gone, paths[0]):
        pass
    forgetting = threading.Thread(target=files.forget, args=(gone,), daemon=True)
    with files._lock:
        forgetting.start()
        forgetting.join(10)
        assert not forgetting.is_alive()
    with files.reading(me, paths[1]):
        pass
    assert len(files) == 1
