"""Read the training patches by number, from memory or from the stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.marker_names import UNUSED
from pipeline.training.dense_kinds import dense_kind
from pipeline.training.order import Rows, in_parts
from pipeline.training.rows import TrainingRows, TrainingSlide

MEMORY_BUDGET_BYTES = 2 * 2**30
_BLOCK_BYTES = 64 * 2**20
ROWS_PER_JOB = 64
_ROWS_CONVERTED = 8
# Each thread holds a batch; more of them than this hardly feed one training process better.
_MOST_THREADS = 8


class PatchReader(Protocol):
    """What reads the patches of one slide by row: a store, or patches held in memory."""

    def read_sparse(self, rows: Rows, out: NDArray[np.uint8], indices: Rows) -> object:
        """Return row i to `out[indices[i]]`, (P, P, 3) uint8."""

    def read_dense(self, rows: Rows, out: NDArray[Any], indices: Rows) -> object:
        """Return row i to `out[indices[i]]`, (C, P, P) in the slide's own dtype."""


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

    def read_sparse(self, rows: Rows, out: NDArray[np.uint8], indices: Rows) -> None:
        """Read row i into `out[indices[i]]`, (P, P, 3) uint8."""
        out[indices] = self._sparse[np.searchsorted(self._rows, rows)]

    def read_dense(self, rows: Rows, out: NDArray[Any], indices: Rows) -> None:
        """Read row i into `out[indices[i]]`, (C, P, P) in the slide's own dtype."""
        if self._dense is None:
            raise ValueError("the dense side was not read")
        out[indices] = self._dense[np.searchsorted(self._rows, rows)]


def _read_blocks(
    read: Callable[[Rows, NDArray[Any], Rows], object], rows: Rows, out: NDArray[Any], pool: Executor
) -> None:
    indices = np.arange(len(rows))
    jobs = [pool.submit(read, rows[part], out, part) for part in in_parts(indices, ROWS_PER_JOB)]
    for job in jobs:
        job.result()


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
        targets: (N, T) float32, what a target branch predicts of each; None without one.
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
        self._kind = dense_kind(rows.dense_kind)
        self._channels = [
            self._kind.channel_indices(rows.panel, slide.store.attributes.slide)
            if self._kind
            else np.zeros(0, np.int64)
            for slide in rows.slides
        ]

    def __len__(self) -> int:
        return len(self.row)

    def sparse(self, numbers: Rows, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return (n, P, P, 3) uint8 patches in the order of `numbers`, decoded into `out` where it is given."""
        size_px = self.rows.size_px
        pixels = np.empty((len(numbers), size_px, size_px, 3), dtype=np.uint8) if out is None else out
        for slide, here in self._by_slide(numbers):
            self._readers[slide].read_sparse(self.row[numbers[here]], pixels, here)
        return pixels

    def dense(
        self, numbers: Rows, out: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return (n, M, P, P) float32 and (n, M) bool, which of the M channels are there.

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
            indices, rows = self._channels[slide], self.row[numbers[here]]
            used = np.flatnonzero(indices != UNUSED)
            channels = indices[used]
            present[np.ix_(here, channels)] = True
            absent = np.flatnonzero(~present[here[0]])
            store = self.rows.slides[slide].store
            # A few rows at a time: what is converted is still in the processor's cache, and memory is not doubled.
            values = np.empty(
                (min(_ROWS_CONVERTED, len(here)), store.attributes.dense_channels, size_px, size_px), store.dense_dtype
            )
            for part in in_parts(np.argsort(rows, kind="stable"), _ROWS_CONVERTED):
                self._readers[slide].read_dense(rows[part], values, np.arange(len(part)))
                if not np.issubdtype(values.dtype, np.integer) and not np.isfinite(values[: len(part)]).all():
                    self._refuse(self.rows.slides[slide], rows[part], values[: len(part)])
                for index, value in zip(here[part].tolist(), values, strict=False):
                    pixels[index, channels] = self._kind.of_panel(value, used)
                    pixels[index, absent] = 0
        return pixels, present

    def read_ahead(self, numbers: Rows, *, dense: bool) -> None:
        """Have the system fetch these patches from disk, where they are not in memory, before they are wanted.

        Args:
            numbers: which.
            dense: whether their dense side, too.
        """
        if not self.in_memory:
            for slide, here in self._by_slide(numbers):
                self.rows.slides[slide].store.read_ahead(self.row[numbers[here]], dense=dense)

    def _by_slide(self, numbers: Rows) -> Iterator[tuple[int, Rows]]:
        """Yield each slide that these patches are of, and their places in `numbers`."""
        slides = self.slide[numbers]
        for slide in np.unique(slides).tolist():
            yield slide, np.flatnonzero(slides == slide)

    def blocks(self) -> Iterator[Rows]:
        """Yield all numbers in order, as many at a time as 64 MiB of float32 intensities hold."""
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


def reading_threads(processes: int = 1) -> int:
    """Return how many threads read patches in each of the processes of this machine.

    One per core, and no more than eight.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(_MOST_THREADS, cores // processes))


def _bytes_needed(rows: TrainingRows, *, dense: bool) -> int:
    total = 0
    for slide in rows.slides:
        known = slide.store.attributes
        total += len(slide.rows) * known.size_px**2 * 3
        if dense:
            values = known.dense_channels * known.dense_size_px**2
            total += len(slide.rows) * values * slide.store.dense_dtype.itemsize
    return total
