"""Read from the log of a stage how it ended."""

from __future__ import annotations

from pathlib import Path

_ERROR = "error: "
_MOST_LETTERS = 400
_LAST_BYTES = 2**16


def last_error(log: Path) -> str:
    """Return the last stated error of a log, or the last line of a traceback; empty where there is neither."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
        lines = [line.strip() for line in stream.read().decode("utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    stated = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), "")
    if not stated and any(line.startswith("Traceback") for line in lines):
        stated = lines[-1]
    return stated if len(stated) <= _MOST_LETTERS else stated[:_MOST_LETTERS] + "…"
