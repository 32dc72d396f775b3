"""Random batches of pairs out of a store: our reader, zarr-python, and decoding alone.

Usage: python benchmarks/random_pairs.py [--patches N] [--batch N] [--repeats N] [--check]. Writes a store of copied
256-px JPEG patches with four dense uint16 channels, checks that both readers give the same, then times batches of
random rows in turn. "decode alone" has the chunks in memory and an array to decode into: what no reader can beat.
Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import zarr
from imagecodecs import blosc_decode, jpeg8_decode
from numcodecs import Blosc

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import TILE_PX, interleaved, jpeg_tiles, judged, versions

from pipeline.tiling.store import PatchStore, PatchTable, StoreAttributes, StoreWriter

CHANNELS = 4
GOALS = [
    ("pairs, ours", "pairs, zarr oindex, sorted", 3.0),
    ("pairs, ours", "pairs, decode alone", 0.9),
    ("pairs, ours, 2 threads", "pairs, ours", 1.7),
    ("H&E, ours", "H&E, zarr oindex, sorted", 3.0),
    ("H&E, ours", "H&E, decode alone", 0.9),
    ("H&E, ours, 2 threads", "H&E, ours", 1.7),
]


def main() -> int:
    """Runs all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=2048, help="rows of the store")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
        path = Path(name) / "pairs.zarr"
        streams = draw(path, parsed.patches)
        store, stock = PatchStore.open(path), zarr.open_group(path, mode="r")
        check_equal(store, stock, parsed.batch)
        rates = interleaved(works(store, stock, streams, parsed.batch, pool), parsed.repeats)
    measured, missed = judged(rates, GOALS, "patches")
    result = {
        "benchmark": "random_pairs",
        "batch": parsed.batch,
        "jpeg_bytes": round(sum(map(len, streams)) / len(streams)),
        **measured,
        "missed": missed,
        "versions": versions("imagecodecs", "numcodecs", "zarr"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def dense_patches(count: int) -> np.ndarray:
    """(count, 4, 256, 256) uint16: dark background with noise and cells."""
    rng = np.random.default_rng(2)
    planes = rng.poisson(60, (count, CHANNELS, TILE_PX, TILE_PX)).astype(np.uint16)
    for patch in planes:
        for plane in patch:
            for x, y in rng.integers(0, TILE_PX, (25, 2)).tolist():
                cv2.circle(plane, (x, y), 7, int(rng.integers(500, 4000)), -1)
    return planes


def draw(path: Path, count: int) -> list[bytes]:
    """Writes the store; returns the distinct JPEG streams, row i holding stream i modulo their number."""
    streams = jpeg_tiles()
    planes = dense_patches(len(streams))
    writer = StoreWriter(
        path, patches=count, size_px=TILE_PX, dense_channels=CHANNELS, dense_dtype="uint16", copied=True
    )
    for start in range(0, count, writer.shard_rows):
        rows = np.arange(start, min(start + writer.shard_rows, count)) % len(streams)
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


def check_equal(store: PatchStore, stock: zarr.Group, batch: int) -> None:
    """Both readers give the same pixels."""
    rows = np.random.default_rng(3).integers(0, len(store), batch)
    for name, read in (("sparse", store.read_sparse), ("dense", store.read_dense)):
        if not np.array_equal(read(rows), stock[name].oindex[rows]):
            raise SystemExit(f"{name}: our reader and zarr-python differ")


def works(
    store: PatchStore, stock: zarr.Group, streams: list[bytes], batch: int, pool: ThreadPoolExecutor
) -> dict[str, Callable[[], int]]:
    """All that is timed, each on fresh random rows."""
    rng = np.random.default_rng(4)
    blosc = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)
    planes = [blosc.encode(np.ascontiguousarray(patch)) for patch in dense_patches(len(streams))]
    rgb = np.empty((batch, TILE_PX, TILE_PX, 3), np.uint8)
    dense = np.empty((batch, CHANNELS, TILE_PX, TILE_PX), np.uint16)

    def rows() -> np.ndarray:
        return rng.integers(0, len(store), batch)

    buffers = [(np.empty_like(rgb), np.empty_like(dense)) for _ in range(2)]

    def ours(pairs: bool, turns: int = 2, buffer: int = 0) -> int:
        for _ in range(turns):
            wanted = rows()
            store.read_sparse(wanted, buffers[buffer][0])
            if pairs:
                store.read_dense(wanted, buffers[buffer][1])
        return batch * turns

    def two_threads(pairs: bool) -> int:
        return sum(pool.map(lambda number: ours(pairs, 2, number), range(2)))

    def oindex(pairs: bool) -> int:
        # Out of order, zarr-python takes about twice as long.
        wanted = np.sort(rows())
        stock["sparse"].oindex[wanted]
        if pairs:
            stock["dense"].oindex[wanted]
        return batch

    def alone(pairs: bool) -> int:
        for place, row in enumerate((rows() % len(streams)).tolist()):
            jpeg8_decode(streams[row], out=rgb[place])
            if pairs:
                blosc_decode(planes[row], out=dense[place].reshape(-1).view(np.uint8).data)
        return batch

    found: dict[str, Callable[[], int]] = {}
    for label, pairs in (("pairs", True), ("H&E", False)):
        found[f"{label}, decode alone"] = lambda pairs=pairs: alone(pairs)
        found[f"{label}, ours"] = lambda pairs=pairs: ours(pairs)
        found[f"{label}, ours, 2 threads"] = lambda pairs=pairs: two_threads(pairs)
        found[f"{label}, zarr oindex, sorted"] = lambda pairs=pairs: oindex(pairs)
    return found


if __name__ == "__main__":
    sys.exit(main())
