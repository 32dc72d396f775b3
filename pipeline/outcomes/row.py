"""A row of what a run's vectors tell of an outcome, and the schema by which `summary.tsv` is written and read."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import UNKNOWN, Interval

_NAN = math.nan
_TEXTS = ("outcome", "kind", "run", "probe", "measure", "counts", "verdict", "note")
_WHOLE = ("patients", "seeds")


@dataclass(frozen=True)
class OutcomeRow:
    """One outcome, run and probe; floats are nan where nothing can be said.

    Attributes:
        outcome: its name.
        kind: `class`, `number` or `survival`.
        run: name of the training; with several seeds, of the first.
        probe: `mean`, `mean_std`, `prototypes` (linear, on such vectors) or `attention` (on patches).
        measure: `auc` (mean over classes), `pearson_r` or `c_index`.
        patients: of whom the outcome is known.
        counts: how many of each class, or with and without an event, in words; empty for numbers.
        score: of predictions of patients that were not fitted on, the mean over seeds.
        within: its 95 % interval, over patients.
        difference: score minus the baseline run's.
        difference_within: its 95 % interval, over patients, from what each contributes to it.
        verdict: `helped`, `no difference` or `harmed`; empty for the baseline and where nothing can be said.
        seeds: how many trainings.
        seed_low: the lowest score of a seed.
        seed_high: the highest.
        note: why there is no score or interval; empty where nothing is missing.
    """

    outcome: str
    kind: str
    run: str
    probe: str
    measure: str
    patients: int
    counts: str = ""
    score: float = _NAN
    within: Interval = UNKNOWN
    difference: float = _NAN
    difference_within: Interval = UNKNOWN
    verdict: str = ""
    seeds: int = 1
    seed_low: float = _NAN
    seed_high: float = _NAN
    note: str = ""


def _values(row: OutcomeRow) -> dict[str, str | int | float]:
    return {
        "outcome": row.outcome,
        "kind": row.kind,
        "run": row.run,
        "probe": row.probe,
        "measure": row.measure,
        "patients": row.patients,
        "counts": row.counts,
        "score": row.score,
        "low": row.within.low,
        "high": row.within.high,
        "difference": row.difference,
        "difference_low": row.difference_within.low,
        "difference_high": row.difference_within.high,
        "verdict": row.verdict,
        "seeds": row.seeds,
        "seed_low": row.seed_low,
        "seed_high": row.seed_high,
        "note": row.note,
    }


COLUMNS = tuple(_values(OutcomeRow("", "", "", "", "", 0)))


def write_outcomes(path: Path, rows: Iterable[OutcomeRow]) -> None:
    """Write the table as tab-separated text; numbers with four decimals, empty where nothing can be said."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([cell(value) for value in _values(row).values()] for row in rows)


def cell(value: str | int | float) -> str:
    """Return a value as the tables hold it: floats with four decimals, empty where they are nan."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def read_outcome_rows(path: Path) -> tuple[OutcomeRow, ...]:
    """Return the rows of a table as it was written.

    Raises:
        StatedError: if it cannot be read, lacks a column, or holds what is no number where one stands.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream, delimiter="\t"))
        return tuple(_row(line) for line in lines)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise StatedError(file=path, expected="the table that outcomes writes", found=repr(error)) from None


def _row(line: dict[str, str]) -> OutcomeRow:
    numbers = {name: float(line[name] or "nan") for name in COLUMNS if name not in (*_TEXTS, *_WHOLE)}
    return OutcomeRow(
        outcome=line["outcome"],
        kind=line["kind"],
        run=line["run"],
        probe=line["probe"],
        measure=line["measure"],
        patients=int(line["patients"]),
        counts=line["counts"],
        score=numbers["score"],
        within=Interval(numbers["low"], numbers["high"]),
        difference=numbers["difference"],
        difference_within=Interval(numbers["difference_low"], numbers["difference_high"]),
        verdict=line["verdict"],
        seeds=int(line["seeds"]),
        seed_low=numbers["seed_low"],
        seed_high=numbers["seed_high"],
        note=line["note"],
    )
