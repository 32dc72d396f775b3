"""Describe the faults in a sheet's column names and between its cells, with the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

# What people call the columns that sheet and configuration call by other names.
_OTHER_NAMES = {
    "slide": ("sample", "section", "name", "id"),
    "patient": ("case", "donor", "subject"),
    "sparse": ("he", "h&e", "hne", "h_and_e", "brightfield"),
    "dense": ("multiplex", "mif", "mxif", "if", "ihc", "codex", "fluorescence"),
}
_SEPARATORS = {",": "commas", ";": "semicolons", "|": "bars", " ": "spaces"}


def column_faults(header: Sequence[str], known: Sequence[str], required: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with a line that names columns; of an unknown name, the known one that was probably meant."""
    separator = separator_fault(header)
    if separator:
        yield separator
        return
    missing = [name for name in required if name not in header]
    unknown = [name for name in header if name not in known]
    repeated = sorted({name for name in header if header.count(name) > 1})
    if missing:
        yield f"missing column {', '.join(missing)}"
    meant = {name: _meant(name, known) for name in unknown}
    if unknown == list(header) and not any(meant.values()):
        yield f"the first line must name the columns; known are {', '.join(known)}"
        return
    for name, column in meant.items():
        hint = f"did you mean {column}?" if column else f"known are {', '.join(known)}"
        yield f"unknown column {name!r}; {hint}"
    if repeated:
        yield f"repeated column {', '.join(repr(name) for name in repeated)}"


def separator_fault(cells: Sequence[str]) -> str:
    """Return what stands in place of tabs where a line is a single cell that holds several; empty where nothing."""
    if len(cells) > 1:
        return ""
    found = next((word for sign, word in _SEPARATORS.items() if len(cells[0].split(sign)) > 2), "")
    return f"{found} stand between the cells: columns are separated by tabs" if found else ""


def _meant(name: str, known: Sequence[str]) -> str:
    plain = name.strip("\"' ").lower()
    if len(plain.split()) > 1 and set(plain.split()) <= set(known):
        return f"{' and '.join(plain.split())}, with a tab between them"
    other = next((column for column, names in _OTHER_NAMES.items() if plain in names), "")
    near = get_close_matches(plain, known, n=1)
    return other or (near[0] if near else "")
