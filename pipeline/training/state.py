"""Save and load the state of an unfinished training, which then resumes with identical results."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import signal
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pipeline.progress import say
from pipeline.provenance import finished
from pipeline.training.processes import Processes

FILE_NAME = "state.pt"
# What a broken archive, pickle or tensor in it makes torch.load raise.
_RAISED_BY_TORCH_LOAD = (
    OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, AssertionError, struct.error,
    pickle.UnpicklingError,
)  # fmt: skip
_DIGEST_BYTES = 32


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes:
        epoch: the epoch under way, from 0.
        step: steps of it that are done.
        network: weights and buffers of all encoders and projectors.
        optimiser: its moments.
        sums: running sums of the epoch under way.
        history: one mapping per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def recipe_of(values: Mapping[str, Any]) -> str:
    """Hash of everything that decides how a training goes."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def save_state(folder: Path, state: TrainingState, recipe: str) -> None:
    """Write the state in one step; a process killed meanwhile leaves the one before."""
    stream = io.BytesIO()
    torch.save({"recipe": recipe, **vars(state)}, stream)
    # torch notices a file that is cut off, but not a flipped bit; a damaged weight would train on unseen.
    with finished(folder / FILE_NAME) as temporary:
        temporary.write_bytes(hashlib.sha256(stream.getbuffer()).digest() + stream.getbuffer())
    with finished(folder / "metrics.jsonl") as temporary:
        temporary.write_text(json_lines(state.history), encoding="utf-8")


def load_state(folder: Path, recipe: str) -> TrainingState | None:
    """Return the state left by a training of just this recipe.

    None, with a line that says why, where there is none to use.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return None
    try:
        values = _unpickled(path)
    except (OSError, ValueError) as error:
        say(f"{path}: unreadable ({error}); starting afresh")
        return None
    if values.pop("recipe") != recipe:
        say(f"{path}: left by a training with other settings, patches or code; starting afresh")
        return None
    return TrainingState(**values)


def _unpickled(path: Path) -> dict[str, Any]:
    """Return what a state's file holds, by name.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not whole, or holds something else.
    """
    data = path.read_bytes()
    if hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        raise ValueError("another checksum than was written")
    try:
        values = torch.load(io.BytesIO(data[_DIGEST_BYTES:]), map_location="cpu", weights_only=True)
    except _RAISED_BY_TORCH_LOAD as error:
        raise ValueError(type(error).__name__) from None
    if not isinstance(values, dict) or values.keys() != {*TrainingState.__dataclass_fields__, "recipe"}:
        raise ValueError("no state of a training")
    return values


def agreed_state(state: TrainingState, processes: Processes) -> TrainingState:
    """Return the first process's state, in every process."""
    if processes.count == 1:
        return state
    stream = io.BytesIO()
    torch.save(vars(state), stream)
    data = processes.from_first(stream.getvalue())
    return TrainingState(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def json_lines(history: list[dict[str, Any]]) -> str:
    """Return one line of JSON per mapping."""
    return "".join(json.dumps(line) + "\n" for line in history)


@dataclass
class StopRequest:
    """Whether the process has been asked to end."""

    received: bool = False


@contextmanager
def asked_to_stop() -> Iterator[StopRequest]:
    """Return note a SIGTERM within the block instead of ending, so that the state can be saved first."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        request.received = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
