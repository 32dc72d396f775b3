"""`snakemake --logger mfl`: a line per slide and stage in place of Snakemake's own output, which goes to its log."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

if TYPE_CHECKING:
    from pipeline.tools.running.narration import Narration

_COLUMNS = 80

# Snakemake imports every installed plugin, asked for or not. So `pipeline` is imported where the handler is made:
# the Snakefile of another checkout would otherwise find this one's package in place of its own.


class LogHandler(LogHandlerBase):
    """Hands Snakemake's events to a `Narration`."""

    def __post_init__(self) -> None:
        """Begin to tell on standard error."""
        from pipeline.tools.running.command import COHORT
        from pipeline.tools.running.narration import Job, Narration

        self.setLevel(logging.INFO)
        self._is_closed = False
        self._is_terminal = sys.stderr.isatty()
        self._job_of = Job.of
        self._narration: Narration = Narration(self._line, cohort=os.environ.get(COHORT, "."))

    def emit(self, record: logging.LogRecord) -> None:
        """Tell what an event says."""
        try:
            self._tell(record.__dict__, record)
        except BrokenPipeError:
            raise
        except Exception:  # noqa: BLE001
            # As in logging's own handlers: what cannot be told is reported, and the run goes on.
            self.handleError(record)

    def _tell(self, known: dict[str, Any], record: logging.LogRecord) -> None:
        event = str(known.get("event") or "")
        narration = self._narration
        if event == "run_info":
            narration.planned(known.get("stats") or {})
        elif event == "job_info":
            narration.began(known["jobid"], self._job_of(known, narration.clock()))
        elif event == "job_finished":
            narration.finished(known["job_id"])
        elif event == "job_error":
            narration.failed_job(known["jobid"])
        elif event in ("", "error"):
            text = str(record.msg or "")
            is_error, is_warning = record.levelno >= logging.ERROR, record.levelno == logging.WARNING
            narration.message(text, is_error=is_error, is_warning=is_warning)
        self._status()

    def _line(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()

    def _status(self) -> None:
        """Show on a terminal what runs at the moment; the next line takes its place."""
        running = ", ".join(job.title for job in self._narration.running.values())
        if self._is_terminal:
            # A terminal that does not know its size says 0.
            width = (os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS) - 1
            sys.stderr.write(f"\r\x1b[K{f'… {running}'[:width] if running else ''}")
            sys.stderr.flush()

    def close(self) -> None:
        """Tell the end of the run."""
        # The interpreter's own end closes handlers once more.
        if not self._is_closed:
            self._is_closed = True
            self._narration.running.clear()
            self._status()
            self._narration.end()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """Takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Leaves the log to Snakemake."""
        return False

    @property
    def has_filter(self) -> bool:
        """Chooses by itself what to tell."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Words its lines by itself."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Draws nothing."""
        return False
