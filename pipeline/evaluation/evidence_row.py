"""Define a row of evidence, and the one schema that writes and reads `summary.tsv` and `details.json`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import StatedError
from pipeline.evaluation.aggregates import MEANS
from pipeline.evaluation.bootstrap import UNKNOWN, Interval
from pipeline.evaluation.probe_spec import MARKERS, ProbeSpec

Seen = Literal["", "yes", "no", "some"]

_NAN = math.nan


@dataclass(frozen=True)
class EvidenceRow:
    """One run, probe and target; floats are nan where nothing can be said.

    Attributes:
        run: name of the training; with several seeds, of the first.
        spec: the probe.
        target: a marker or class, or one of `MEANS` over them.
        score: on held-out patches, the mean over seeds; Pearson r is taken within slides and averaged over them.
        within: its 95 % interval.
        difference: score minus the baseline run's.
        difference_within: its 95 % interval, from what each block contributes to it.
        verdict: `helped`, `no difference` or `harmed`; empty for the baseline and where nothing can be said.
        seeds: how many trainings.
        train_patches: patches fitted on.
        test_patches: held-out patches scored.
        test_slides: held-out slides scored.
        seed_low: the lowest score of a seed.
        seed_high: the highest.
        disjoint: whether the intervals of this score and the baseline's share no value, a stricter demand than a
            difference whose interval excludes 0; None for the baseline and where nothing can be said.
        blocks: of held-out tissue on which the target is shown.
        note: why there is no score, interval or verdict; empty where nothing is missing.
        seen: whether the run's training saw the marker on its dense or target branches; empty where nothing tells.
        fewer_labels: by how many times fewer labels than the baseline's all this run needs to reach the baseline's
            full score; 0 where it does not. See `label_efficiency`.
        fewer_labels_within: its 95 % interval.
        r2: explained variance; nan for classes and few labels.
        spearman: rank correlation, averaged as the score is; nan for classes and few labels.
        penalty: the ridge penalty, the median of the seeds'; nan for other probes, few labels and means.
        draw_std: standard deviation of the score over draws of patches to fit on; nan where none are drawn.
        correlation_um: distance from which contributions to the difference, or without one to the score, are unrelated.
        per_slide: the score of each held-out slide that shows the target, for a mean all its targets.
        per_seed: the score of each seed.
        difference_per_seed: its difference to the baseline's same seed; empty for the baseline.
    """

    run: str
    spec: ProbeSpec
    target: str
    score: float
    within: Interval = UNKNOWN
    difference: float = _NAN
    difference_within: Interval = UNKNOWN
    verdict: str = ""
    seeds: int = 1
    train_patches: int = 0
    test_patches: int = 0
    test_slides: int = 0
    seed_low: float = _NAN
    seed_high: float = _NAN
    disjoint: bool | None = None
    blocks: int = 0
    note: str = ""
    seen: Seen = ""
    fewer_labels: float = _NAN
    fewer_labels_within: Interval = UNKNOWN
    r2: float = _NAN
    spearman: float = _NAN
    penalty: float = _NAN
    draw_std: float = _NAN
    correlation_um: float = _NAN
    per_slide: Mapping[str, float] | None = None
    per_seed: tuple[float, ...] = ()
    difference_per_seed: tuple[float, ...] = ()

    @property
    def probe(self) -> str:
        """The name of the probe."""
        return self.spec.name

    @property
    def is_mean(self) -> bool:
        """Whether the row is a mean over targets."""
        return self.target in MEANS

    @property
    def metric(self) -> str:
        """What the score is."""
        return self.spec.mean_metric if self.is_mean else self.spec.metric


def _values(row: EvidenceRow) -> dict[str, Any]:
    """Return what both files tell of a row, by column."""
    return {
        "run": row.run,
        "probe": row.probe,
        "target": row.target,
        "metric": row.metric,
        "score": row.score,
        "low": row.within.low,
        "high": row.within.high,
        "difference": row.difference,
        "difference_low": row.difference_within.low,
        "difference_high": row.difference_within.high,
        "verdict": row.verdict,
        "seeds": row.seeds,
        "train_patches": row.train_patches,
        "test_patches": row.test_patches,
        "test_slides": row.test_slides,
        "seed_low": row.seed_low,
        "seed_high": row.seed_high,
        "disjoint": row.disjoint,
        "blocks": row.blocks,
        "note": row.note,
        "side": row.spec.side,
        "predicts": row.spec.target,
        "kind": row.spec.kind,
        "labels": row.spec.labels,
        "seen": row.seen,
        "fewer_labels": row.fewer_labels,
        "fewer_labels_low": row.fewer_labels_within.low,
        "fewer_labels_high": row.fewer_labels_within.high,
    }


COLUMNS = tuple(_values(EvidenceRow("", ProbeSpec("sparse", MARKERS, "", ""), "", _NAN)))
_DETAILS = ("r2", "spearman", "penalty", "draw_std", "correlation_um", "per_slide", "per_seed", "difference_per_seed")
_REQUIRED: tuple[str, ...] = (
    "run",
    "probe",
    "target",
    "verdict",
    "disjoint",
    "score",
    "low",
    "high",
    "difference",
    "difference_low",
)
_REQUIRED += ("difference_high", "seed_low", "seed_high", "train_patches", "test_patches", "test_slides", "seeds")


def write_summary(path: Path, rows: Iterable[EvidenceRow]) -> None:
    """Write the table as tab-separated text; numbers with four decimals, empty where nothing can be said."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(name, value) for name, value in _values(row).items()] for row in rows)


def details(row: EvidenceRow) -> dict[str, Any]:
    """Return the row as JSON values: null for nan."""
    fields = _values(row) | {name: getattr(row, name) for name in _DETAILS}
    return {name: _json(value) for name, value in fields.items()}


def read_summary(path: Path) -> tuple[EvidenceRow, ...]:
    """Return the rows of a table as `write_summary` writes it; what only the details tell is left at its default.

    Raises:
        StatedError: if the file cannot be read, lacks a column, or holds a word where a number belongs.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise StatedError(file=path, expected="a tab-separated table", found=str(error)) from None
    missing = [name for name in _REQUIRED if lines and name not in lines[0]]
    if missing or not lines:
        found = f"no {', '.join(missing)}" if missing else "no rows"
        raise StatedError(file=path, expected=f"rows with the columns {', '.join(_REQUIRED)}", found=found)
    rows = []
    for number, cells in enumerate(lines, 2):
        try:
            if None in cells.values():
                raise ValueError(f"{sum(value is not None for value in cells.values())} columns")
            rows.append(_row(cells))
        except ValueError as error:
            expected = "words and numbers as evaluate writes them"
            raise StatedError(file=path, expected=expected, found=f"{error} in line {number}") from None
    return tuple(rows)


def _row(cells: Mapping[str, str]) -> EvidenceRow:
    """Return a row of the table; older tables without columns for the probe hold probes of H&E on all labels."""

    def number(name: str) -> float:
        return float(cells.get(name) or "nan")

    metric = cells.get("metric") or "pearson_r"
    metric = {"balanced_accuracy": "recall", "macro_auc": "auc"}.get(metric, metric)
    return EvidenceRow(
        run=cells["run"],
        spec=ProbeSpec(
            side="dense" if cells.get("side") == "dense" else "sparse",
            target=cells.get("predicts") or MARKERS,
            kind=cells.get("kind") or cells["probe"],
            metric=metric,
            labels=int(cells["labels"]) if cells.get("labels", "all") not in ("all", "") else None,
        ),
        target=cells["target"],
        score=number("score"),
        within=Interval(number("low"), number("high")),
        difference=number("difference"),
        difference_within=Interval(number("difference_low"), number("difference_high")),
        verdict=cells["verdict"],
        seeds=int(cells["seeds"]),
        train_patches=int(cells["train_patches"]),
        test_patches=int(cells["test_patches"]),
        test_slides=int(cells["test_slides"]),
        seed_low=number("seed_low"),
        seed_high=number("seed_high"),
        disjoint={"yes": True, "no": False}.get(cells["disjoint"]),
        blocks=int(cells.get("blocks") or 0),
        note=cells.get("note") or "",
        seen=_seen(cells.get("seen") or ""),
        fewer_labels=number("fewer_labels"),
        fewer_labels_within=Interval(number("fewer_labels_low"), number("fewer_labels_high")),
    )


def _seen(text: str) -> Seen:
    known: Sequence[Seen] = ("", "yes", "no", "some")
    for one in known:
        if text == one:
            return one
    raise ValueError(f"seen {text!r:.40}")


def _cell(name: str, value: Any) -> str:
    if name == "labels":
        return "all" if value is None else str(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
