"""The table of patients: what is known of each, checked before anything is computed.

Read with the standard library only, since the Snakefile checks it when it plans.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NoReturn

from pipeline.errors import StatedError
from pipeline.patients import look_alike, patient_name
from pipeline.settings import OutcomesSettings

Kind = Literal["class", "number", "survival"]

PATIENT_COLUMN = "patient"
_MOST_NAMES = 5  # in one message
# What programs write for a number that is none; in a table made by hand it is a mistake or stands for an empty cell.
_NO_VALUES = ("nan", "na", "n/a", "null", "inf", "-inf")


@dataclass(frozen=True)
class Outcome:
    """What is known of patients in one respect.

    Attributes:
        name: the column, or the name of the survival.
        kind: `class`, `number` or `survival`.
        classes: class by patient; empty for other kinds.
        numbers: number by patient, of survival the time.
        events: of survival by patient, whether the event was seen; empty for other kinds.
    """

    name: str
    kind: Kind
    classes: Mapping[str, str]
    numbers: Mapping[str, float]
    events: Mapping[str, bool]

    @property
    def patients(self) -> tuple[str, ...]:
        """The patients of whom it is known, in the table's order."""
        return tuple(self.classes or self.numbers)


def read_outcomes(path: Path, settings: OutcomesSettings, patients: Collection[str]) -> tuple[Outcome, ...]:
    """Return what the table says of the patients, in the order of the settings.

    Args:
        path: the table.
        settings: which columns hold what.
        patients: all that have a slide.

    Raises:
        StatedError: if the table cannot be read, lacks a column, names a patient twice or one without a slide, lacks
            one with a slide, or holds what is no class, number, time or event; if a class has one patient, a column
            of numbers one value, or a survival no two events.
    """
    table = _Table.read(path)
    table.check_patients(patients)
    found = [table.classes(name) for name in settings.classes]
    found += [table.numbers(name) for name in settings.numbers]
    found += [table.survival(name, *columns) for name, columns in settings.survival.items()]
    return tuple(found)


@dataclass(frozen=True)
class _Table:
    """A table that is being read: `rows` holds line number and cells by column."""

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[tuple[int, Mapping[str, str]]]

    @classmethod
    def read(cls, path: Path) -> _Table:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            found = (isinstance(error, OSError) and error.strerror) or str(error)
            raise StatedError(file=path, expected="a readable table of patients (UTF-8)", found=found) from None
        delimiter = "\t" if path.suffix.lower() in (".tsv", ".txt") else ","
        try:
            lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise StatedError(file=path, expected="a table of patients", found=str(error)) from None
        filled = [
            (number, [cell.strip() for cell in cells]) for number, cells in enumerate(lines, start=1) if any(cells)
        ]
        header = filled[0][1] if filled else []
        if PATIENT_COLUMN not in header or len(set(header)) < len(header):
            expected = f"a first line of different names of columns, separated by {delimiter!r}, {PATIENT_COLUMN} among"
            raise StatedError(file=path, expected=f"{expected} them", found=", ".join(header) or "none")
        for number, cells in filled[1:]:
            if len(cells) != len(header):
                expected, found = f"{len(header)} cells in line {number}, as in the first", str(len(cells))
                raise StatedError(file=path, expected=expected, found=found)
        rows = [(number, dict(zip(header, cells, strict=True))) for number, cells in filled[1:]]
        for _, row in rows:
            row[PATIENT_COLUMN] = patient_name(row[PATIENT_COLUMN])
        return cls(path, tuple(header), rows)

    def check_patients(self, patients: Collection[str]) -> None:
        """Raise StatedError unless each patient with a slide has one line, and no other one has."""
        first: dict[str, int] = {}
        for number, row in self.rows:
            earlier = first.setdefault(look_alike(row[PATIENT_COLUMN]), number)
            if earlier != number:
                self._refuse("one line for each patient", f"{row[PATIENT_COLUMN]} in lines {earlier} and {number}")
        named = [row[PATIENT_COLUMN] for _, row in self.rows]
        unknown = [name for name in named if name not in patients]
        if unknown:
            near = get_close_matches(unknown[0], list(patients), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self._refuse("patients that have a slide", f"{_some(unknown)} without one{hint}")
        absent = sorted(set(patients) - set(named))
        if absent:
            self._refuse("a line for each patient of the sheet, with empty cells for what is not known", _none(absent))

    def classes(self, column: str) -> Outcome:
        known = {row[PATIENT_COLUMN]: row[column] for _, row in self._filled(column)}
        counts = Counter(known.values())
        if len(counts) < 2:
            self._refuse(f"two or more classes in column {column}", ", ".join(counts) or "none")
        single = sorted(name for name, count in counts.items() if count == 1)
        if single:
            owner = next(patient for patient, name in known.items() if name == single[0])
            self._refuse(f"two or more patients of each class in column {column}", f"{single[0]} of {owner} alone")
        return Outcome(column, "class", known, {}, {})

    def numbers(self, column: str) -> Outcome:
        known = {row[PATIENT_COLUMN]: self._number(number, row, column) for number, row in self._filled(column)}
        if len(set(known.values())) < 2:
            found = ", ".join(f"{value:g}" for value in set(known.values())) or "none"
            self._refuse(f"two or more different numbers in column {column}", found)
        return Outcome(column, "number", {}, known, {})

    def survival(self, name: str, time: str, event: str) -> Outcome:
        times, events = {}, {}
        either = {number: row for column in (time, event) for number, row in self._filled(column)}
        for number, row in sorted(either.items()):
            patient = row[PATIENT_COLUMN]
            if not (row[time] and row[event]):
                given = time if row[time] else event
                self._refuse(f"{time} and {event}, or neither, in line {number}", f"{given} of {patient} alone")
            times[patient] = self._number(number, row, time)
            if times[patient] < 0:
                self._refuse(f"a time from 0 in column {time}", f"{row[time]} of {patient} in line {number}")
            if row[event] not in ("0", "1"):
                self._refuse(f"0 or 1 in column {event}", f"{row[event]} of {patient} in line {number}")
            events[patient] = row[event] == "1"
        if sum(events.values()) < 2:
            self._refuse(f"two or more events (1) in column {event}", str(sum(events.values())))
        return Outcome(name, "survival", {}, times, events)

    def _filled(self, column: str) -> list[tuple[int, Mapping[str, str]]]:
        """Return the lines in which a column says something."""
        if column not in self.columns or column == PATIENT_COLUMN:
            near = get_close_matches(column, self.columns, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self._refuse(f"the column {column}, which the section outcomes names", f"{', '.join(self.columns)}{hint}")
        for number, row in self.rows:
            if row[column].lower() in _NO_VALUES:
                expected = f"a value or an empty cell in column {column}"
                self._refuse(expected, f"{row[column]} of {row[PATIENT_COLUMN]} in line {number}")
        return [(number, row) for number, row in self.rows if row[column]]

    def _number(self, line: int, row: Mapping[str, str], column: str) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            found = f"{row[column]} of {row[PATIENT_COLUMN]} in line {line}"
            self._refuse(f"numbers or empty cells in column {column}", found)
        return value

    def _refuse(self, expected: str, found: str) -> NoReturn:
        raise StatedError(file=self.path, expected=expected, found=found)


def _none(names: Sequence[str]) -> str:
    return f"none of {_some(names)}"


def _some(names: Sequence[str]) -> str:
    """Return the names, of many the first."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}"
