"""Read text that a person wrote; a wrong encoding or a path of another machine is reported with its remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipeline.errors import StatedError

# How files of other kinds begin that are given in place of text.
_BEGINNINGS = {
    b"\xff\xfe": "UTF-16, as Excel's “Unicode text”: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"PK\x03\x04": "a workbook, as of Excel: save it as text with tabs between the cells",
    b"\xd0\xcf\x11\xe0": "a workbook, as of Excel: save it as text with tabs between the cells",
}
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*$")


def read_text(path: Path, *, expected: str) -> str:
    """Return the text of a UTF-8 file, without the mark that some editors begin it with.

    Raises:
        StatedError: if the file cannot be read or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        found = (isinstance(error, OSError) and error.strerror) or str(error)
        mistake = path_mistake(str(path))
        raise StatedError(file=path, expected=expected, found=f"{found}; it {mistake}" if mistake else found) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        known = next((words for start, words in _BEGINNINGS.items() if raw.startswith(start)), "")
        line = raw.count(b"\n", 0, error.start) + 1
        found = known or f"byte {raw[error.start]:#04x} in line {line}, which is not UTF-8: save the file as UTF-8"
        raise StatedError(file=path, expected=expected, found=found) from None


def path_mistake(path: str) -> str:
    """Return what is wrong with the spelling of a path, and its remedy; empty where nothing or where it is there."""
    mistake = _misspelled(path)
    return mistake if mistake and not os.path.lexists(path) else ""


def _misspelled(path: str) -> str:
    if len(path) > 1 and path[0] == path[-1] and path[0] in "\"'":
        return f"is in quotes: write {path[1:-1]}"
    if path.startswith("~"):
        return f"begins with ~, which only a shell understands: write {_home(path)}"
    if path.startswith("file://"):
        return f"is an address: write {path.removeprefix('file://')}"
    if _WINDOWS.match(path):
        return "is spelled as on Windows: write it as this machine does, with / between folders"
    return ""


def _home(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # no such user
        return "the whole path"
