"""Write the sheet of a new cohort: a row per slide, doubts above it; a row that cannot run is a comment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.patients import look_alike
from pipeline.tools.init.names import Patients, unique_names
from pipeline.tools.init.pairs import Proposal
from pipeline.tools.init.recognise import Recognised

_HEAD = (
    "# Written by init: one row per slide, cells separated by tabs.",
    "# sparse is the H&E file, dense its multiplex partner. Every column: config/README.md of more-from-less.",
)
_EACH_A_PATIENT = (
    "# Each slide counts as a separate patient: give the slides of one patient one name, so that a split keeps them "
    "together."
)
_COLUMNS = ("slide", "patient", "sparse", "dense", "dense_kind")
# A cell ends at these, and Snakemake takes braces for wildcards.
_NOT_IN_A_PATH = re.compile(r"[\t\r\n{}]")


@dataclass(frozen=True)
class Row:
    """One line of the sheet.

    Attributes:
        slide: its name.
        patient: patient ID; the slide's name where no pattern says so.
        proposal: its files.
        needs: what a person must add before it can run; the row is then written as a comment. Empty: it runs.
        doubts: what a person should look at.
    """

    slide: str
    patient: str
    proposal: Proposal
    needs: str
    doubts: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the row is more than a comment."""
        return not self.needs


def rows_of(proposals: Sequence[Proposal], patients: Patients) -> list[Row]:
    """Return the rows, in order, each patient in one spelling: that of its first slide."""
    spelling: dict[str, str] = {}
    rows = []
    for proposal, name in zip(proposals, unique_names(item.sparse.path for item in proposals), strict=True):
        found = patients.of(proposal.sparse.path, proposal.sparse.place)
        patient = spelling.setdefault(look_alike(found or name), found or name)
        doubts = [proposal.doubt] if proposal.doubt else []
        if patients.pattern and found is None:
            doubts.append(f"--patient-regex finds no patient in {proposal.sparse.path.name}: check the column patient")
        rows.append(Row(name, patient, proposal, "; ".join(_needs(proposal)), tuple(doubts)))
    return rows


def _needs(proposal: Proposal) -> Iterator[str]:
    for item in (proposal.sparse, proposal.dense):
        if item is not None and _NOT_IN_A_PATH.search(str(item.path)):
            yield f"a path without tabs, line ends and braces is needed, found {str(item.path)!r}"
        elif item is not None and item.needs:
            yield f"{item.path.name}: {item.needs}"


def sheet_text(rows: Sequence[Row], alone: Sequence[Recognised], folder: Path, *, knows_patients: bool) -> str:
    """Return the text of the sheet.

    Args:
        rows: to write.
        alone: dense files without a partner, which are named in comments.
        folder: of the cohort, which paths are relative to; those that lie elsewhere are absolute.
        knows_patients: whether a pattern named the patients.
    """
    kinds = any(row.proposal.dense and row.proposal.dense.dense_kind for row in rows)
    columns = _COLUMNS if kinds else _COLUMNS[:4]
    lines = list(_HEAD)
    if not knows_patients:
        lines.append(_EACH_A_PATIENT)
    lines.append("\t".join(columns))
    for row in rows:
        lines += [f"# {_line(row.slide)}: {_line(doubt)}" for doubt in row.doubts]
        if row.needs:
            lines.append(f"# {_line(row.slide)} cannot run yet, {_line(row.needs)}; then take the # from its row:")
        cells = "\t".join(_cells(row, folder)[: len(columns)]).rstrip()
        lines.append(cells if row.runs else f"#{cells}")
    lines += [f"# no H&E for {_line(path_in(item.path, folder))}" for item in alone]
    return "\n".join(lines) + "\n"


def path_in(path: Path, folder: Path) -> str:
    """Return a path as the sheet names it: relative below the cohort's folder, else absolute; links stay."""
    absolute, root = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100
    return (absolute.relative_to(root) if absolute.is_relative_to(root) else absolute).as_posix()


def _cells(row: Row, folder: Path) -> list[str]:
    dense = row.proposal.dense
    there = [path_in(dense.path, folder), dense.dense_kind] if dense else ["", ""]
    return [_line(cell) for cell in (row.slide, row.patient, path_in(row.proposal.sparse.path, folder), *there)]


def _line(text: str) -> str:
    return " ".join(re.split(r"[\t\r\n]+", text))
