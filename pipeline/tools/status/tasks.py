"""List the results that a cohort will have: one per task, by stage, as the workflow's targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.embedding.given_encoder import results_name
from pipeline.settings import Settings
from pipeline.sheet import SheetRow

STAGES = (
    "inspect",
    "panel",
    "register",
    "tile",
    "split",
    "train",
    "embed",
    "embed-slides",
    "evaluate",
    "evaluate-probe",
    "predict",
    "outcomes",
    "report",
)
COHORT = "the cohort"


@dataclass(frozen=True)
class Task:
    """One job of the workflow.

    Attributes:
        stage: its verb.
        subject: the slide, the run, or the cohort.
        result: a path that is there when it is done, below the results' folder.
        log: its log, below the logs' folder; the benchmark lies beside it.
    """

    stage: str
    subject: str
    result: str
    log: str


def tasks_of(rows: Sequence[SheetRow], settings: Settings) -> Iterator[Task]:
    """Yield every task that the target `all` asks for, in the order of the stages.

    Paths of the settings are relative to the working directory.
    """
    trains = settings.embed.encoder in settings.runs
    slides = [row.slide for row in rows]
    elsewhere = not trains and Path(settings.embed.encoder).is_dir()
    paired = [row for row in rows if row.dense and not elsewhere]
    pairs = [row.slide for row in paired]
    runs = list(settings.runs) if pairs and not elsewhere else []
    name = results_name(Path(settings.embed.encoder)) if elsewhere else settings.embed.encoder
    embeds = bool(trains and pairs) or elsewhere
    asked = embeds and bool(settings.outcomes.table)
    for slide in slides:
        yield Task("inspect", slide, f"inspect/{slide}.json", f"inspect/{slide}.log")
    for row in paired:
        # Of the other kinds the sheet says that there is no panel to check.
        if row.dense_kind in ("", "fluorescence"):
            yield Task("panel", row.slide, f"panel/{row.slide}.json", f"panel/{row.slide}.log")
    for slide in pairs:
        yield Task("register", slide, f"register/{slide}/qc.json", f"register/{slide}.log")
    for slide in slides:
        yield Task("tile", slide, f"tile/{slide}.zarr", f"tile/{slide}.log")
    if runs:
        yield Task("split", COHORT, "split/patches.tsv", "split.log")
    for run in runs:
        yield Task("train", run, f"train/{run}/encoder", f"train/{run}.log")
    for run in dict.fromkeys((*runs, *([name] if embeds else []))):
        for slide in slides if run == name or asked else pairs:
            yield Task("embed", f"{slide} by {run}", f"embed/{run}/{slide}.h5", f"embed/{run}/{slide}.log")
    for run in dict.fromkeys((*(runs if asked and trains else ()), *([name] if embeds else ()))):
        yield Task("embed-slides", run, f"embed/{run}/slides.parquet", f"embed_slides/{run}.log")
    if runs:
        yield Task("evaluate", COHORT, "evaluate/summary.tsv", "evaluate.log")
    if trains and runs:
        yield Task("evaluate-probe", name, f"evaluate/probes/{name}", f"evaluate/probes/{name}.log")
    if embeds and (trains or settings.predict.probe):
        for slide in slides:
            yield Task("predict", slide, f"predict/{name}/{slide}", f"predict/{name}/{slide}.log")
    if asked:
        yield Task("outcomes", COHORT, "outcomes/summary.tsv", "outcomes.log")
    if embeds:
        yield Task("report", COHORT, "report/index.html", "report.log")
