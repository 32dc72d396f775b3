"""The training patches by number, from memory or from the stores, and the batches made of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.training.rows import TrainingRows, TrainingSlide
from pipeline.training.seeds import seed_of
from pipeline.training.views import Batch

MEMORY_BUDGET_BYTES = 2 * 2**30
_BLOCK_BYTES = 64 * 2**20
_BATCHES_AHEAD = 3

Rows = NDArray[np.int64]


class PatchReader(Protocol):
    """What reads the patches of one slide by row: a store, or patches held in memory."""

    def read_sparse(self, rows: Rows) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8."""

    def read_dense(self, rows: Rows) -> NDArray[Any]:
        """(n, C, P, P) in the slide's own dtype."""


class HeldPatches:
    """The training patches of one slide, read once."""

    def __init__(self, slide: TrainingSlide, *, dense: bool) -> None:
        order = np.sort(slide.rows)
        self._rows = order
        self._sparse = slide.store.read_sparse(order)
        self._dense = slide.store.read_dense(order) if dense else None

    def read_sparse(self, rows: Rows) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8."""
        return np.asarray(self._sparse[np.searchsorted(self._rows, rows)])

    def read_dense(self, rows: Rows) -> NDArray[Any]:
        """(n, C, P, P) in the slide's own dtype."""
        if self._dense is None:
            raise ValueError("the dense side was not read")
        return np.asarray(self._dense[np.searchsorted(self._rows, rows)])


class TrainingPatches:
    """All training patches of a cohort, numbered 0 to N - 1 in sheet order.

    Args:
        rows: which patches.
        dense: whether the dense side will be read.
        budget_bytes: patches that need no more than this are read into memory once.
    """

    def __init__(self, rows: TrainingRows, *, dense: bool, budget_bytes: int = MEMORY_BUDGET_BYTES) -> None:
        self.rows = rows
        self.in_memory = _bytes_needed(rows, dense=dense) <= budget_bytes
        self._readers: list[PatchReader] = [
            HeldPatches(slide, dense=dense) if self.in_memory else slide.store for slide in rows.slides
        ]
        self._slide = np.repeat(np.arange(len(rows.slides)), [len(slide.rows) for slide in rows.slides])
        self._row = np.concatenate([slide.rows for slide in rows.slides])
        self._channel = [
            [rows.markers.index(marker) for marker in slide.store.attributes.markers] for slide in rows.slides
        ]

    def __len__(self) -> int:
        return len(self._row)

    def sparse(self, numbers: Rows) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8 patches in the order of `numbers`."""
        size_px = self.rows.size_px
        pixels = np.empty((len(numbers), size_px, size_px, 3), dtype=np.uint8)
        for slide in np.unique(self._slide[numbers]):
            here = np.flatnonzero(self._slide[numbers] == slide)
            pixels[here] = self._readers[slide].read_sparse(self._row[numbers[here]])
        return pixels

    def dense(self, numbers: Rows) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(n, M, P, P) float32 raw intensities, 0 for absent markers, and (n, M) bool, which are there.

        Raises:
            StatedError: if an intensity is not finite.
        """
        size_px, markers = self.rows.size_px, len(self.rows.markers)
        pixels = np.zeros((len(numbers), markers, size_px, size_px), dtype=np.float32)
        present = np.zeros((len(numbers), markers), dtype=np.bool_)
        for slide in np.unique(self._slide[numbers]):
            here = np.flatnonzero(self._slide[numbers] == slide)
            there = np.ix_(here, self._channel[slide])
            values = self._readers[slide].read_dense(self._row[numbers[here]])
            if not np.issubdtype(values.dtype, np.integer) and not np.isfinite(values).all():
                self._refuse(self.rows.slides[slide], self._row[numbers[here]], values)
            pixels[there] = values
            present[there] = True
        return pixels, present

    def blocks(self) -> Iterator[Rows]:
        """All numbers in order, as many at a time as 64 MiB of float32 intensities hold."""
        patch_bytes = 4 * self.rows.size_px**2 * max(3, len(self.rows.markers))
        rows = max(1, _BLOCK_BYTES // patch_bytes)
        for start in range(0, len(self), rows):
            yield np.arange(start, min(start + rows, len(self)))

    def _refuse(self, slide: TrainingSlide, rows: Rows, values: NDArray[Any]) -> None:
        bad = rows[~np.isfinite(values).all(axis=(1, 2, 3))]
        raise StatedError(
            slide=slide.store.attributes.slide,
            file=slide.store.path,
            expected="finite pixels in all dense patches",
            found=f"nan or infinity in row {bad.min()}",
        )


def epoch_order(count: int, *, seed: int, epoch: int) -> Rows:
    """The numbers 0 to count - 1 in the order of one epoch."""
    return np.random.default_rng(seed_of(seed, "order", epoch)).permutation(count)


def partners(count: int, pairing: str, *, seed: int) -> Rows | None:
    """For every patch the number of the patch whose dense side it is shown with; None for no dense side at all.

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


def make_batch(patches: TrainingPatches, numbers: Rows, partner: Rows | None, *, dense: bool) -> Batch:
    """The batch of these patches, each beside the dense side of its partner."""
    sparse = torch.from_numpy(patches.sparse(numbers))
    if not dense:
        return Batch(sparse, None, None)
    size_px, markers = patches.rows.size_px, len(patches.rows.markers)
    if partner is None:
        blank = torch.zeros(len(numbers), markers, size_px, size_px)
        return Batch(sparse, blank, torch.zeros(len(numbers), markers, dtype=torch.bool))
    pixels, present = patches.dense(partner[numbers])
    return Batch(sparse, torch.from_numpy(pixels), torch.from_numpy(present))


def batches_ahead(
    patches: TrainingPatches, groups: Iterable[Rows], partner: Rows | None, *, dense: bool, pin: bool
) -> Iterator[Batch]:
    """The batches of the groups of numbers, in order, read by a thread that stays a few ahead."""

    def read(numbers: Rows) -> Batch:
        batch = make_batch(patches, numbers, partner, dense=dense)
        return _pinned(batch) if pin else batch

    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting: deque[Future[Batch]] = deque()
        for numbers in groups:
            waiting.append(pool.submit(read, numbers))
            if len(waiting) > _BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    dense = None if batch.dense is None else batch.dense.pin_memory()
    present = None if batch.present is None else batch.present.pin_memory()
    return Batch(batch.sparse.pin_memory(), dense, present)


def _bytes_needed(rows: TrainingRows, *, dense: bool) -> int:
    total = 0
    for slide in rows.slides:
        known = slide.store.attributes
        pixels = len(slide.rows) * known.size_px**2
        total += pixels * 3
        if dense:
            total += pixels * len(known.markers) * slide.store.read_dense([0]).dtype.itemsize
    return total


def groups_of(order: Rows, batch_size: int) -> Sequence[Rows]:
    """The order cut into whole batches; what is left over waits for another epoch's order."""
    return np.split(order[: len(order) // batch_size * batch_size], len(order) // batch_size)
