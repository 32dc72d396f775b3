"""Slides that a stage left nothing of: the stage, what its log says, the command that tries again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.reading import Results, SlideResults

_ERROR = "error: "
_MOST_LETTERS = 400
_LAST_BYTES = 2**16


@dataclass(frozen=True)
class Failure:
    """A slide without the result of a stage.

    Attributes:
        slide: its name.
        stage: the first stage that left nothing.
        reason: the error that its log ends with; empty where there is no log or no error in it.
        retry: the command that tries again.
    """

    slide: str
    stage: str
    reason: str
    retry: str


def failures(results: Results, embedding: str, logs: Path) -> list[Failure]:
    """The slides that lack a result, in sheet order; of each the first stage that failed or was not run."""
    found = []
    for slide in results.slides:
        lost = next(_lost(slide, results, embedding), None)
        if lost:
            stage, path, log = lost
            retry = f"snakemake --cores all {shlex.quote(f'results/{path}')}"
            found.append(Failure(slide.slide, stage, last_error(logs / log), retry))
    return found


def _lost(slide: SlideResults, results: Results, embedding: str) -> Iterator[tuple[str, str, str]]:
    """Stage, result and log of what is not there, in the order of the stages."""
    name = slide.slide
    if slide.record is None:
        yield "inspect", f"inspect/{name}.json", f"inspect/{name}.log"
    if slide.has_dense and slide.registration is None:
        yield "register", f"register/{name}/qc.json", f"register/{name}.log"
    if slide.store is None:
        yield "tile", f"tile/{name}.zarr", f"tile/{name}.log"
    # Without any features the cohort has not come to embed yet.
    if results.features and name not in results.features:
        yield "embed", f"embed/{embedding}/{name}.h5", f"embed/{embedding}/{name}.log"


def last_error(log: Path) -> str:
    """The last stated error of a log, or the last line of a traceback; empty where there is neither."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
        lines = [line.strip() for line in stream.read().decode("utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    stated = next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), "")
    if not stated and any(line.startswith("Traceback") for line in lines):
        stated = lines[-1]
    return stated if len(stated) <= _MOST_LETTERS else stated[:_MOST_LETTERS] + "…"
