"""The sheet of slides: one row per slide, all faults in one error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.elsewhere.address import address_faults, is_elsewhere, is_zarr_address
from pipeline.errors import StatedError
from pipeline.patients import look_alike, patient_name
from pipeline.sheet_columns import column_faults, separator_fault
from pipeline.text_file import path_mistake, read_text

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
# What ends a line for an editor; `str.splitlines` also takes separators that a cell may hold.
_LINE_END = re.compile(r"\r\n|\r|\n")
_REQUIRED = ("slide", "patient", "sparse")
_MPP = ("sparse_mpp", "dense_mpp")
_PATHS = ("sparse", "dense", "transform", "markers", "tissue", "classes")

DENSE_KINDS = ("fluorescence", "brightfield", "mask", "counts", "cells")

Line = tuple[int, list[str]]


@dataclass(frozen=True)
class SheetRow:
    """One slide.

    Attributes:
        slide: unique name.
        patient: patient ID, spelled as `patient_name` spells it.
        sparse: path of the H&E slide, or its address where it lies elsewhere.
        dense: path or address of its dense partner; empty where there is none.
        transform: empty (to be registered), `identity`, or the path of a transform.
        sparse_mpp: um per pixel of the sparse slide, which overrules what the file says; None where not given.
        dense_mpp: the same of the dense slide; of a table of points um per unit of their positions.
        markers: path of a CSV that names the dense channels; empty where there is none.
        dense_kind: `fluorescence`, `brightfield`, `mask`, `counts` or `cells`; empty where the file leaves no doubt.
        tissue: path of a GeoJSON of annotations that say where tissue is or what to leave out; empty: as found.
        classes: path of a table of classes of the slide, which evaluate asks for; empty where there is none.
        sparse_image: name or number (from 0) of the image in the sparse file, where it holds several; empty: the one.
        dense_image: the same of the dense file.
    """

    slide: str
    patient: str
    sparse: str
    dense: str = ""
    transform: str = ""
    sparse_mpp: float | None = None
    dense_mpp: float | None = None
    markers: str = ""
    tissue: str = ""
    dense_kind: str = ""
    classes: str = ""
    sparse_image: str = ""
    dense_image: str = ""

    @property
    def staged(self) -> bool:
        """Whether some image of the row has to be fetched; OME-Zarr is read where it lies."""
        return any(is_elsewhere(place) and not is_zarr_address(place) for place in (self.sparse, self.dense))

    @property
    def files(self) -> tuple[str, ...]:
        """Every path of the row, empty where none is given."""
        return self.sparse, self.dense, self.transform, self.markers, self.tissue, self.classes


_COLUMNS = tuple(item.name for item in fields(SheetRow))


def read_sheet(path: Path) -> tuple[SheetRow, ...]:
    """Return the rows of a tab-separated sheet, in its order.

    The first line that is neither empty nor a comment (`#`) names the columns; empty ones at its end are none.

    Raises:
        StatedError: if the file cannot be read, or naming every fault of the sheet at once with its line number.
    """
    lines = _lines(path)
    if not lines:
        raise StatedError(file=path, expected="a line with the names of the columns", found="no such line")
    (header_line, header), *body = lines
    while len(header) > 1 and not header[-1]:
        # A spreadsheet ends lines with the tabs of columns that were emptied; cells in them are reported as too many.
        header.pop()
    faults = [f"line {header_line}: {fault}" for fault in column_faults(header, _COLUMNS, _REQUIRED)]
    if faults:
        raise StatedError(file=path, expected="a valid sheet", found="; ".join(faults))
    if not body:
        raise StatedError(file=path, expected="at least one slide below the names of the columns", found="none")
    rows = []
    for number, cells in body:
        values = dict.fromkeys(_COLUMNS, "") | dict(zip(header, cells, strict=False))
        values["patient"] = patient_name(values["patient"])
        separator = separator_fault(cells)
        wrong = [separator] if separator else _row_faults(values, extra=cells[len(header) :])
        faults += [f"line {number}: {fault}" for fault in wrong]
        rows.append((number, values))
    faults += _name_faults([(number, values["slide"]) for number, values in rows])
    faults += _patient_faults([(number, values["patient"]) for number, values in rows])
    if faults:
        raise StatedError(file=path, expected="a valid sheet", found="; ".join(faults))
    return tuple(_row(values) for _, values in rows)


def _lines(path: Path) -> list[Line]:
    """Return number (from 1) and stripped cells of every line that says something."""
    text = read_text(path, expected="a readable sheet of slides (UTF-8)")
    # Cells are not quoted in a sheet, so a tab always ends one.
    return [
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in enumerate(_LINE_END.split(text), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def _row_faults(values: Mapping[str, str], extra: Sequence[str]) -> Iterator[str]:
    # Not pydantic: it checks rules between cells only once every cell passes, and all faults are to be named at once.
    if any(extra):
        yield f"more cells than columns: {' '.join(filter(None, extra))!r}"
    if not _NAME.fullmatch(values["slide"]):
        yield f"slide {values['slide']!r} must be made of letters, digits, _ and -, and not begin with -"
    for name in ("patient", "sparse"):
        if not values[name]:
            yield f"{name} is empty"
    for name in _PATHS:
        mistake = path_mistake(values[name])
        if mistake:
            yield f"{name} {values[name]} {mistake}"
    for name in _MPP:
        if values[name] and _positive(values[name]) is None:
            point = values[name].replace(",", ".")
            hint = f" (write {point})" if _positive(point) else ""
            yield f"{name} must be a positive number, not {values[name]!r}{hint}"
    for name in ("transform", "dense_mpp", "markers", "dense_kind", "dense_image"):
        if values[name] and not values["dense"]:
            yield f"{name} is given without a dense slide"
    for name in ("sparse", "dense"):
        if is_elsewhere(values[name]):
            yield from (f"{name}: expected {fault}" for fault in address_faults(values[name]))
    for name in ("transform", "markers", "tissue", "classes"):
        if is_elsewhere(values[name]):
            yield f"{name} must be a path, not an address"
    if values["dense_kind"] and values["dense_kind"] not in DENSE_KINDS:
        yield f"dense_kind must be {', '.join(DENSE_KINDS)} or empty, not {values['dense_kind']!r}"


def _name_faults(names: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield names that repeat or differ by case only: some file systems would give both one result."""
    first: dict[str, tuple[int, str]] = {}
    for number, name in names:
        earlier = first.setdefault(name.lower(), (number, name))
        if earlier[0] != number and name:
            how = "repeats" if earlier[1] == name else f"differs only by case from {earlier[1]!r} of"
            yield f"line {number}: slide {name!r} {how} line {earlier[0]}"


def _patient_faults(patients: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Yield patients whose names look alike: most likely one, whose slides a split would part."""
    first: dict[str, tuple[int, str]] = {}
    for number, name in patients:
        earlier = first.setdefault(look_alike(name), (number, name))
        if earlier[1] != name:
            how = (
                "by case"
                if earlier[1].casefold() == name.casefold()
                else "by zeros, separators or signs that look alike"
            )
            yield (
                f"line {number}: patient {name!r} differs only {how} from {earlier[1]!r} of line {earlier[0]}: "
                "write one patient alike, for a split keeps together what has one name"
            )


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _row(values: Mapping[str, str]) -> SheetRow:
    return SheetRow(
        slide=values["slide"],
        patient=values["patient"],
        sparse=values["sparse"],
        dense=values["dense"],
        transform=values["transform"],
        sparse_mpp=_positive(values["sparse_mpp"]),
        dense_mpp=_positive(values["dense_mpp"]),
        markers=values["markers"],
        tissue=values["tissue"],
        dense_kind=values["dense_kind"],
        classes=values["classes"],
        sparse_image=values["sparse_image"],
        dense_image=values["dense_image"],
    )
