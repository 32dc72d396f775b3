"""Print the state of a cohort as lines for a terminal, or as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline.tools.status.stages import StageProgress


@dataclass(frozen=True)
class Status:
    """The state of a cohort.

    Attributes:
        cohort: its folder as the user named it.
        slides: rows of the sheet.
        pairs: those with a dense side.
        runs: trainings.
        is_running: whether Snakemake holds the folder.
        stages: in order.
        verdicts: pairs by verdict of register.
        report: path of the page, where it is there.
    """

    cohort: str
    slides: int
    pairs: int
    runs: int
    is_running: bool
    stages: Sequence[StageProgress]
    verdicts: Mapping[str, int]
    report: str | None

    @property
    def seconds_left(self) -> float:
        """About how long the stages take whose time is known."""
        return sum(stage.seconds_left or 0.0 for stage in self.stages)

    @property
    def unknown(self) -> list[str]:
        """Stages of which something is left and nothing tells how long."""
        return [stage.stage for stage in self.stages if stage.seconds_left is None]


def as_json(status: Status) -> str:
    """Return the state as JSON, with what follows from it."""
    values = asdict(status)
    for stage, shown in zip(status.stages, values["stages"], strict=True):
        shown |= {"left": stage.left, "seconds_left": stage.seconds_left}
    values |= {"seconds_left": status.seconds_left, "unknown": status.unknown}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def as_lines(status: Status) -> Iterator[str]:
    """Yield the state line by line: a table of the stages, what failed, what is left."""
    state = "Snakemake is at work" if status.is_running else "nothing runs"
    yield f"{status.cohort}: {status.slides} slides, {status.pairs} of them pairs, {status.runs} runs; {state}"
    yield f"{'stage':<15}{'done':>11}{'failed':>8}{'running':>9}{'left':>7}  about"
    for stage in status.stages:
        numbers = (f"{number or ''}" for number in (len(stage.failed), len(stage.running), stage.left))
        failed, running, left = numbers
        done = f"{stage.done}/{stage.total}"
        yield f"{stage.stage:<15}{done:>11}{failed:>8}{running:>9}{left:>7}  {_about(stage)}".rstrip()
    if status.verdicts:
        yield "registration: " + ", ".join(f"{count} {verdict}" for verdict, count in status.verdicts.items())
    for stage in status.stages:
        for failed_task in stage.failed:
            yield f"failed: {stage.stage} {failed_task.subject}: {failed_task.reason}"
            again = f"mfl run --directory {shlex.quote(status.cohort)} {shlex.quote(f'results/{failed_task.result}')}"
            yield f"  try again: {again}"
    if any(stage.done < stage.total for stage in status.stages):
        known = [f"about {duration(status.seconds_left)}"] if status.seconds_left else []
        unknown = [f"{', '.join(status.unknown)}, whose time is not known yet"] if status.unknown else []
        yield f"left: {' and '.join(known + unknown)}"
    if status.report:
        yield f"report: {status.report}"


def _about(stage: StageProgress) -> str:
    if stage.done == stage.total:
        return ""
    return "?" if stage.seconds_left is None else duration(stage.seconds_left)


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
