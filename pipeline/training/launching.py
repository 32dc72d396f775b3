"""Starts a verb again in several processes on this machine, by torch's own launcher (torchrun)."""

from __future__ import annotations

import logging
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
    """Whether this process is one of those that a launcher started together."""
    return distributed.is_torchelastic_launched()


def launch(words: Sequence[str], processes: int) -> None:
    """Runs `python -m pipeline WORDS` in that many processes, and ends as they do.

    SIGTERM is passed on to them. The exit code is theirs.

    Raises:
        StatedError: if one of them was killed.
    """
    # Each process tells its own errors in a line; the launcher's tables would only hide that.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
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
            elastic_launch(configuration, sys.executable)("-P", "-m", "pipeline", *words)
        except ChildFailedError as error:
            _end(error)
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None


def _end(error: ChildFailedError) -> None:
    for rank, failure in error.failures.items():
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise StatedError(expected="all processes to end well", found=f"process {rank} ended by {name}") from None
    raise SystemExit(max(failure.exitcode for failure in error.failures.values())) from None
