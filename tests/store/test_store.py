"""The store: plain Zarr v3, rows that belong together, nothing half-written taken for whole."""

from __future__ import annotations

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from drawn_store import write_store
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg8_encode
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.store.blosc_encoding import dense_encoding
from pipeline.store.patch_store import PatchStore, PatchTable, StoreAttributes
from pipeline.store.writer import SHARD_ROWS, JpegEncoding, StoreWriter, rows_per_block


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


def test_blocks_written_by_threads_in_any_order_give_the_same_files(tmp_path: Path) -> None:
    sparse, dense = _pixels(2000)
    digests = []
    for name, threads, backwards in (("one.zarr", 1, False), ("two.zarr", 2, True)):
        writer = StoreWriter(tmp_path / name, patches=2000, size_px=16, dense_channels=3, dense_dtype="uint16")
        starts = range(0, 2000, writer.block_rows)
        with ThreadPoolExecutor(threads) as pool:
            for start in reversed(starts) if backwards else starts:
                rows = slice(start, start + writer.block_rows)
                pool.submit(writer.write, start, sparse[rows], dense[rows]).result()
        digests.append(file_digest(tmp_path / name))
        group = zarr.open_group(tmp_path / name, mode="r")
        np.testing.assert_array_equal(group["sparse"][...], sparse)
        np.testing.assert_array_equal(group["dense"][...], dense)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_blocks_come_shard_by_shard_to_each_thread(tmp_path: Path, threads: int) -> None:
    patches = 4 * SHARD_ROWS + 300
    writer = StoreWriter(tmp_path / "s.zarr", patches=patches, size_px=256, dense_channels=2, dense_dtype="uint16")
    starts = writer.block_starts(threads)
    assert sorted(starts) == list(range(0, patches, writer.block_rows))
    shards = [start // SHARD_ROWS for start in starts]
    for shard in set(shards):
        own = [start for start in starts if start // SHARD_ROWS == shard]
        assert own == sorted(own)
    at_once = min(threads, 4)
    first = shards[: at_once * SHARD_ROWS // writer.block_rows]
    for begin in range(0, len(first), at_once):
        assert len(set(first[begin : begin + at_once])) == at_once


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_pixel_type_comes_back_exactly_here_and_in_zarr(tmp_path: Path, dtype: str) -> None:
    dense = np.random.default_rng(0).integers(0, 200, (5, 2, 16, 16)).astype(dtype)
    dense[3] = 0
    write_store(tmp_path / "s.zarr", sparse=_pixels(5)[0], dense=dense, markers=("a", "b"))
    store = PatchStore.open(tmp_path / "s.zarr")
    assert store.dense_dtype == dense.dtype
    np.testing.assert_array_equal(store.read_dense(slice(None)), dense)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "s.zarr", mode="r")["dense"][...], dense)


@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_patches_encoded_again_are_jpeg_that_pillow_reads_the_same(tmp_path: Path, subsampling: str) -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    sparse = np.broadcast_to(ramp[None, :, None, None], (6, 32, 32, 3)) // np.array([1, 2, 3], np.uint8)
    encoding = JpegEncoding(90, subsampling)
    writer = StoreWriter(
        tmp_path / "s.zarr", patches=6, size_px=32, dense_channels=0, dense_dtype="uint8", jpeg=encoding
    )
    writer.write(0, sparse, None)
    _finish(writer, 6, size_px=32)
    found = PatchStore.open(tmp_path / "s.zarr").read_sparse(slice(None))
    assert np.abs(found.astype(int) - sparse).max() <= 12
    np.testing.assert_array_equal(found, zarr.open_group(tmp_path / "s.zarr", mode="r")["sparse"][...])
    data = (tmp_path / "s.zarr" / "sparse" / "c" / "0" / "0" / "0" / "0").read_bytes()
    with Image.open(io.BytesIO(data[: data.index(b"\xff\xd9") + 2])) as picture:
        assert picture.format == "JPEG"
        assert get_sampling(picture) == {"444": 0, "420": 2}[subsampling]
        np.testing.assert_array_equal(np.asarray(picture), found[0])


def test_a_writer_refuses_rows_that_share_a_shard_with_others(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s.zarr", patches=2000, size_px=16, dense_channels=0, dense_dtype="uint8")
    with pytest.raises(ValueError, match="not whole blocks"):
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
    rows = rows_per_block(size_px, channels * itemsize * size_px**2)
    assert rows >= 1
    assert rows == 1 or rows * size_px**2 * max(3, channels * itemsize) <= 64 * 2**20


@pytest.fixture(scope="module")
def two_sided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1600 rows in two shards; some rows are nothing but 0, which Zarr does not store."""
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    sparse, dense = _pixels(1600)
    sparse[[3, 598]] = 0
    dense[[0, 5, 599]] = 0
    write_store(path, sparse=sparse, dense=dense, markers=("a", "b", "c"))
    return path


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2000 JPEG streams in two shards."""
    path = tmp_path_factory.mktemp("stores") / "c.zarr"
    writer = StoreWriter(path, patches=2000, size_px=16, dense_channels=0, dense_dtype="uint8", copied=True)
    streams = [(jpeg8_encode(patch, level=90),) for patch in _pixels(2000)[0]]
    for start in range(0, 2000, writer.block_rows):
        writer.copy(start, streams[start : start + writer.block_rows], None)
    _finish(writer)
    return path


def _finish(writer: StoreWriter, count: int = 2000, size_px: int = 16) -> None:
    table = PatchTable(
        position_px=np.zeros((count, 2), np.int64),
        position_um=np.zeros((count, 2)),
        tissue=np.ones(count, np.float32),
        residual_um=np.ones(count, np.float32),
        pair_quality=np.ones(count, np.float32),
        marker_mean=np.zeros((count, 0), np.float32),
    )
    known = StoreAttributes(
        "s1", "p1", size_px, 1.0, 1.0, (16, 16), 16, 8.0, (), None, "", {"kept": count}, {"codec": "jpeg-copied"}, {}
    )
    writer.finish(known, table, np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(-1600, 1599), max_size=12))
def test_our_reader_gives_what_zarr_gives(two_sided: Path, rows: list[int]) -> None:
    store, stock = PatchStore.open(two_sided), zarr.open_group(two_sided, mode="r")
    index = np.asarray(rows, dtype=np.int64)
    for name, read in (("sparse", store.read_sparse), ("dense", store.read_dense)):
        found, expected = read(index), stock[name][...][index]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 1999), min_size=1, max_size=12), step=st.sampled_from([1, 7, -1]))
def test_our_reader_decodes_copied_rows_as_zarr_does(copied: Path, rows: list[int], step: int) -> None:
    store, stock = PatchStore.open(copied), zarr.open_group(copied, mode="r")["sparse"]
    np.testing.assert_array_equal(store.read_sparse(rows), stock.oindex[np.array(rows)])
    part = slice(None, None, step) if step == -1 else slice(rows[0], None, step)
    assert len(store.read_sparse(part)) == len(range(2000)[part])
    np.testing.assert_array_equal(store.read_sparse(part)[:3], stock.oindex[np.arange(2000)[part][:3]])


def test_threads_may_read_one_store_at_once(copied: Path) -> None:
    store = PatchStore.open(copied)
    rows = [np.random.default_rng(seed).integers(0, 2000, 64) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in zip(rows, pool.map(store.read_sparse, rows), strict=True):
            np.testing.assert_array_equal(found, PatchStore.open(copied).read_sparse(wanted))


def test_rows_are_decoded_into_the_array_that_is_given(two_sided: Path) -> None:
    store = PatchStore.open(two_sided)
    sparse, dense = np.full((2, 16, 16, 3), 7, np.uint8), np.full((2, 3, 16, 16), 7, np.uint16)
    assert store.read_sparse([3, 599], sparse) is sparse
    assert store.read_dense([5, 4], dense) is dense
    np.testing.assert_array_equal(sparse, store.read_sparse([3, 599]))
    np.testing.assert_array_equal(dense, store.read_dense([5, 4]))
    with pytest.raises(ValueError, match="to read into"):
        store.read_sparse([1, 2, 3], sparse)


def test_rows_that_are_not_there_are_refused(two_sided: Path) -> None:
    with pytest.raises(IndexError):
        PatchStore.open(two_sided).read_sparse([1600])


@pytest.mark.parametrize("where", ["chunk", "index", "short", "gone"])
def test_a_copied_store_that_was_damaged_is_stated(copied: Path, tmp_path: Path, where: str) -> None:
    shutil.copytree(copied, tmp_path / "c.zarr")
    shard = tmp_path / "c.zarr" / "sparse" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    if where == "gone":
        shard.unlink()
    else:
        data[{"chunk": 300, "index": -100, "short": -1}[where]] ^= 0x10
        shard.write_bytes(bytes(data[:-40] if where == "short" else data))
    if where == "gone":
        with pytest.raises(StatedError, match="no shard 0 of sparse"):
            PatchStore.open(tmp_path / "c.zarr")
        return
    store = PatchStore.open(tmp_path / "c.zarr")
    with pytest.raises(StatedError, match="intact chunks"):
        store.read_sparse(slice(0, 20))
    assert len(store.read_sparse([1999])) == 1


def test_blank_patches_are_written_so_that_a_lost_shard_cannot_pass_for_them(tmp_path: Path) -> None:
    path = tmp_path / "blank.zarr"
    write_store(
        path,
        sparse=np.zeros((5, 16, 16, 3), np.uint8),
        dense=np.zeros((5, 2, 16, 16), np.uint16),
        markers=("DAPI", "CD3"),
    )
    assert not PatchStore.open(path).read_dense(slice(None)).any()
    shutil.rmtree(path / "dense" / "c" / "0")
    with pytest.raises(StatedError, match="no shard 0 of dense"):
        PatchStore.open(path)


def test_a_store_rewritten_with_other_codecs_is_read_through_zarr(two_sided: Path, tmp_path: Path) -> None:
    shutil.copytree(two_sided, tmp_path / "s.zarr")
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+")
    pixels = group["sparse"][...]
    group.create_array("sparse", data=pixels, chunks=(1, 16, 16, 3), overwrite=True)
    np.testing.assert_array_equal(PatchStore.open(tmp_path / "s.zarr").read_sparse([599, 2]), pixels[[599, 2]])


def test_a_slide_of_50000_pairs_of_18_channels_is_at_most_100_files(tmp_path: Path) -> None:
    """Shards do not depend on the size of a patch, so that small ones show it."""
    count = 50_000
    writer = StoreWriter(tmp_path / "s.zarr", patches=count, size_px=1, dense_channels=18, dense_dtype="uint8")
    rows, planes = np.ones((count, 1, 1, 3), np.uint8), np.ones((count, 18, 1, 1), np.uint8)
    for start in range(0, count, writer.block_rows):
        block = slice(start, start + writer.block_rows)
        writer.copy(start, [(b"x",)] * len(rows[block]), planes[block])
    _finish(writer, count)
    assert sum(path.is_file() for path in (tmp_path / "s.zarr").rglob("*")) <= 100


def test_reading_a_whole_side_takes_little_more_memory_than_its_pixels(tmp_path: Path) -> None:
    import tracemalloc

    sparse = np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8)
    write_store(tmp_path / "s.zarr", sparse=sparse)
    store = PatchStore.open(tmp_path / "s.zarr")
    rows = np.arange(3000)
    tracemalloc.start()
    found = store.read_sparse(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(found, sparse)
    assert peak < 1.5 * sparse.nbytes


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_chunks_are_shuffled_by_the_width_of_their_pixels(dtype: str) -> None:
    (chunk,) = dense_encoding(np.dtype(dtype)).encode(np.ones((2, 64, 64), dtype))
    assert chunk[3] == np.dtype(dtype).itemsize
