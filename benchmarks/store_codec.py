"""Lossless codecs for the pixels of a store: size, and how fast they are written and read.

Usage: MFL_REAL_DATA=… python benchmarks/store_codec.py [--patches N] [--repeats N]. Patches of 256 px out of the
ORION images: H&E, 18 channels uint8, and the same as uint16 with the gain, offset and shot noise of a camera. Each
patch is one blosc chunk, as in a store; each must come back equal. By processor time of one thread;
the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import tifffile
from drawn_slide import versions
from imagecodecs import blosc_decode
from numcodecs import Blosc

PATCH_PX = 256
SHUFFLES = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}
CODECS = [("zstd", 1), ("zstd", 3), ("zstd", 5), ("lz4", 1), ("lz4", 5)]
GAIN, OFFSET = 12, 80


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=24, help="patches of each kind")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the fastest counts")
    parsed = parser.parse_args()
    found = {}
    print(f"{'':24}{'raw/stored':>12}{'write MB/s':>12}{'read MB/s':>12}")
    for kind, patches in kinds(parsed.patches).items():
        for (name, level), shuffle in product(CODECS, SHUFFLES):
            if shuffle == "bytes" and patches[0].itemsize == 1:
                continue
            label = f"{kind} {name} {level} {shuffle}"
            codec = Blosc(cname=name, clevel=level, shuffle=SHUFFLES[shuffle])
            found[label] = measured(codec, patches, parsed.repeats)
            print(f"{label:24}{found[label][0]:12.2f}{found[label][1]:12,.0f}{found[label][2]:12,.0f}", flush=True)
    print(json.dumps({"benchmark": "store_codec", "found": found, "versions": versions("numcodecs", "imagecodecs")}))


def kinds(count: int) -> dict[str, list[np.ndarray]]:
    """Return patches of tissue by kind; (C, P, P), H&E as (P, P, 3)."""
    folder = Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01"
    dense, rgb = tifffile.imread(folder / "west_mif.ome.tif"), tifffile.imread(folder / "west_he.tif")
    rng = np.random.default_rng(0)
    corners = rng.integers(0, np.array(dense.shape[1:]) - PATCH_PX, (8 * count, 2))
    places = [(slice(y, y + PATCH_PX), slice(x, x + PATCH_PX)) for y, x in corners.tolist()]
    tissue = [place for place in places if rgb[place].mean() < 215][:count]
    planes = [np.ascontiguousarray(dense[:, *place]) for place in tissue]
    camera = [rng.poisson(patch * np.float32(GAIN) + OFFSET).astype(np.uint16) for patch in planes]
    return {"H&E": [np.ascontiguousarray(rgb[place]) for place in tissue], "uint8": planes, "uint16": camera}


def measured(codec: Blosc, patches: list[np.ndarray], repeats: int) -> tuple[float, int, int]:
    """Return how many times smaller, and megabytes of pixels written and read per second."""
    size_mb = sum(patch.nbytes for patch in patches) / 1e6
    write, read, chunks = [], [], []
    for _ in range(repeats):
        start = time.process_time()
        chunks = [codec.encode(patch) for patch in patches]
        write.append(time.process_time() - start)
        out = np.empty_like(patches[0])
        start = time.process_time()
        for chunk in chunks:
            blosc_decode(chunk, numthreads=1, out=out.reshape(-1).view(np.uint8).data)
        read.append(time.process_time() - start)
    for patch, chunk in zip(patches, chunks, strict=True):
        if blosc_decode(chunk) != patch.tobytes():
            raise SystemExit(f"{codec}: another patch came back")
    ratio = size_mb * 1e6 / sum(map(len, chunks))
    return round(ratio, 2), round(size_mb / min(write)), round(size_mb / min(read))


if __name__ == "__main__":
    main()
