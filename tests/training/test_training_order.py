"""The order of an epoch: what it takes, whom it does not depend on, and what it reads of the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_training import write_cohort
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StatedError
from pipeline.store import writer as store_writer
from pipeline.training.batches import batches_ahead, partners
from pipeline.training.order import Rows, epoch_order, groups_of, read_ahead, shuffled_windows, stored_blocks
from pipeline.training.patches import TrainingPatches
from pipeline.training.processes import Processes
from pipeline.training.rows import read_training_rows

SHARD_ROWS, BLOCK_ROWS, WINDOW_BLOCKS, BATCH = 32, 8, 3, 6


def _cohort(slides: int, rows: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Slide and row of each patch of a cohort of which some rows are left out."""
    kept = [np.flatnonzero(np.random.default_rng([seed, slide]).random(rows) < 0.8) for slide in range(slides)]
    return np.repeat(np.arange(slides), [len(item) for item in kept]), np.concatenate(kept)


def _windows(slide: Rows, row: Rows, seed: int, epoch: int) -> list[Rows]:
    blocks = stored_blocks(slide, row, BLOCK_ROWS)
    return shuffled_windows(blocks, seed=seed, epoch=epoch, window_blocks=WINDOW_BLOCKS)


@given(slides=st.integers(1, 5), rows=st.integers(20, 200), seed=st.integers(0, 10), epoch=st.integers(0, 10))
def test_blocks_take_every_patch_once_and_few_places_at_a_time(slides: int, rows: int, seed: int, epoch: int) -> None:
    slide, row = _cohort(slides, rows, seed)
    windows = _windows(slide, row, seed, epoch)
    order = epoch_order(windows, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), np.arange(len(slide)))
    lengths = [len({(slide[n], row[n] // BLOCK_ROWS) for n in window.tolist()}) for window in windows]
    assert max(lengths) <= WINDOW_BLOCKS
    assert max(lengths) - min(lengths) <= 1
    begin = 0
    for window in windows:
        drawn = order[begin : begin + len(window)]
        assert set(drawn.tolist()) == set(window.tolist())
        begin += len(window)


def test_blocks_differ_by_epoch_and_seed_and_mix_the_rows_of_a_window() -> None:
    slide, row = _cohort(4, 200)
    first, again, later, other = (
        epoch_order(_windows(slide, row, seed, epoch), seed=seed, epoch=epoch)
        for seed, epoch in ((3, 1), (3, 1), (3, 2), (4, 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, other)
    # Neighbours in the store hardly ever follow one another.
    assert np.mean(np.diff(first) == 1) < 0.1


@given(batch_size=st.integers(1, 60), seed=st.integers(0, 5), done=st.floats(0, 0.99))
def test_what_a_batch_holds_was_fetched_when_it_or_an_earlier_one_was_made(
    batch_size: int, seed: int, done: float
) -> None:
    slide, row = _cohort(3, 120, seed)
    windows = _windows(slide, row, seed, 0)
    groups = groups_of(epoch_order(windows, seed=seed, epoch=0), batch_size)
    first = int(done * len(groups))
    fetched: set[int] = set()
    ahead = read_ahead(windows, batch_size, first)
    assert len(ahead) == len(groups[first:])
    for numbers, fetch in zip(groups[first:], ahead, strict=True):
        assert fetched.isdisjoint(fetch.tolist())
        fetched.update(fetch.tolist())
        assert fetched.issuperset(numbers.tolist())
    longest = max(map(len, windows))
    assert max(map(len, ahead[1:]), default=0) <= batch_size
    assert len(ahead[0]) <= 2 * longest + batch_size


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_batches_and_fetches_without_changing_either(count: int) -> None:
    slide, row = _cohort(3, 120)
    windows = _windows(slide, row, 0, 0)
    processes = [Processes(rank, count, rank, count) for rank in range(count)]
    for group in groups_of(epoch_order(windows, seed=0, epoch=0), 12):
        np.testing.assert_array_equal(np.concatenate([group[one.rows(12)] for one in processes]), group)
    for fetch in read_ahead(windows, 12):
        np.testing.assert_array_equal(np.concatenate([one.share(fetch) for one in processes]), fetch)


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingPatches:
    """Three slides of four shards, read from disk."""
    monkeypatch.setattr(store_writer, "SHARD_ROWS", SHARD_ROWS)
    write_cohort(tmp_path, patches=4 * SHARD_ROWS, panels=(("DAPI",), ("DAPI",), ("DAPI",)))
    rows = read_training_rows(
        tmp_path / "patches.tsv", tmp_path / "tile", branches=("sparse", "dense"), batch_size=BATCH
    )
    return TrainingPatches(rows, dense=True, budget_bytes=0)


class DiskReads:
    """Every read of a file in turn: its path, where it begins and how many bytes it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chunks: list[tuple[Path, int, int]] = []
        self.indices: list[Path] = []
        several, one = os.preadv, os.pread

        def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
            done = several(file, buffers, offset)
            self.chunks.append((Path(f"/proc/self/fd/{file}").readlink(), offset, done))
            return done

        def pread(file: int, size: int, offset: int) -> bytes:
            self.indices.append(Path(f"/proc/self/fd/{file}").readlink())
            return one(file, size, offset)

        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr(os, "pread", pread)

    def of_disk(self, side: str) -> int:
        """How many reads of a side wanted bytes that none before had read: those that a system's cache cannot serve."""
        known: dict[Path, set[int]] = {}
        waited = 0
        for path, offset, size in self.chunks:
            if side in path.parts:
                wanted, had = set(range(offset, offset + size)), known.setdefault(path, set())
                waited += not wanted <= had
                had |= wanted
        return waited


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file was read")


@needs_proc
def test_blocks_read_few_shards_at_a_time_and_a_permutation_all(
    patches: TrainingPatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = DiskReads(monkeypatch)
    shards = {}
    everything = [np.arange(len(patches))]
    for name, windows in (("permutation", everything), ("blocks", _windows(patches.slide, patches.row, 0, 0))):
        reads.chunks.clear()
        order = epoch_order(windows, seed=0, epoch=0)
        list(batches_ahead(patches, groups_of(order, BATCH)[:4], None, dense=False, pin=False, threads=1))
        shards[name] = len({path for path, _, _ in reads.chunks})
    assert shards["blocks"] <= WINDOW_BLOCKS
    # 24 rows from 12 shards.
    assert shards["permutation"] >= 9


@needs_proc
@pytest.mark.parametrize("pairing", ["true", "shuffled"])
def test_blocks_are_fetched_with_few_reads_before_their_rows_are_drawn(
    patches: TrainingPatches, monkeypatch: pytest.MonkeyPatch, pairing: str
) -> None:
    windows = _windows(patches.slide, patches.row, 0, 0)
    groups = groups_of(epoch_order(windows, seed=0, epoch=0), 12)
    partner = partners(len(patches), pairing, seed=0)
    plain = list(batches_ahead(patches, groups, partner, dense=True, pin=False))
    reads = DiskReads(monkeypatch)
    ahead = read_ahead(windows, 12)
    fetched = list(batches_ahead(patches, groups, partner, dense=True, pin=False, threads=1, ahead=ahead))
    for one, other in zip(plain, fetched, strict=True):
        assert torch.equal(one.sparse, other.sparse)
        assert torch.equal(one.dense, other.dense)  # type: ignore[arg-type]
    # Twelve rows are parts of two or three blocks of eight. Partners of shuffled pairs lie anywhere.
    few = reads.of_disk("sparse")
    assert few <= 3 * len(groups)
    assert (reads.of_disk("dense") <= 3 * len(groups)) == (pairing == "true")
    reads.chunks.clear()
    list(batches_ahead(patches, groups, partner, dense=True, pin=False, threads=1))
    assert reads.of_disk("sparse") > 2 * few


@needs_proc
def test_the_index_of_a_shard_is_read_once_in_all_epochs(
    patches: TrainingPatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = DiskReads(monkeypatch)
    for epoch in range(2):
        order = epoch_order([np.arange(len(patches))], seed=0, epoch=epoch)
        partner = partners(len(patches), "true", seed=0)
        list(batches_ahead(patches, groups_of(order, BATCH), partner, dense=True, pin=False, threads=1))
    assert len(reads.indices) == len(set(reads.indices)) == 3 * 4 * 2


def test_an_error_while_fetching_reaches_the_one_who_waits(patches: TrainingPatches) -> None:
    store = patches.rows.slides[1].store.path
    (store / "sparse" / "c" / "3" / "0" / "0" / "0").write_bytes(b"x" * 100)
    numbers = np.arange(BATCH)
    last = np.flatnonzero((patches.slide == 1) & (patches.row >= 3 * SHARD_ROWS))
    with pytest.raises(StatedError, match="broken index"):
        list(batches_ahead(patches, [numbers], None, dense=False, pin=False, ahead=[last]))
