"""The training patches by number, from memory or from the stores, and the batches made of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import repeat
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.marker_names import UNUSED
from pipeline.tiling.patch_targets import per_library
from pipeline.training.order import Rows
from pipeline.training.rows import TrainingRows, TrainingSlide
from pipeline.training.seeds import seed_of
from pipeline.training.views import Batch

MEMORY_BUDGET_BYTES = 2 * 2**30
_BLOCK_BYTES = 64 * 2**20
_BATCHES_AHEAD = 3
_ROWS_PER_JOB = 64
_ROWS_CONVERTED = 8
_NOTHING = np.empty(0, np.int64)
# Each thread holds a batch; more of them than this hardly feed one training process better.
_MOST_THREADS = 8


class PatchReader(Protocol):
    """What reads the patches of one slide by row: a store, or patches held in memory."""

    def read_sparse(self, rows: Rows, out: NDArray[np.uint8], places: Rows) -> object:
        """Row i to `out[places[i]]`, (P, P, 3) uint8."""

    def read_dense(self, rows: Rows, out: NDArray[Any], places: Rows) -> object:
        """Row i to `out[places[i]]`, (C, P, P) in the slide's own dtype."""


class HeldPatches:
    """The training patches of one slide, read once."""

    def __init__(self, slide: TrainingSlide, *, dense: bool, pool: Executor) -> None:
        store, known = slide.store, slide.store.attributes
        side = (known.size_px, known.size_px)
        self._rows = np.sort(slide.rows)
        self._sparse = np.empty((len(self._rows), *side, 3), np.uint8)
        _read_blocks(store.read_sparse, self._rows, self._sparse, pool)
        self._dense: NDArray[Any] | None = None
        if dense:
            dense_side = (known.dense_size_px, known.dense_size_px)
            self._dense = np.empty((len(self._rows), known.dense_channels, *dense_side), store.dense_dtype)
            _read_blocks(store.read_dense, self._rows, self._dense, pool)

    def read_sparse(self, rows: Rows, out: NDArray[np.uint8], places: Rows) -> None:
        """Row i to `out[places[i]]`, (P, P, 3) uint8."""
        out[places] = self._sparse[np.searchsorted(self._rows, rows)]

    def read_dense(self, rows: Rows, out: NDArray[Any], places: Rows) -> None:
        """Row i to `out[places[i]]`, (C, P, P) in the slide's own dtype."""
        if self._dense is None:
            raise ValueError("the dense side was not read")
        out[places] = self._dense[np.searchsorted(self._rows, rows)]


def _read_blocks(
    read: Callable[[Rows, NDArray[Any], Rows], object], rows: Rows, out: NDArray[Any], pool: Executor
) -> None:
    places = np.arange(len(rows))
    jobs = [pool.submit(read, rows[part], out, part) for part in _cut(places, _ROWS_PER_JOB)]
    for job in jobs:
        job.result()


def _cut(values: Rows, length: int) -> list[Rows]:
    return [values[start : start + length] for start in range(0, len(values), length)]


class TrainingPatches:
    """All training patches of a cohort, numbered 0 to N - 1 in sheet order.

    Attributes:
        slide: (N,) number of the slide of each.
        row: (N,) its row in the store of that slide.
        in_memory: whether all are held there.

    Args:
        rows: which patches.
        dense: whether the dense side will be read.
        budget_bytes: patches that need no more than this are read into memory once.
        targets: (N, T) float32, what a supervised run predicts of each; None in other runs.
    """

    def __init__(
        self,
        rows: TrainingRows,
        *,
        dense: bool,
        budget_bytes: int = MEMORY_BUDGET_BYTES,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        self.rows, self.targets = rows, targets
        self.in_memory = _bytes_needed(rows, dense=dense) <= budget_bytes
        self._readers: list[PatchReader] = [slide.store for slide in rows.slides]
        if self.in_memory:
            with ThreadPoolExecutor(reading_threads()) as pool:
                self._readers = [HeldPatches(slide, dense=dense, pool=pool) for slide in rows.slides]
        self.slide = np.repeat(np.arange(len(rows.slides)), [len(slide.rows) for slide in rows.slides])
        self.row = np.concatenate([slide.rows for slide in rows.slides])
        # Where each slide's channels stand in the panel, and which of them are in it at all.
        self._places = [
            np.arange(rows.dense_channels)
            if rows.dense_kind == "brightfield"
            else np.array(rows.panel.places.get(slide.store.attributes.slide, ()), dtype=np.int64)
            for slide in rows.slides
        ]

    def __len__(self) -> int:
        return len(self.row)

    def sparse(self, numbers: Rows, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(n, P, P, 3) uint8 patches in the order of `numbers`, decoded into `out` where it is given."""
        size_px = self.rows.size_px
        pixels = np.empty((len(numbers), size_px, size_px, 3), dtype=np.uint8) if out is None else out
        for slide, here in self._by_slide(numbers):
            self._readers[slide].read_sparse(self.row[numbers[here]], pixels, here)
        return pixels

    def dense(
        self, numbers: Rows, out: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(n, M, P, P) float32 and (n, M) bool, which of the M channels are there.

        Fluorescence: raw intensities of the panel's markers. Brightfield: R, G, B, 0 to 255. Mask: 1 where the panel's
        class is, 0 elsewhere. Genes: counts per 10,000 of all that the patch's slide has, P being 1. What is absent
        is 0.

        Args:
            numbers: which patches.
            out: array of the first result's shape to read into.

        Raises:
            StatedError: if an intensity is not finite.
        """
        size_px, markers = self.rows.dense_size_px, self.rows.dense_channels
        pixels = np.empty((len(numbers), markers, size_px, size_px), dtype=np.float32) if out is None else out
        present = np.zeros((len(numbers), markers), dtype=np.bool_)
        for slide, here in self._by_slide(numbers):
            places, rows = self._places[slide], self.row[numbers[here]]
            used = np.flatnonzero(places != UNUSED)
            channels = places[used]
            classes = used[:, None, None] + 1 if self.rows.dense_kind == "mask" else None
            present[np.ix_(here, channels)] = True
            absent = np.flatnonzero(~present[here[0]])
            store = self.rows.slides[slide].store
            # A few rows at a time: what is converted is still in the processor's cache, and memory is not doubled.
            values = np.empty(
                (min(_ROWS_CONVERTED, len(here)), store.attributes.dense_channels, size_px, size_px), store.dense_dtype
            )
            for part in _cut(np.argsort(rows, kind="stable"), _ROWS_CONVERTED):
                self._readers[slide].read_dense(rows[part], values, np.arange(len(part)))
                if not np.issubdtype(values.dtype, np.integer) and not np.isfinite(values[: len(part)]).all():
                    self._refuse(self.rows.slides[slide], rows[part], values[: len(part)])
                found = per_library(values) if self.rows.dense_kind == "counts" else values
                for place, value in zip(here[part].tolist(), found, strict=False):
                    pixels[place, channels] = value[used] if classes is None else value == classes
                    pixels[place, absent] = 0
        return pixels, present

    def read_ahead(self, numbers: Rows, *, dense: bool) -> None:
        """Has the system fetch these patches from disk, where they are not in memory, before they are wanted.

        Args:
            numbers: which.
            dense: whether their dense side, too.
        """
        if not self.in_memory:
            for slide, here in self._by_slide(numbers):
                self.rows.slides[slide].store.read_ahead(self.row[numbers[here]], dense=dense)

    def _by_slide(self, numbers: Rows) -> Iterator[tuple[int, Rows]]:
        """Each slide that these patches are of, and their places in `numbers`."""
        slides = self.slide[numbers]
        for slide in np.unique(slides).tolist():
            yield slide, np.flatnonzero(slides == slide)

    def blocks(self) -> Iterator[Rows]:
        """All numbers in order, as many at a time as 64 MiB of float32 intensities hold."""
        patch_bytes = 4 * max(3 * self.rows.size_px**2, self.rows.dense_channels * self.rows.dense_size_px**2)
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


def make_batch(
    patches: TrainingPatches, numbers: Rows, partner: Rows | None, *, dense: bool, pin: bool = False
) -> Batch:
    """The batch of these patches, each beside the dense side, or the target, of its partner.

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
    if not dense:
        target = None
        if patches.targets is not None and partner is not None:
            target = torch.from_numpy(patches.targets[partner[numbers]])
        return Batch(sparse, None, None, target.pin_memory() if pin and target is not None else target)
    if partner is None:
        blank = torch.zeros(count, markers, dense_px, dense_px, pin_memory=pin)
        return Batch(sparse, blank, torch.zeros(count, markers, dtype=torch.bool, pin_memory=pin))
    pixels = torch.empty(count, markers, dense_px, dense_px, pin_memory=pin)
    _, present = patches.dense(partner[numbers], pixels.numpy())
    there = torch.from_numpy(present)
    return Batch(sparse, pixels, there.pin_memory() if pin else there)


def reading_threads(processes: int = 1) -> int:
    """How many threads read patches in each of the processes of this machine: one per core, and no more than eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // processes))


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
    """The batches of the groups of numbers, in order, read ahead of their use.

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
            fetches = [pool.submit(patches.read_ahead, part, dense=pairs) for part in _cut(fetched, _ROWS_PER_JOB)]
            waiting.append((fetches, pool.submit(make_batch, patches, numbers, partner, dense=dense, pin=pin)))
            if len(waiting) > max(_BATCHES_AHEAD, threads):
                yield _taken(*waiting.popleft())
        while waiting:
            yield _taken(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(fetches: Iterable[Future[None]], batch: Future[Batch]) -> Batch:
    """The batch, when all that was read beside it is read without an error."""
    for fetch in fetches:
        fetch.result()
    return batch.result()


def _bytes_needed(rows: TrainingRows, *, dense: bool) -> int:
    total = 0
    for slide in rows.slides:
        known = slide.store.attributes
        total += len(slide.rows) * known.size_px**2 * 3
        if dense:
            values = known.dense_channels * known.dense_size_px**2
            total += len(slide.rows) * values * slide.store.dense_dtype.itemsize
    return total
