"""Read from the log of a stage how it ended."""

from __future__ import annotations

from pathlib import Path

_ERROR = "error: "
# What a stage says of Ctrl-C, and what Python does while the stage is still being imported.
_INTERRUPTED = ("interrupted", "KeyboardInterrupt")
_MOST_LETTERS = 400
_LAST_BYTES = 2**16


def last_error(log: Path) -> str:
    """Return the last stated error of a log, or the last line of a traceback; empty where there is neither."""
    lines = _last_lines(log)
    stated = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), "")
    if not stated and any(line.startswith("Traceback") for line in lines):
        stated = lines[-1]
    return stated if len(stated) <= _MOST_LETTERS else stated[:_MOST_LETTERS] + "…"


def was_interrupted(log: Path) -> bool:
    """Return whether a stage was ended by Ctrl-C, of which it is no fault."""
    return any(line in _INTERRUPTED for line in _last_lines(log)[-1:])


def _last_lines(log: Path) -> list[str]:
    """Return the last lines of a log that say something; none where there is no log."""
    if not log.is_file():
        return []
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
        lines = [line.strip() for line in stream.read().decode("utf-8", errors="replace").splitlines()]
    return [line for line in lines if line]
