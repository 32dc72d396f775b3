"""Print a run of `mfl run`: a line per slide and stage, each failure with its error, and the report's path."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.stage_log import last_error, was_interrupted

# Rules that only gather what others made.
_GATHER = "_all"
_ALSO_GATHER = ("all", "default", "total")
# Lines of Snakemake that repeat what is printed here.
_SAID_AGAIN = (
    "Exiting because a job execution failed",
    "Shutting down",
    "At least one job did not complete",
    "WorkflowError:\nAt least one job did not complete",
    "Removing output files of failed job",
    "Some jobs failed",
)
# Of a job that failed Snakemake also shows the whole command.
_SHELL = "Command 'set -euo pipefail"
_NOTHING = "Nothing to be done"
_LOG_HINT = "Complete log(s): "
_REPORT = "report/index.html"


@dataclass(frozen=True)
class Job:
    """What Snakemake says of a job when it begins.

    Attributes:
        rule: its name.
        subject: the slide or the run; empty where it is the cohort.
        outputs: paths, relative to the working directory.
        logs: the same of its logs.
        begun: seconds of the clock.
    """

    rule: str
    subject: str
    outputs: tuple[str, ...]
    logs: tuple[str, ...]
    begun: float

    @classmethod
    def of(cls, record: Mapping[str, Any], now: float) -> Job:
        """Return the job of a record of the event `job_info`."""
        wildcards = dict(record.get("wildcards") or {})
        labels = [str(wildcards[name]) for name in ("run", "slide") if name in wildcards]
        labels = labels or [str(value) for value in wildcards.values()]
        if "name" in wildcards and "slide" in wildcards:
            labels = [f"{wildcards['slide']} by {wildcards['name']}"]
        outputs, logs = (tuple(map(str, record.get(name) or ())) for name in ("output", "log"))
        return cls(str(record["rule_name"]), " ".join(labels), outputs, logs, now)

    @property
    def title(self) -> str:
        """Stage and subject."""
        return f"{self.rule.replace('_', '-')} {self.subject}".strip()


@dataclass
class Narration:
    """The state of a run, told by events.

    Attributes:
        say: takes each line.
        clock: seconds.
        cohort: folder as the user named it, for the commands that try again.
    """

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    cohort: str = "."
    running: dict[int, Job] = field(default_factory=dict)
    failed: dict[str, tuple[Job, str]] = field(default_factory=dict)
    _interrupted: list[str] = field(default_factory=list)
    _done: int = 0
    _total: int = 0
    _is_complete: bool = False
    _log: str = ""

    def planned(self, stats: Mapping[str, Any]) -> None:
        """Tell what is to be done: jobs by rule."""
        counts = {name: count for name, count in stats.items() if name not in _ALSO_GATHER and _GATHER not in name}
        self._total = sum(int(count) for count in counts.values())
        if counts:
            self.say("to do: " + ", ".join(f"{name.replace('_', '-')} {count}" for name, count in counts.items()))

    def began(self, number: int, job: Job) -> None:
        """Note that a job runs."""
        self.running[number] = job

    def finished(self, number: int) -> None:
        """Tell that a job is done, with what matters of its result."""
        job = self.running.pop(number, None)
        if job is None:
            return
        self.failed.pop(job.title, None)
        if job.rule in _ALSO_GATHER or job.rule.endswith(_GATHER):
            for line in _last_table(job):
                self.say(line)
            return
        self._done += 1
        width = len(str(self._total))
        seconds = self.clock() - job.begun
        line = f"[{self._done:>{width}}/{self._total}] {job.title:<28} {_duration(seconds):>8}"
        self.say(f"{line}  {_verdict(job)}".rstrip())

    def failed_job(self, number: int) -> None:
        """Tell that a job failed, with the error that its log ends with."""
        job = self.running.pop(number, None)
        if job is None:
            return
        if any(was_interrupted(Path(log)) for log in job.logs):
            self._interrupted.append(job.title)
            return
        reason = next(filter(None, (last_error(Path(log)) for log in job.logs)), "")
        reason = reason or (f"see {Path(self.cohort) / job.logs[0]}" if job.logs else "no log says why")
        self.failed[job.title] = (job, reason)
        self.say(f"FAILED {job.title}: {reason}")

    def message(self, text: str, *, is_error: bool, is_warning: bool) -> None:
        """Tell a line of Snakemake's own, if it says what is not told already."""
        if text.startswith(_LOG_HINT):
            self._log = text.removeprefix(_LOG_HINT)
        elif text.startswith(_NOTHING):
            self._is_complete = True
            self.say("nothing to do: all is there and up to date")
        elif (is_error or is_warning) and text.strip() and not text.startswith(_SAID_AGAIN) and _SHELL not in text:
            self.say(text.strip())

    def end(self) -> None:
        """Tell what failed and how to try again, and where the report and Snakemake's log are."""
        if self._interrupted:
            self.say(f"interrupted: {', '.join(self._interrupted)}; the same command goes on from here")
        if self.failed:
            self.say(f"{len(self.failed)} failed; what rests on them was not run:")
        for title, (job, reason) in self.failed.items():
            self.say(f"  {title}: {reason}")
            if job.outputs:
                again = f"mfl run --directory {shlex.quote(self.cohort)} {shlex.quote(job.outputs[0])}"
                self.say(f"    try again: {again}")
        report = Path("results") / _REPORT
        whole = self._is_complete or self._done == self._total > 0
        if self._log:
            self.say(f"Snakemake's log: {Path(self.cohort) / os.path.relpath(self._log.split(', ')[-1])}")
        if whole and not self.failed and report.is_file():
            self.say(f"report: {Path(self.cohort) / report}")


def _last_table(job: Job) -> Iterator[str]:
    """Yield what a rule that gathers has printed: the table of verdicts."""
    for log in job.logs:
        with suppress(OSError):
            yield from Path(log).read_text(encoding="utf-8", errors="replace").splitlines()


def _verdict(job: Job) -> str:
    """Return what register found of a pair; empty for other jobs."""
    path = next((path for path in job.outputs if Path(path).name == "qc.json"), None)
    if path is None:
        return ""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        reasons: Sequence[str] = found["reasons"]
        return f"{found['verdict']}{f': {reasons[0]}' if reasons else ''}"
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
