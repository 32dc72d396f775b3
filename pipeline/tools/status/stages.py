"""Measure how far a cohort is from results, logs and benchmarks of its tasks, with few looks at the disk."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.stage_log import last_error
from pipeline.tools.status.tasks import STAGES, Task

# A mean over the last of them is as good as one over thousands.
_MOST_BENCHMARKS = 200


@dataclass(frozen=True)
class Failed:
    """A task whose log ends with an error.

    Attributes:
        subject: of the task.
        reason: the error.
        result: what is missing, below the results' folder.
    """

    subject: str
    reason: str
    result: str


@dataclass(frozen=True)
class StageProgress:
    """One stage of a cohort.

    Attributes:
        stage: its verb.
        total: tasks in all.
        done: tasks whose result is there.
        failed: tasks whose log ends with an error.
        running: subjects of those that have begun, while Snakemake holds the folder.
        seconds_each: mean wall-clock seconds of a task that is done; None where no benchmark says.
        at_once: tasks that ran side by side, by the times of the benchmarks.
    """

    stage: str
    total: int
    done: int
    failed: tuple[Failed, ...]
    running: tuple[str, ...]
    seconds_each: float | None
    at_once: float

    @property
    def left(self) -> int:
        """Tasks that have neither failed nor begun."""
        return self.total - self.done - len(self.failed) - len(self.running)

    @property
    def seconds_left(self) -> float | None:
        """About how long the rest takes, failed tasks included; None where nothing tells."""
        todo = self.total - self.done
        if todo == 0:
            return 0.0
        return None if self.seconds_each is None else todo * self.seconds_each / max(1.0, min(self.at_once, todo))


def stages_of(tasks: Iterable[Task], results: Path, logs: Path, *, locked: bool) -> list[StageProgress]:
    """Return the progress of each stage that has tasks, in order.

    Args:
        tasks: of the cohort.
        results: folder of the results.
        logs: folder of the logs and benchmarks.
        locked: whether Snakemake holds the folder.
    """
    by_stage: dict[str, list[Task]] = defaultdict(list)
    for task in tasks:
        by_stage[task.stage].append(task)
    names = _Names()
    return [_stage(stage, by_stage[stage], results, logs, names, locked) for stage in STAGES if by_stage[stage]]


def verdicts_of(tasks: Iterable[Task], results: Path) -> dict[str, int]:
    """Return how many pairs have each verdict of register."""
    found: Counter[str] = Counter()
    for task in tasks:
        if task.stage == "register":
            with suppress(OSError, ValueError, LookupError, TypeError):
                found[str(json.loads((results / task.result).read_bytes())["verdict"])] += 1
    return dict(sorted(found.items()))


class _Names:
    """Names in folders, each folder listed once: a look at every path of thousands takes longer."""

    def __init__(self) -> None:
        self._known: dict[Path, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        """Return whether a path is there."""
        folder = path.parent
        if folder not in self._known:
            try:
                self._known[folder] = frozenset(os.listdir(folder))  # noqa: PTH208
            except OSError:
                self._known[folder] = frozenset()
        return path.name in self._known[folder]


def _stage(stage: str, tasks: Sequence[Task], results: Path, logs: Path, names: _Names, locked: bool) -> StageProgress:
    done, failed, running = 0, [], []
    benchmarks: list[Path] = []
    for task in tasks:
        log = logs / task.log
        benchmark = log.with_suffix(".benchmark.tsv")
        if names.has(results / task.result):
            done += 1
            if len(benchmarks) < _MOST_BENCHMARKS and names.has(benchmark):
                benchmarks.append(benchmark)
        elif names.has(log):
            reason = last_error(log)
            if reason:
                failed.append(Failed(task.subject, reason, task.result))
            elif locked:
                running.append(task.subject)
    each, at_once = _times(benchmarks)
    return StageProgress(stage, len(tasks), done, tuple(failed), tuple(running), each, at_once)


def _times(benchmarks: Sequence[Path]) -> tuple[float | None, float]:
    """Return mean seconds, and how many ran at once: the sum of their times over the time that they cover."""
    spans = []
    for path in benchmarks:
        with suppress(OSError, ValueError, IndexError):
            header, values = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[:2])
            seconds, end = float(values[header.index("s")]), path.stat().st_mtime
            spans.append((end - seconds, end))
    if not spans:
        return None, 1.0
    total = sum(end - start for start, end in spans)
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / len(spans), total / covered if covered > 0 else 1.0
