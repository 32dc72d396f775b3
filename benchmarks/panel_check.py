"""The check of the panel on a drawn slide of 18 channels: seconds, memory, and what it names.

Usage: python benchmarks/panel_check.py [--side-mm N] [--threads N] [--check]. Draws a pyramid of N x N mm at 0.65 um
per pixel (deflate, tiles of 512 px, as OME-TIFF from microscopes is) in which a dead, a saturated and a bleeding
channel are drawn, and runs `python -m pipeline panel` on it with default settings in a separate process. Tiles repeat
and share their bytes in the file, so that every tile is decoded and the disk is not measured. Prints seconds by the
clock and of the processor, the largest memory of the process, and the channels that are named; the last line is JSON.
With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from imagecodecs import zlib_encode
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from drawn_panel import BLEEDING, CHANNELS, DEAD, SATURATED, Faults, draw_panel

TILE_PX = 512
MPP = 0.65
LEVELS = 6
GOAL_S, GOAL_GB = 60.0, 2.0
EXPECTED = {DEAD: "dead", SATURATED: "saturated", BLEEDING: "bleeding"}


@dataclass(frozen=True)
class Cost:
    """What a run of the stage cost and named."""

    seconds: float
    processor_s: float
    gb: float
    named: dict[str, str]


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side-mm", type=float, default=20.0, help="side of the slide in mm")
    parser.add_argument("--threads", type=int, default=2, help="of the check")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        side_px = round(parsed.side_mm * 1000 / MPP / TILE_PX) * TILE_PX
        write_slide(Path(name) / "drawn.ome.tif", side_px)
        found = measured(Path(name), parsed.threads)
    met = found.seconds <= GOAL_S and found.gb <= GOAL_GB and found.named == EXPECTED
    print(f"{side_px} px: {found.seconds} s by the clock (goal {GOAL_S:g}), {found.processor_s} s of the processor,")
    print(f"{found.gb} GB (goal {GOAL_GB:g}), named {found.named}: {'met' if met else 'MISSED'}")
    print(json.dumps(asdict(found) | {"side_mm": side_px * MPP / 1000, "threads": parsed.threads, "met": met}))
    return int(parsed.check and not met)


def write_slide(path: Path, side_px: int) -> None:
    """Write the slide and its record, `drawn.json`; every level repeats one drawn piece of its own resolution."""
    levels = [draw_panel(2 * TILE_PX, Faults())]
    while len(levels) < LEVELS:
        half = [cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for plane in levels[-1]]
        levels.append(np.stack(half))
    metadata = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP, "Channel": {"Name": list(CHANNELS)}}
    options = {"tile": (TILE_PX, TILE_PX), "compression": "zlib", "photometric": "minisblack", "dtype": "uint16"}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        for number, level in enumerate(levels):
            side, times = side_px >> number, 2 * TILE_PX // level.shape[1]
            more = {"metadata": None, "subfiletype": 1} if number else {"subifds": LEVELS - 1, "metadata": metadata}
            parts = tiles(np.tile(level, (1, times, times)), side)
            writer.write(parts, shape=(len(level), side, side), **options, **more)
    share_tiles(path)
    sizes = [{"size_xy": [side_px >> number] * 2, "downsample": 2.0**number} for number in range(LEVELS)]
    image = {"path": str(path), "reader": "tifffile", "mpp": MPP, "mpp_source": "file", "levels": sizes, "sha256": ""}
    image |= {"channels": list(CHANNELS), "dtype": "uint16", "classes": [], "image": "", "bounds_xy": [0, 0]}
    record = {"schema": 1, "slide": "drawn", "patient": "p", "sparse": image, "dense": image, "transform": "identity"}
    path.with_name("drawn.json").write_text(json.dumps(record))


def tiles(image: NDArray[np.uint16], side_px: int) -> Iterator[bytes]:
    """Yield the compressed tiles of a level whose pixels repeat every two tiles: the first ones, and nothing."""
    count = -(-side_px // TILE_PX)
    for plane in image:
        for row in range(count):
            for column in range(count):
                y, x = row % 2 * TILE_PX, column % 2 * TILE_PX
                tile = np.ascontiguousarray(plane[y : y + TILE_PX, x : x + TILE_PX])
                yield zlib_encode(tile) if max(row, column) < 2 else b""


def share_tiles(path: Path) -> None:
    """Point every tile that was not written at the one whose pixels it repeats."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in (page for level in tif.series[0].levels for page in level.pages):
            across = -(-page.keyframe.imagewidth // TILE_PX)
            numbers = np.arange(across * -(-page.keyframe.imagelength // TILE_PX))
            repeated = numbers // across % 2 * across + numbers % across % 2
            if len(numbers) > 1:
                whole = page.aspage()
                for name in ("TileOffsets", "TileByteCounts"):
                    whole.tags[name].overwrite(np.array(whole.tags[name].value)[repeated].tolist())


def measured(folder: Path, threads: int) -> Cost:
    """Return what a run of the stage cost and named."""
    words = ["panel", "--record", "drawn.json", "--out", "check.json", "--threads", str(threads)]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=folder, check=True)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    markers = json.loads((folder / "check.json").read_text())["markers"]
    return Cost(
        seconds=round(seconds, 1),
        processor_s=round(used.ru_utime + used.ru_stime, 1),
        gb=round(used.ru_maxrss / 2**20, 2),
        named={item["marker"]: item["findings"][0]["what"] for item in markers if item["findings"]},
    )


if __name__ == "__main__":
    sys.exit(main())
