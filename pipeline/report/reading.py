"""Read the results of a cohort for the report: whatever exists, by the contract's paths."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.evaluation.evidence_row import read_summary
from pipeline.json_file import read_json, read_json_as
from pipeline.outcomes.row import read_outcome_rows
from pipeline.panel.panel_file import read_panel_check
from pipeline.report.results import PICTURES, FoldSummary, Registration, Results, SlideResults
from pipeline.sheet import SheetRow, read_sheet
from pipeline.slides.record import read_record
from pipeline.splitting.table import read_split_table
from pipeline.store.patch_store import PatchStore


@dataclass(frozen=True)
class _Fold:
    slides: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()


@dataclass(frozen=True)
class _SplitFile:
    by: str = ""
    note: str = ""
    folds: dict[str, _Fold] = field(default_factory=dict)


@dataclass(frozen=True)
class _HeldOut:
    patient: str
    blocks: int


@dataclass(frozen=True)
class _Details:
    held_out: dict[str, _HeldOut] = field(default_factory=dict)


def read_results(results: Path, sheet: Path, embedding: str) -> Results:
    """Return everything the report shows, except pixels and features, which are read when they are drawn.

    Args:
        results: the results folder.
        sheet: the sheet of slides.
        embedding: name of the embedding to map.

    Raises:
        StatedError: if the sheet or one of the files that are there cannot be read.
    """
    rows = read_sheet(sheet)
    pairs, folds = _pairs(results / "split" / "patches.tsv")
    embedded = results / "embed" / embedding
    names = [row.slide for row in rows]
    vectors = embedded / "slides.parquet"
    summary = results / "evaluate" / "summary.tsv"
    answers = results / "outcomes" / "summary.tsv"
    tested = _tested(results / "evaluate" / "details.json")
    return Results(
        slides=tuple(_slide(results, row, pairs, folds) for row in rows),
        split=_split(results / "split" / "split.json"),
        curves=_curves(results / "train"),
        evidence=read_summary(summary) if summary.is_file() else (),
        baseline=_baseline(results / "evaluate" / "details.json"),
        outcomes=read_outcome_rows(answers) if answers.is_file() else (),
        outcome_baseline=_baseline(results / "outcomes" / "details.json"),
        features={name: path for name in names if (path := embedded / f"{name}.h5").is_file()},
        vectors=vectors if vectors.is_file() else None,
        predictions={
            name: folder
            for name in names
            if (folder := results / "predict" / embedding / name) and (folder / "markers.json").is_file()
        },
        retrieval=_retrieval(results / "evaluate" / "details.json"),
        controls=_controls(results / "train"),
        blocks=sum(slide.blocks for slide in tested),
        patients=len({slide.patient for slide in tested}),
        embedding=embedding,
    )


def _slide(
    results: Path, row: SheetRow, pairs: Mapping[str, int] | None, folds: Mapping[str, tuple[int, ...]]
) -> SlideResults:
    name = row.slide
    check = results / "panel" / f"{name}.json"
    record, store = results / "inspect" / f"{name}.json", results / "tile" / f"{name}.zarr"
    return SlideResults(
        slide=name,
        patient=row.patient,
        has_dense=bool(row.dense),
        record=read_record(record) if record.is_file() else None,
        registration=_registration(results / "register" / name),
        store=PatchStore.open(store) if store.is_dir() else None,
        pairs=None if pairs is None else pairs.get(name, 0),
        folds=folds.get(name, ()),
        panel=read_panel_check(check) if check.is_file() else None,
    )


def _registration(folder: Path) -> Registration | None:
    path = folder / "qc.json"
    if not path.is_file():
        return None
    qc = _json(path)
    reasons = qc.get("reasons", [])
    return Registration(
        verdict=str(qc.get("verdict", "")),
        reasons=tuple(str(reason) for reason in (reasons if isinstance(reasons, list) else [reasons])),
        mode=str(qc.get("mode", "")),
        numbers=dict(_numbers({key: value for key, value in qc.items() if key not in ("provenance", "schema")})),
        pictures={name: file for name in PICTURES if (file := folder / f"{name}.png").is_file()},
    )


def _numbers(value: Any, path: str = "") -> list[tuple[str, float]]:
    """Return all finite numbers inside a JSON value, with their path; long lists are data, not numbers to read."""
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [(path, float(value))] if math.isfinite(value) else []
    if isinstance(value, Mapping):
        return [found for key, item in value.items() for found in _numbers(item, f"{path}.{key}" if path else str(key))]
    if isinstance(value, list) and len(value) <= 8 and all(isinstance(item, Mapping) for item in value):
        named = [(str(item.get("step") or item.get("name") or index), item) for index, item in enumerate(value)]
        return [found for name, item in named for found in _numbers(item, f"{path}.{name}" if path else name)]
    return []


def _split(path: Path) -> FoldSummary | None:
    if not path.is_file():
        return None
    try:
        found = read_json_as(path, _SplitFile)
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected="folds as split writes them", found=str(error)) from None
    held_out = found.folds.get("0", _Fold())
    return FoldSummary(found.by, found.note, held_out_slides=held_out.slides, held_out_patients=held_out.patients)


def _pairs(path: Path) -> tuple[dict[str, int] | None, dict[str, tuple[int, ...]]]:
    """Return usable pairs and folds by slide; None and nothing where there is no split."""
    if not path.is_file():
        return None, {}
    rows = read_split_table(path).groupby("slide", sort=False)
    folds = {str(slide): tuple(sorted(map(int, found))) for slide, found in rows["fold"].unique().items()}
    usable = rows["pair_quality"].agg(lambda quality: int((quality > 0).sum()))
    return {str(slide): int(count) for slide, count in usable.items()}, folds


def _curves(folder: Path) -> dict[str, tuple[Mapping[str, float], ...]]:
    curves: dict[str, tuple[Mapping[str, float], ...]] = {}
    for path in sorted(folder.glob("*/metrics.jsonl")):
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise StatedError(file=path, expected="one JSON object a line", found=str(error)) from None
        curves[path.parent.name] = tuple(dict(_numbers(line)) for line in lines)
    return {run: lines for run, lines in curves.items() if lines}


def _controls(folder: Path) -> dict[str, str]:
    """Return the runs whose encoders were not trained on true pairs, whatever they are called, and their pairing."""
    found = {}
    for path in sorted(folder.glob("*/encoder/config.json")):
        try:
            pairing = str(_json(path)["more_from_less"]["settings"]["pairing"])
        except (LookupError, TypeError) as error:
            raise StatedError(
                file=path, expected="an encoder's description as train writes it", found=repr(error)
            ) from None
        if pairing != "true":
            found[path.parents[1].name] = pairing
    return found


def _baseline(path: Path) -> str:
    return str(_json(path).get("baseline", "")) if path.is_file() else ""


def _retrieval(path: Path) -> Mapping[str, Mapping[str, Any]]:
    found = _json(path).get("retrieval") if path.is_file() else None
    return found if isinstance(found, dict) else {}


def _tested(path: Path) -> tuple[_HeldOut, ...]:
    """Return the held-out slides, each with its patient and the number of its blocks of tissue."""
    if not path.is_file():
        return ()
    try:
        found = read_json_as(path, _Details).held_out.values()
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected="held-out slides as evaluate writes them", found=str(error)) from None
    return tuple(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise StatedError(file=path, expected="valid JSON", found=str(error)) from None
    if not isinstance(value, dict):
        raise StatedError(file=path, expected="a JSON object", found=type(value).__name__)
    return value
