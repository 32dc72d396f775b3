"""Train one run in several processes, each on its rows of every batch.

The training is the same as in one process to within rounding: every process knows the whole order and all random draws,
embeddings are gathered before the loss, the statistics of batch normalisation and the gradients are those of the whole
batch. So all processes hold the same weights after every step, and only the first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.training.precision import best_device

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_LONGEST_WAIT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is; by default one alone, which calls nothing of torch.distributed.

    Attributes:
        rank: number of this process, from 0.
        count: of all processes.
        local_rank: number of this process on its machine.
        local_count: of the processes on this machine.
        launcher: id of the process that started this one; 0 where there is none.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    launcher: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes what belongs to all."""
        return self.rank == 0

    def device(self) -> torch.device:
        """Return the CUDA device of this process where there is one, otherwise the CPU."""
        best = best_device()
        return best if best.type == "cpu" else torch.device("cuda", self.local_rank)

    def rows(self, batch_size: int) -> slice:
        """Return this process's rows of a batch, an equal share for each.

        Raises:
            StatedError: if the batch cannot be shared equally.
        """
        if batch_size % self.count:
            raise StatedError(expected=f"a batch_size that {self.count} processes can share", found=str(batch_size))
        share = batch_size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return this process's part of what the processes of this machine do once between them."""
        return np.array_split(values, self.local_count)[self.local_rank]

    def gather(self, values: Tensor) -> Tensor:
        """Return (n, …) values of the whole batch from the rows of each process.

        The gradient is that of this process's rows; those of shared weights are complete after `sum_gradients`.
        """
        if self.count == 1:
            return values
        gathered: Tensor = _Gather.apply(values, self)
        return gathered

    def all_of(self, values: Tensor) -> Tensor:
        """Return (count, …): the tensors of all processes, without a gradient."""
        found = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.count)]
        with _others_needed():
            distributed.all_gather(found, values.contiguous())
        return torch.stack(found)

    def sum_tensor(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes; `values` is overwritten with it."""
        if self.count > 1:
            with _others_needed():
                distributed.all_reduce(values)
        return values

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of an array over the processes."""
        total: NDArray[Any] = self.sum_tensor(torch.from_numpy(values.copy())).numpy()
        return total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the gradients of each process's rows those of the whole batch."""
        if self.count == 1:
            return
        gradients = [item.grad for item in parameters if item.grad is not None]
        total = self.sum_tensor(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(total, [item.numel() for item in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, here: bool) -> bool:
        """Return whether it is so in any process; each learns the same."""
        return here if self.count == 1 else bool(self.sum_tensor(torch.tensor(int(here))))

    def from_first(self, data: bytes) -> bytes:
        """Return the first process's `data`, in every process; what the others pass does not matter."""
        if self.count == 1:
            return data
        length = torch.tensor(len(data))
        with _others_needed():
            distributed.broadcast(length, src=0)
            content = torch.zeros(int(length), dtype=torch.uint8)
            if self.first:
                content = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
            distributed.broadcast(content, src=0)
        return content.numpy().tobytes()

    def abandoned(self) -> bool:
        """Return whether the launcher was killed, so that nobody ends this process, or knows of it, any more."""
        return self.launcher != 0 and os.getppid() != self.launcher


class _Gather(torch.autograd.Function):
    """All rows forward, this process's rows backward: every process takes the same loss of the same rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, processes: Processes) -> Tensor:
        ctx.rows = processes.rows(len(values) * processes.count)
        return processes.all_of(values).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.rows], None


@contextmanager
def joined() -> Iterator[Processes]:
    """Return the processes that torchrun, or `launch`, started together; one alone where neither did.

    One process reports an error that several of them meet, and all end with 1.

    Raises:
        StatedError: if there are fewer GPUs than processes.
    """
    if not distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Processes()
        return
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, count, local_rank, local_count = (int(os.environ[name]) for name in names)
    with _others_needed():
        store, _, _ = next(rendezvous("env://", timeout=_LONGEST_WAIT))
    try:
        _initialise(store, rank, count, local_rank, local_count)
        yield Processes(rank, count, local_rank, local_count, os.getppid())
    except StatedError as error:
        _say_once(store, f"error: {error}")
        raise SystemExit(1) from None
    distributed.destroy_process_group()


def _initialise(store: Store, rank: int, count: int, local_rank: int, local_count: int) -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        if torch.cuda.device_count() < local_count:
            raise StatedError(
                expected=f"a GPU for each of the {local_count} processes on this machine",
                found=f"{torch.cuda.device_count()}",
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    with _others_needed():
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_LONGEST_WAIT)


def _say_once(store: Store, text: str) -> None:
    """Print a text once: the first process with it prints, the others wait, since the first to end ends all."""
    said = f"said {text}"
    with _others_needed():
        if store.add(text, 1) == 1:
            say(text)
            store.set(said, "")
        else:
            store.wait([said])


@contextmanager
def _others_needed() -> Iterator[None]:
    """End this process where another one is gone; that one, or whoever launched it, says why."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        say(f"train: ended with the other processes ({str(error).splitlines()[0]})")
        raise SystemExit(1) from None
