"""List what failed: slide, run or cohort, the stage, its error, and the command that tries again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.results import Results, SlideResults
from pipeline.stage_log import last_error


@dataclass(frozen=True)
class Failure:
    """A slide, a run or the cohort without the result of a stage.

    Attributes:
        subject: what it is of: the slide's name, `run` and the run's, or `the cohort`.
        stage: the first stage that left nothing.
        reason: the error that its log ends with; empty where there is no log or no error in it.
        retry: the command that tries again.
    """

    subject: str
    stage: str
    reason: str
    retry: str


@dataclass(frozen=True)
class _Missing:
    """A result that is not there: its path below the results folder, and the log of its stage below the logs'."""

    stage: str
    result: str
    log: str


def failures(results: Results, folder: Path, embedding: str, logs: Path) -> list[Failure]:
    """Return what lacks a result: slides in sheet order, each by the first stage that failed or was not run.

    Then the rest.

    Of runs and of the cohort only what a log tells of counts, for nothing here says which of them were asked for.

    Args:
        results: of the cohort.
        folder: where they lie.
        embedding: that the page shows.
        logs: folder of the stages' logs.
    """
    found = []
    for slide in results.slides:
        lost = next(_lost_of_slide(slide, results, embedding, logs), None)
        if lost:
            found.append(_failure(slide.slide, lost, logs))
    for subject, lost in _lost_of_cohort(embedding, logs):
        if not (folder / lost.result).exists() and last_error(logs / lost.log):
            found.append(_failure(subject, lost, logs))
    return found


def _failure(subject: str, lost: _Missing, logs: Path) -> Failure:
    retry = f"snakemake --cores all {shlex.quote(f'results/{lost.result}')}"
    return Failure(subject, lost.stage, last_error(logs / lost.log), retry)


def _lost_of_slide(slide: SlideResults, results: Results, embedding: str, logs: Path) -> Iterator[_Missing]:
    """Yield what is not there of a slide, in the order of the stages."""
    name = slide.slide
    if slide.record is None:
        yield _Missing("inspect", f"inspect/{name}.json", f"inspect/{name}.log")
    panel = _Missing("panel", f"panel/{name}.json", f"panel/{name}.log")
    if slide.has_dense and slide.panel is None and last_error(logs / panel.log):
        yield panel
    if slide.has_dense and slide.registration is None:
        yield _Missing("register", f"register/{name}/qc.json", f"register/{name}.log")
    if slide.store is None:
        yield _Missing("tile", f"tile/{name}.zarr", f"tile/{name}.log")
    # Where no slide has any, and no log tells of an error, the cohort has not come to these stages yet.
    embed = _Missing("embed", f"embed/{embedding}/{name}.h5", f"embed/{embedding}/{name}.log")
    if name not in results.features and (results.features or last_error(logs / embed.log)):
        yield embed
    predict = _Missing("predict", f"predict/{embedding}/{name}", f"predict/{embedding}/{name}.log")
    if name not in results.predictions and (results.predictions or last_error(logs / predict.log)):
        yield predict


def _lost_of_cohort(embedding: str, logs: Path) -> Iterator[tuple[str, _Missing]]:
    """Yield what a stage may have left nothing of that is of no slide, in the order of the stages."""
    cohort = "the cohort"
    yield cohort, _Missing("split", "split/patches.tsv", "split.log")
    for log in sorted((logs / "train").glob("*.log")):
        yield f"run {log.stem}", _Missing("train", f"train/{log.stem}/encoder", f"train/{log.name}")
    embedded = f"embed_slides/{embedding}.log"
    yield cohort, _Missing("embed-slides", f"embed/{embedding}/slides.parquet", embedded)
    yield cohort, _Missing("evaluate", "evaluate/summary.tsv", "evaluate.log")
    yield cohort, _Missing("outcomes", "outcomes/summary.tsv", "outcomes.log")
    for log in sorted((logs / "evaluate" / "probes").glob("*.log")):
        result, log_name = f"evaluate/probes/{log.stem}", f"evaluate/probes/{log.name}"
        yield f"run {log.stem}", _Missing("evaluate-probe", result, log_name)
