"""Random batches of pairs out of a store: our reader, zarr-python, LMDB, and decoding alone.

Usage: python benchmarks/random_pairs.py [--patches N] [--batch N] [--repeats N] [--check]. Writes a store of copied
256-px JPEG patches with four dense uint16 channels, checks that both readers give the same, then times batches of
random rows in turn. "decode alone" has the chunks in memory and an array to decode into: what no reader can beat, and
with two threads what the machine allows. LMDB holds the same chunks and is decoded as ours, but keeps no checksums;
`make benchmarks` brings it. Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is
missed, or not measured because LMDB is absent.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import zarr
from imagecodecs import blosc_decode
from simplejpeg import decode_jpeg

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import TILE_PX, interleaved, jpeg_tiles, judged, versions

from pipeline.store.patch_store import PatchStore, PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter

if TYPE_CHECKING:
    import lmdb

CHANNELS = 4
GOALS = [
    ("pairs, ours", "pairs, zarr row by row", 3.0),
    ("pairs, ours", "pairs, decode alone", 0.9),
    ("pairs, ours", "pairs, LMDB", 1.0),
    ("pairs, ours, 2 threads", "pairs, ours", 1.7),
    ("pairs, ours, 2 threads", "pairs, decode alone, 2 threads", 0.9),
    ("H&E, ours", "H&E, zarr row by row", 3.0),
    ("H&E, ours", "H&E, decode alone", 0.9),
    ("H&E, ours", "H&E, LMDB", 1.0),
    ("H&E, ours, 2 threads", "H&E, ours", 1.7),
    ("H&E, ours, 2 threads", "H&E, decode alone, 2 threads", 0.9),
]


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=2048, help="rows of the store")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        path = Path(name) / "pairs.zarr"
        streams = draw(path, parsed.patches)
        peer = as_lmdb(Path(name) / "lmdb", PatchStore.open(path))
        store, stock = PatchStore.open(path), zarr.open_group(path, mode="r")
        rates = interleaved(works(store, stock, peer, parsed.batch, pool), parsed.repeats)
    measured, missed = judged(rates, GOALS, "patches")
    result = {
        "benchmark": "random_pairs",
        "batch": parsed.batch,
        "jpeg_bytes": round(sum(map(len, streams)) / len(streams)),
        **measured,
        "missed": missed,
        "versions": versions("imagecodecs", *([] if peer is None else ["lmdb"]), "zarr"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def dense_patches(count: int) -> np.ndarray:
    """Return (count, 4, 256, 256) uint16: dark background with noise and cells."""
    rng = np.random.default_rng(2)
    planes = rng.poisson(60, (count, CHANNELS, TILE_PX, TILE_PX)).astype(np.uint16)
    for patch in planes:
        for plane in patch:
            for x, y in rng.integers(0, TILE_PX, (25, 2)).tolist():
                cv2.circle(plane, (x, y), 7, int(rng.integers(500, 4000)), -1)
    return planes


def draw(path: Path, count: int) -> list[bytes]:
    """Write the store; returns the distinct JPEG streams, row i holding stream i modulo their number."""
    streams = jpeg_tiles()
    planes = dense_patches(len(streams))
    writer = StoreWriter(
        path, patches=count, size_px=TILE_PX, dense_channels=CHANNELS, dense_dtype="uint16", copied=True
    )
    for start in range(0, count, writer.block_rows):
        rows = np.arange(start, min(start + writer.block_rows, count)) % len(streams)
        writer.copy(start, [(streams[row],) for row in rows], planes[rows])
    nothing = np.zeros(count, np.float32)
    table = PatchTable(
        np.zeros((count, 2), np.int64),
        np.zeros((count, 2)),
        nothing + 1,
        nothing,
        nothing + 1,
        np.zeros((count, CHANNELS), np.float32),
    )
    markers = tuple(f"m{number}" for number in range(CHANNELS))
    known = StoreAttributes(
        "drawn", "p", TILE_PX, 0.5, 0.5, (1, 1), TILE_PX, 8.0, markers, 0, "pass", {"kept": count}, {}, {}
    )
    writer.finish(known, table, np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool))
    return streams


def as_lmdb(path: Path, store: PatchStore) -> lmdb.Environment | None:
    """Return an LMDB of the store's chunks without checksums, keyed `s` or `d` and row; None where lmdb is absent."""
    try:
        import lmdb
    except ImportError:
        return None
    environment = lmdb.open(str(path), map_size=16 * 2**30, readahead=False, lock=False)
    with environment.begin(write=True) as transaction:
        for name in ("sparse", "dense"):
            for row, chunk in enumerate(encoded_chunks(store.path / name)):
                transaction.put(key(name, row), chunk)
    return environment


def encoded_chunks(array: Path) -> Iterator[bytes]:
    """Yield the chunks of an array in the order of their rows, as they are stored, without their checksums."""
    rows = zarr.open_array(array, mode="r").shards[0]
    for shard in sorted((array / "c").glob("*/0/0/0"), key=lambda path: int(path.parts[-4])):
        data = shard.read_bytes()
        index = np.frombuffer(data[-16 * rows - 4 : -4], dtype="<u8").reshape(-1, 2)
        for begin, size in index[index[:, 1] < 2**63].tolist():
            yield data[begin : begin + size - 4]


def key(name: str, row: int) -> bytes:
    """Return what a chunk is called in the LMDB."""
    return b"%c%08d" % (name[0].encode(), row)


@dataclass(frozen=True)
class Buffers:
    """What a thread decodes a batch into."""

    rgb: np.ndarray
    dense: np.ndarray

    def decode(self, place: int, stream: bytes, planes: bytes | None) -> None:
        """Decode one pair, as every reader here does."""
        decode_jpeg(stream, buffer=self.rgb[place], strict=False)
        if planes is not None:
            blosc_decode(planes, numthreads=1, out=self.dense[place].reshape(-1).view(np.uint8).data)


def works(
    store: PatchStore, stock: zarr.Group, peer: lmdb.Environment | None, batch: int, pool: ThreadPoolExecutor
) -> dict[str, Callable[[], int]]:
    """Return all that is timed, each on fresh random rows; one turn is two batches of each thread."""
    streams, planes = (list(encoded_chunks(store.path / name)) for name in ("sparse", "dense"))
    shape = (batch, TILE_PX, TILE_PX)
    buffers = [
        Buffers(np.zeros((*shape, 3), np.uint8), np.zeros((batch, CHANNELS, TILE_PX, TILE_PX), np.uint16))
        for _ in range(2)
    ]
    randoms = [np.random.default_rng(seed) for seed in (4, 5)]

    def ours(rows: np.ndarray, into: Buffers, pairs: bool) -> None:
        store.read_sparse(rows, into.rgb)
        if pairs:
            store.read_dense(rows, into.dense)

    def by_zarr(rows: np.ndarray, into: Buffers, pairs: bool) -> None:
        # Row by row: `oindex` makes a coordinate of every pixel in a shard, and takes many times as long.
        for place, row in enumerate(rows.tolist()):
            into.rgb[place] = stock["sparse"][row]
            if pairs:
                into.dense[place] = stock["dense"][row]

    def from_lmdb(rows: np.ndarray, into: Buffers, pairs: bool) -> None:
        assert peer is not None
        with peer.begin(buffers=True) as transaction:
            for place, row in enumerate(rows.tolist()):
                dense = transaction.get(key("dense", row)) if pairs else None
                into.decode(place, transaction.get(key("sparse", row)), dense)

    def alone(rows: np.ndarray, into: Buffers, pairs: bool) -> None:
        for place, row in enumerate(rows.tolist()):
            into.decode(place, streams[row], planes[row] if pairs else None)

    def timed(read: Callable[[np.ndarray, Buffers, bool], None], pairs: bool, threads: int) -> Callable[[], int]:
        def batches(thread: int) -> int:
            for _ in range(2):
                read(randoms[thread].integers(0, len(store), batch), buffers[thread], pairs)
            return 2 * batch

        return lambda: sum(pool.map(batches, range(threads)))

    for read in (ours, by_zarr, *([] if peer is None else [from_lmdb])):
        check_batch(store, read, buffers[0])
    found: dict[str, Callable[[], int]] = {}
    for label, pairs in (("pairs", True), ("H&E", False)):
        found[f"{label}, decode alone"] = timed(alone, pairs, 1)
        found[f"{label}, ours"] = timed(ours, pairs, 1)
        if peer is not None:
            found[f"{label}, LMDB"] = timed(from_lmdb, pairs, 1)
        found[f"{label}, decode alone, 2 threads"] = timed(alone, pairs, 2)
        found[f"{label}, ours, 2 threads"] = timed(ours, pairs, 2)
        found[f"{label}, zarr row by row"] = timed(by_zarr, pairs, 1)
    return found


def check_batch(store: PatchStore, read: Callable[[np.ndarray, Buffers, bool], None], into: Buffers) -> None:
    """Have the reader fill the buffers with these rows."""
    rows = np.sort(np.random.default_rng(6).integers(0, len(store), len(into.rgb)))
    read(rows, into, True)
    if not (np.array_equal(into.rgb, store.read_sparse(rows)) and np.array_equal(into.dense, store.read_dense(rows))):
        raise SystemExit("the readers differ")


if __name__ == "__main__":
    sys.exit(main())
