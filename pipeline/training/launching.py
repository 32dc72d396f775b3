"""Restart a verb in several processes on this machine by torch's launcher (torchrun)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Sequence

from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.errors import StatedError


def is_launched() -> bool:
    """Return whether this process is one of those that a launcher started together."""
    return distributed.is_torchelastic_launched()


def launch(argv: Sequence[str], processes: int) -> None:
    """Run `python -m pipeline WORDS` in that many processes, and ends as they do.

    SIGTERM is passed on to them. The exit code is theirs.

    Raises:
        StatedError: if one of them was killed.
    """
    # Each process tells its own errors in a line; the launcher's tables would only hide that.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Processes that are asked to end first finish their step and save; by default they are killed after 30 s.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")
    with tempfile.TemporaryDirectory(prefix="more-from-less-") as folder:
        configuration = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="train",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(configuration, sys.executable)("-P", "-m", "pipeline", *argv)
        except ChildFailedError as error:
            _end(error)
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None


def _end(error: ChildFailedError) -> None:
    """End as the processes did; a SIGTERM in the middle of an end is the launcher's own, for the first that failed."""
    codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGTERM:
            name = signal.Signals(-code).name
            raise StatedError(expected="all processes to end well", found=f"process {rank} ended by {name}") from None
    ended = [128 - code if code < 0 else code for code in codes.values()]
    raise SystemExit(1 if 1 in ended else max(ended)) from None
