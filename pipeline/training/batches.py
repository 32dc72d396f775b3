"""Make batches of training patches ahead of their use, each beside its partner's dense side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch

from pipeline.training.draws import seed_of
from pipeline.training.order import Rows, in_parts
from pipeline.training.patches import ROWS_PER_JOB, TrainingPatches, reading_threads
from pipeline.training.views import Batch

_BATCHES_AHEAD = 3
_NOTHING = np.empty(0, np.int64)


def partners(count: int, pairing: str, *, seed: int) -> Rows | None:
    """Return for every patch the number of the patch whose dense side it is paired with; None for blank pairing.

    `shuffled` is one random cycle through all patches (Sattolo's algorithm), so no patch keeps its own, and the same
    wrong partner is met in every epoch.
    """
    if pairing == "blank":
        return None
    numbers = np.arange(count)
    if pairing == "shuffled":
        random = np.random.default_rng(seed_of(seed, "shuffled pairs"))
        for last in range(count - 1, 0, -1):
            other = int(random.integers(last))
            numbers[[last, other]] = numbers[[other, last]]
    return numbers


def make_batch(
    patches: TrainingPatches, numbers: Rows, partner: Rows | None, *, dense: bool, pin: bool = False
) -> Batch:
    """Return the batch of these patches, each beside the dense side and the target of its partner.

    Args:
        patches: where they are read from.
        numbers: which.
        partner: see `partners`.
        dense: whether there is a dense branch.
        pin: whether to decode into page-locked memory, from which a GPU fetches while the host goes on.
    """
    count, size_px, markers = len(numbers), patches.rows.size_px, patches.rows.dense_channels
    dense_px = patches.rows.dense_size_px
    sparse = torch.empty(count, size_px, size_px, 3, dtype=torch.uint8, pin_memory=pin)
    patches.sparse(numbers, sparse.numpy())
    target = None
    if patches.targets is not None and partner is not None:
        target = torch.from_numpy(patches.targets[partner[numbers]])
        target = target.pin_memory() if pin else target
    if not dense:
        return Batch(sparse, None, None, target)
    if partner is None:
        blank = torch.zeros(count, markers, dense_px, dense_px, pin_memory=pin)
        return Batch(sparse, blank, torch.zeros(count, markers, dtype=torch.bool, pin_memory=pin))
    pixels = torch.empty(count, markers, dense_px, dense_px, pin_memory=pin)
    _, present = patches.dense(partner[numbers], pixels.numpy())
    there = torch.from_numpy(present)
    return Batch(sparse, pixels, there.pin_memory() if pin else there, target)


def batches_ahead(
    patches: TrainingPatches,
    groups: Iterable[Rows],
    partner: Rows | None,
    *,
    dense: bool,
    pin: bool,
    threads: int | None = None,
    ahead: Iterable[Rows] | None = None,
) -> Iterator[Batch]:
    """Yield the batches of the groups of numbers, in order, read ahead of their use.

    Each batch is one thread's, so the number of threads changes when a batch is ready and nothing else.

    Args:
        patches: where they are read from.
        groups: numbers of each batch.
        partner: see `partners`.
        dense: whether there is a dense branch.
        pin: whether batches are read into page-locked memory.
        threads: how many threads read; default `reading_threads`.
        ahead: for each batch the numbers that are fetched from disk, while it is made, for later ones; those of the
            dense side, too, where each patch is its own partner.
    """
    threads = reading_threads() if threads is None else threads
    pairs = dense and partner is not None and np.array_equal(partner, np.arange(len(partner)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    try:
        waiting: deque[tuple[list[Future[None]], Future[Batch]]] = deque()
        for numbers, fetched in zip(groups, repeat(_NOTHING) if ahead is None else ahead, strict=False):
            fetches = [pool.submit(patches.read_ahead, part, dense=pairs) for part in in_parts(fetched, ROWS_PER_JOB)]
            waiting.append((fetches, pool.submit(make_batch, patches, numbers, partner, dense=dense, pin=pin)))
            if len(waiting) > max(_BATCHES_AHEAD, threads):
                yield _taken(*waiting.popleft())
        while waiting:
            yield _taken(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(fetches: Iterable[Future[None]], batch: Future[Batch]) -> Batch:
    """Return the batch, when all that was read beside it is read without an error."""
    for fetch in fetches:
        fetch.result()
    return batch.result()
