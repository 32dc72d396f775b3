"""Room for fetched slides: a bound on what lies in their folder, kept by all processes that fetch into it."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.settings import StagingSettings

# Of slides that are being fetched, below the folder of those that are whole.
PARTS = ".parts"
_RESERVED = "reserved.json"
_GB = 1e9
_PAUSE_S = 5.0
_BETWEEN_LINES_S = 60.0


@contextmanager
def room_for(staged: Path, slide: str, size: int, settings: StagingSettings) -> Iterator[Path]:
    """Wait until there is room for a slide, and give the folder that its parts are kept in.

    What an earlier attempt left there is left to whoever fetches.

    Args:
        staged: folder of the fetched slides.
        slide: name of the slide.
        size: its bytes, when fetched.
        settings: with the bound.

    Raises:
        StatedError: if the slide is larger than the bound, another process fetches the same one, or there is no room
            in time.
    """
    if size > settings.max_gb * _GB:
        found = f"a slide of {size / _GB:.3g} GB"
        raise StatedError(slide=slide, expected=f"at most staging.max_gb, {settings.max_gb:g} GB", found=found)
    parts = staged / PARTS / slide
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / _RESERVED).open("a+", encoding="utf-8") as mine:
        if not _locked(mine):
            raise StatedError(slide=slide, file=parts, expected="one process that fetches it", found="another one")
        began, told = time.monotonic(), float("-inf")
        while not _reserved(staged, parts, size, mine, settings.max_gb):
            now = time.monotonic()
            if now - told >= _BETWEEN_LINES_S:
                told = now
                say(f"stage {slide}: waits for {size / _GB:.3g} GB of room; {_taken(staged, parts) / _GB:.3g} GB taken")
            if now - began > settings.max_wait_h * 3600:
                expected = f"room for {size / _GB:.3g} GB within staging.max_gb, {settings.max_gb:g} GB"
                found = f"{_taken(staged, parts) / _GB:.3g} GB taken for {settings.max_wait_h:g} h"
                raise StatedError(slide=slide, file=staged, expected=expected, found=found)
            time.sleep(_PAUSE_S)
        yield parts


def _reserved(staged: Path, parts: Path, size: int, mine: IO[str], max_gb: float) -> bool:
    """Reserve room, if there is any; no two processes look at the same time."""
    with (staged / PARTS / ".lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if _taken(staged, parts) + size > max_gb * _GB:
            return False
        mine.truncate(0)
        mine.write(json.dumps({"bytes": size}))
        mine.flush()
        return True


def _taken(staged: Path, own: Path) -> int:
    """Return bytes of whole slides, of what is being fetched when it will be whole, and of what was left behind."""
    whole = [item for item in staged.iterdir() if item.is_dir() and item.name != PARTS]
    taken = sum(_size(folder) for folder in whole)
    for parts in (staged / PARTS).iterdir():
        if parts != own and parts.is_dir():
            taken += max(_size(parts), _promised(parts / _RESERVED))
    return taken


def _promised(path: Path) -> int:
    """Return what a process reserved that still fetches; 0 of one that is gone."""
    try:
        with path.open(encoding="utf-8") as stream:
            if _locked(stream):
                return 0
            return int(json.loads(stream.read() or "{}").get("bytes", 0))
    except (OSError, ValueError):
        # Removed meanwhile, or being written: the next look tells.
        return 0


def _locked(stream: IO[str]) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(folder: Path) -> int:
    found = 0
    for item in folder.rglob("*"):
        try:
            found += item.stat().st_size
        except FileNotFoundError:
            # Removed since it was listed.
            continue
    return found


def clear(parts: Path) -> None:
    """Remove the folder of parts of a slide that is whole."""
    shutil.rmtree(parts)
