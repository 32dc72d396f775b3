"""What goes wrong with disks and processes: a clear error, and never a store that looks whole and is not."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_store import write_store

from pipeline.errors import StatedError
from pipeline.provenance import file_digest, finished
from pipeline.store.patch_store import PatchStore
from pipeline.store.shards import CHECKSUM_BYTES, checksum
from pipeline.store.writer import SHARD_ROWS

COUNT = 600
# Writes a store through `finished`, as the stage does: argv is the folder, the seed and how long to wait per block.
WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from drawn_store import write_store
from pipeline.provenance import finished
from pipeline.store.writer import StoreWriter

path, seed, wait = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
write = StoreWriter.write
def slow(self, *arguments):
    write(self, *arguments)
    print("block", flush=True)
    time.sleep(wait)
StoreWriter.write = slow
sparse = np.random.default_rng(seed).integers(0, 256, (600, 16, 16, 3), dtype=np.uint8)
with finished(path) as temporary:
    write_store(temporary, sparse=sparse)
"""


def _sparse(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)


def _start(path: Path, seed: int, wait_s: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(path), str(seed), str(wait_s)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_writer_leaves_no_store_and_the_next_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    process = _start(path, 1, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "block\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    with pytest.raises(StatedError, match="a finished store"):
        PatchStore.open(left)
    with finished(path) as temporary:
        write_store(temporary, sparse=_sparse(2))
    np.testing.assert_array_equal(PatchStore.open(path).read_sparse(slice(None)), _sparse(2))


def test_a_killed_writer_leaves_the_store_that_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_store(path, sparse=_sparse(3))
    before = file_digest(path)
    process = _start(path, 1, 60)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    assert file_digest(path) == before


def test_of_two_writers_at_once_one_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    # Far enough apart at the end: what is tested is that they do not write into each other's files.
    processes = [_start(path, seed, wait) for seed, wait in ((1, 0.2), (2, 2.0))]
    assert [process.wait() for process in processes] == [0, 0]
    np.testing.assert_array_equal(PatchStore.open(path).read_sparse(slice(None)), _sparse(2))
    assert [item.name for item in tmp_path.iterdir()] == ["s.zarr"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=256k"):
        pytest.skip(f"no mount here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)


def test_a_full_disk_is_an_error_and_leaves_nothing(small_disk: Path) -> None:
    path = small_disk / "s.zarr"
    with pytest.raises(StatedError, match="No space left"), finished(path) as temporary:
        write_store(temporary, sparse=_sparse(1))
    assert list(small_disk.iterdir()) == []
    with finished(path) as temporary:
        write_store(temporary, sparse=_sparse(1)[:40])
    np.testing.assert_array_equal(PatchStore.open(path).read_sparse(slice(None)), _sparse(1)[:40])


def test_a_flipped_byte_names_file_and_row_and_leaves_other_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_store(path, sparse=_sparse(1))
    shard = path / "sparse" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(bytes(data[-16 * 1536 - 4 : -4]), "<u8").reshape(-1, 2)
    data[int(index[7, 0]) + 100] ^= 1
    shard.write_bytes(bytes(data))
    store = PatchStore.open(path)
    with pytest.raises(StatedError, match=r"s\.zarr/sparse.*row 7 with another checksum") as told:
        store.read_sparse(slice(None))
    assert told.value.file == path / "sparse"
    np.testing.assert_array_equal(store.read_sparse([6, 8]), _sparse(1)[[6, 8]])


@pytest.mark.parametrize("name", ["position_px", "position_um", "tissue", "pair_quality", "marker_mean"])
def test_a_lost_file_of_the_table_is_an_error_and_not_nothing_but_zeros(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.zarr"
    dense = np.ones((5, 1, 16, 16), np.uint8)
    write_store(path, sparse=_sparse(1)[:5], dense=dense, markers=("DAPI",), pair_quality=np.zeros(5, np.float32))
    assert len(PatchStore.open(path)) == 5
    shutil.rmtree(path / name / "c")
    with pytest.raises(StatedError, match="a finished store"):
        PatchStore.open(path)


def test_a_shard_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write_store(path, sparse=_sparse(1))
    shard = path / "sparse" / "c" / "0" / "0" / "0" / "0"
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(StatedError, match="broken index"):
        PatchStore.open(path).read_sparse([0])


@pytest.mark.parametrize(
    ("begin", "size"), [(2**63, 100), (2**63 - 10, 100), (2**64 - 2, 2**64 - 1), (0, 2**63), (0, 3), (50, 100)]
)
def test_an_index_that_lies_under_a_right_checksum_is_an_error(tmp_path: Path, begin: int, size: int) -> None:
    path = tmp_path / "s.zarr"
    write_store(path, sparse=_sparse(1))
    shard = path / "sparse" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    start = len(data) - 16 * SHARD_ROWS - CHECKSUM_BYTES
    data[start : start + 16] = begin.to_bytes(8, "little") + size.to_bytes(8, "little")
    data[-CHECKSUM_BYTES:] = checksum(bytes(data[start:-CHECKSUM_BYTES]))
    shard.write_bytes(data)
    with pytest.raises(StatedError, match="row 0"):
        PatchStore.open(path).read_sparse([0])


@pytest.mark.parametrize(
    ("name", "change"), [("schema 99", {"schema": 99}), ("size_px", None), ("surprise", {"surprise": 1})]
)
def test_a_store_of_another_kind_is_refused(tmp_path: Path, name: str, change: dict[str, int] | None) -> None:
    path = tmp_path / "s.zarr"
    write_store(path, sparse=_sparse(1)[:5])
    metadata = json.loads((path / "zarr.json").read_text())
    if change is None:
        del metadata["attributes"][name]
    else:
        metadata["attributes"].update(change)
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StatedError, match=name):
        PatchStore.open(path)


def test_imagecodecs_zarr_reads_a_jpeg_store_without_us(tmp_path: Path, peers_python: Path) -> None:
    from pipeline.store.writer import JpegEncoding, StoreWriter

    path = tmp_path / "s.zarr"
    writer = StoreWriter(
        path, patches=20, size_px=16, dense_channels=0, dense_dtype="uint8", jpeg=JpegEncoding(90, "420")
    )
    writer.write(0, _sparse(1)[:20], None)
    code = (
        "import sys, zarr; a = zarr.open_group(sys.argv[1], mode='r')['sparse'];"
        "assert type(a.metadata.codecs[0].codecs[0]).__module__ == 'imagecodecs.zarr', a.metadata;"
        "sys.stdout.buffer.write(a[...].tobytes())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(peers_python), "-P", "-c", code, str(path)], check=True, capture_output=True, cwd=tmp_path, env=environment
    )
    from pipeline.store.sharded_rows import ShardedRows

    rows = ShardedRows.open(path / "sparse")
    assert rows is not None
    assert done.stdout == rows.read(slice(None)).tobytes()


@pytest.mark.parametrize("name", ["overview", "overview_regions"])
def test_an_overview_that_is_damaged_is_named(tmp_path: Path, name: str) -> None:
    sparse = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    write_store(tmp_path / "s.zarr", sparse=sparse)
    opened = PatchStore.open(tmp_path / "s.zarr")
    for chunk in (tmp_path / "s.zarr" / name / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged" * 10)
    with pytest.raises(StatedError, match=f"{name}: expected intact chunks"):
        getattr(opened, name)
