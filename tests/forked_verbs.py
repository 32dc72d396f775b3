"""Verbs of the command line, each in a separate process that may meet its end in the middle.

The processes are forked from one that has imported PyTorch and timm but has used neither, as both take longer to import
than most verbs on a small cohort take to run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline import provenance
from pipeline.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "timm", "pandas", "scipy.stats"])


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that ended it, and what it said."""

    returncode: int | None
    stderr: str


def run_verb(argv: list[str], stop: tuple[str, int] | None = None) -> Ended:
    """Runs a verb in the working directory; `stop` is a signal's name and the number of the result that it meets.

    The signal comes when the result of that number, from 1, is whole under its temporary name and about to be renamed.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr.txt"
        process = _CONTEXT.Process(target=_verb, args=(argv, Path.cwd(), log, stop))
        process.start()
        process.join(300)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"not done in 300 s: {argv}")
        return Ended(process.exitcode, log.read_text())


def _verb(argv: list[str], folder: Path, log: Path, stop: tuple[str, int] | None) -> None:
    os.chdir(folder)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
    if stop is not None:
        _stop_before_rename(*stop)
    sys.argv[1:] = argv
    sys.exit(main())


def _stop_before_rename(name: str, number: int) -> None:
    """The `number`-th rename of a partial result never comes: the process gets the signal first."""
    replace, exchange, count = Path.replace, provenance._exchange, 0

    def stop(path: Path) -> None:
        nonlocal count
        if path.name.startswith(".") and path.name.endswith(".partial"):
            count += 1
            if count == number:
                os.kill(os.getpid(), getattr(signal, name))
                time.sleep(0.05)

    def stopped_replace(path: Path, target: Path) -> Path:
        stop(path)
        return replace(path, target)

    def stopped_exchange(one: Path, other: Path) -> bool:
        stop(one)
        return exchange(one, other)

    Path.replace = stopped_replace  # type: ignore[method-assign,assignment]
    provenance._exchange = stopped_exchange
