"""Name the dense channels: by the file, corrected by an optional CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import StatedError

_COLUMNS = ["channel", "marker"]
# Of thousands of genes an error lists the first.
_MOST_LISTED = 64


def named_channels(channels: Sequence[str], markers: Path | None, *, file: Path) -> tuple[str, ...]:
    """Return the channels under their final names, each of which occurs once.

    Args:
        channels: names in the file.
        markers: CSV with the columns `channel` (name, or index from 0) and `marker`; channels that it does not list
            keep their names.
        file: the image, for errors.

    Raises:
        StatedError: naming every unknown or twice listed channel, and names that repeat.
    """
    names = list(channels)
    for index, marker in _listed(channels, markers).items() if markers else ():
        names[index] = marker
    _check_unique(names, markers or file)
    return tuple(names)


def chosen_channels(
    channels: Sequence[str], markers: Path | None, *, file: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those channels that a CSV as of `named_channels` lists, in its order, and their names; all without one.

    Raises:
        StatedError: as `named_channels` does, and where the CSV lists none.
    """
    listed = _listed(channels, markers) if markers else dict(enumerate(channels))
    if not listed:
        raise StatedError(file=markers or file, expected="a line for each channel to take", found="none")
    _check_unique(list(listed.values()), markers or file)
    return tuple(channels[index] for index in listed), tuple(listed.values())


def _listed(channels: Sequence[str], markers: Path) -> dict[int, str]:
    """Return by index the names that a CSV gives channels, in its order."""
    faults: list[str] = []
    found: dict[int, str] = {}
    for line, channel, marker in _read(markers):
        index = _index(channel, channels)
        if index is None:
            faults.append(f"line {line}: channel {channel!r}")
        elif not marker or index in found:
            faults.append(f"line {line}: {'no marker' if not marker else 'again'} for channel {channel!r}")
        else:
            found[index] = marker
    if faults:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(channels[:_MOST_LISTED]))
        more = f" and {len(channels) - _MOST_LISTED} others" if len(channels) > _MOST_LISTED else ""
        expected = f"each channel at most once, of {listed}{more}"
        raise StatedError(file=markers, expected=expected, found="; ".join(faults))
    return found


def _check_unique(names: Sequence[str], file: Path) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise StatedError(
            file=file,
            expected="a different name for each channel (a markers CSV can rename them by index)",
            found=f"{', '.join(repr(name) for name in repeated)} more than once",
        )


def _read(path: Path) -> list[tuple[int, str, str]]:
    """Return line number, channel and marker of each row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(x.strip() for x in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StatedError(file=path, expected="a readable CSV of markers", found=str(error)) from None
    if not rows or rows[0][1] != _COLUMNS:
        raise StatedError(
            file=path, expected="a first line channel,marker", found=",".join(rows[0][1]) if rows else "no line"
        )
    wrong = [f"{len(row)} in line {line}" for line, row in rows[1:] if len(row) != 2]
    if wrong:
        raise StatedError(file=path, expected="two cells in each line", found="; ".join(wrong))
    return [(line, row[0], row[1]) for line, row in rows[1:]]


def _index(channel: str, channels: Sequence[str]) -> int | None:
    """Return which channel is meant: by a name that occurs once, else by its index."""
    if channels.count(channel) == 1:
        return channels.index(channel)
    index = _whole(channel)
    if index is not None and index < len(channels):
        return index
    return None


def _whole(text: str) -> int | None:
    """Return the whole number that a text is; None for what is none, or has more digits than any index or label.

    Python itself refuses to read thousands of digits.
    """
    return int(text) if text.isdecimal() and len(text) < 10 else None


def named_labels(markers: Path, *, largest: int, most: int) -> tuple[tuple[int, str], ...]:
    """Label and class of each line of a CSV `channel,marker` that describes a mask, in its order.

    Raises:
        StatedError: naming every label that is not a whole number up to `largest` and every label or class that is
            missing or repeats, or if there are more than `most` classes or none.
    """
    classes: list[tuple[int, str]] = []
    faults: list[str] = []
    for line, label, name in _read(markers):
        number = _whole(label)
        if number is None or number > largest or number in (other for other, _ in classes):
            faults.append(f"line {line}: label {label!r}")
        elif not name or name in (other for _, other in classes):
            faults.append(f"line {line}: class {name!r}")
        else:
            classes.append((number, name))
    if faults or not 0 < len(classes) <= most:
        raise StatedError(
            file=markers,
            expected=f"each label (0 to {largest}) and each class once, at most {most} of them",
            found="; ".join(faults) or f"{len(classes)}",
        )
    return tuple(classes)
