"""The store: plain Zarr v3, rows that belong together, nothing half-written taken for whole."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from drawn_store import write_store

from pipeline.errors import StatedError
from pipeline.tiling.store import PatchStore, StoreWriter, rows_per_shard


def _pixels(count: int, size_px: int = 16, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    sparse = rng.integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
    dense = rng.integers(0, 65536, (count, channels, size_px, size_px), dtype=np.uint16)
    return sparse, dense


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    sparse, dense = _pixels(700)
    write_store(tmp_path / "s.zarr", sparse=sparse, dense=dense, markers=("a", "b", "c"))
    store = PatchStore.open(tmp_path / "s.zarr")
    rows = np.array([699, 0, 513, 2, 2])
    np.testing.assert_array_equal(store.read_sparse(rows), sparse[rows])
    np.testing.assert_array_equal(store.read_dense(rows), dense[rows])
    np.testing.assert_array_equal(store.read_sparse(slice(10, 13)), sparse[10:13])
    assert len(store) == 700
    assert store.attributes.markers == ("a", "b", "c")


def test_stock_zarr_reads_it_one_chunk_per_patch_and_few_files(tmp_path: Path) -> None:
    sparse, dense = _pixels(1100)
    write_store(tmp_path / "s.zarr", sparse=sparse, dense=dense, markers=("a", "b", "c"))
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["sparse"].chunks == (1, 16, 16, 3)
    assert group["dense"].shards == (group["sparse"].shards[0], 3, 16, 16)
    np.testing.assert_array_equal(group["dense"][1099], dense[1099])
    assert sum(1 for file in (tmp_path / "s.zarr").rglob("*") if file.is_file()) < 30


def test_shards_written_at_once_by_threads_equal_those_written_in_turn(tmp_path: Path) -> None:
    sparse, _ = _pixels(2000)
    for name, threads in (("one.zarr", 1), ("two.zarr", 2)):
        writer = StoreWriter(tmp_path / name, patches=2000, size_px=16, dense_channels=0, dense_dtype="uint8")
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, 2000, writer.shard_rows):
                pool.submit(writer.write, start, sparse[start : start + writer.shard_rows], None)
    one, two = (zarr.open_group(tmp_path / name, mode="r")["sparse"][...] for name in ("one.zarr", "two.zarr"))
    np.testing.assert_array_equal(one, sparse)
    np.testing.assert_array_equal(two, sparse)


def test_a_writer_refuses_rows_that_share_a_shard_with_others(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s.zarr", patches=2000, size_px=16, dense_channels=0, dense_dtype="uint8")
    with pytest.raises(ValueError, match="not the first of a shard"):
        writer.write(1, _pixels(5)[0], None)


def test_an_unfinished_store_is_no_store(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s.zarr", patches=10, size_px=16, dense_channels=0, dense_dtype="uint8")
    writer.write(0, _pixels(10)[0], None)
    with pytest.raises(StatedError, match="a finished store"):
        PatchStore.open(tmp_path / "s.zarr")
    with pytest.raises(StatedError, match="no Zarr v3 group"):
        PatchStore.open(tmp_path / "nothing.zarr")


def test_a_flipped_byte_in_a_chunk_is_noticed(tmp_path: Path) -> None:
    sparse, _ = _pixels(20)
    write_store(tmp_path / "s.zarr", sparse=sparse)
    shard = tmp_path / "s.zarr" / "sparse" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[300] ^= 0xFF
    shard.write_bytes(bytes(data))
    with pytest.raises(StatedError, match="intact chunks"):
        PatchStore.open(tmp_path / "s.zarr").read_sparse(slice(0, 20))


def test_snakemakes_dotfile_does_not_disturb(tmp_path: Path) -> None:
    sparse, _ = _pixels(5)
    write_store(tmp_path / "s.zarr", sparse=sparse)
    (tmp_path / "s.zarr" / ".snakemake_timestamp").touch()
    shutil.copytree(tmp_path / "s.zarr", tmp_path / "copy.zarr")
    np.testing.assert_array_equal(PatchStore.open(tmp_path / "copy.zarr").read_sparse([3]), sparse[3:4])


@pytest.mark.parametrize(("size_px", "channels", "itemsize"), [(64, 8, 2), (256, 18, 1), (256, 40, 2), (4096, 40, 4)])
def test_a_shard_is_bounded_in_memory(size_px: int, channels: int, itemsize: int) -> None:
    rows = rows_per_shard(size_px, channels, itemsize)
    assert rows >= 1
    assert rows == 1 or rows * size_px**2 * max(3, channels * itemsize) <= 64 * 2**20
