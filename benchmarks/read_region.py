"""An aligned 256-px region of a JPEG slide: our reader, its peers, and libjpeg-turbo on the same bytes.

Usage: python benchmarks/read_region.py [--slide FILE] [--reads N] [--repeats N] [--check]. Draws a slide of 256-px JPEG
tiles (or takes one whose tiles OpenSlide reads), compares every reader's pixels with OpenSlide's, then times all in
turn on one thread, each at the same places in random order and no place twice in a turn. Peers that are not installed
are left out by name: `make benchmarks` brings them. Prints a table; the last line is JSON. With --check the exit code
is 1 where a goal is missed, or not measured because a peer that it names is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("VIPS_CONCURRENCY", "1")

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide
from simplejpeg import decode_jpeg

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import interleaved, jpeg_tiles, judged, versions, write_slide

from pipeline.slides.jpeg_level import shown_transform
from pipeline.slides.jpeg_tiles import JpegTiles
from pipeline.slides.opening import open_slide

SIDE_PX = 20480
Read = Callable[[int, int], NDArray[np.uint8]]
FAST = ("fastslide", "cucim", "pyvips")
BEST = "best of " + ", ".join(FAST)
GOALS = [("ours", "openslide", 7.0), ("ours", "libjpeg-turbo, bytes in memory", 0.95), ("ours", BEST, 1.2)]


def main() -> int:
    """Compare and times; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path, help="a slide with JPEG tiles; one is drawn where none is given")
    parser.add_argument("--reads", type=int, default=600, help="regions of a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = parsed.slide
        if path is None:
            path = Path(name) / "drawn.tif"
            write_slide(path, SIDE_PX, 0.25, jpeg_tiles())
        side, places, streams = tiles_of(path, parsed.reads)
        readers, absent = opened(path, side)
        differences = {name: largest_difference(readers["openslide"], read, places) for name, read in readers.items()}
        works: dict[str, Callable[[], int]] = {
            name: lambda read=read: turn(read, places) for name, read in readers.items()
        }
        works["libjpeg-turbo, bytes in memory"] = lambda: decoded(streams)
        rates = interleaved(works, parsed.repeats)
    fast = [name for name in FAST if name in rates]
    if len(fast) == len(FAST):
        rates[BEST] = [
            max(turns, key=lambda rate: rate.clock) for turns in zip(*(rates[name] for name in fast), strict=True)
        ]
    for name, difference in differences.items():
        print(f"{name}: largest difference from openslide {difference}")
    measured, missed = judged(rates, GOALS, "regions")
    if differences["ours"]:
        missed.append("the same pixels")
    packages = {"openslide": "openslide-python", "cucim": "cucim-cu12", "ours": "simplejpeg"}
    result = {
        "benchmark": "read_region",
        "side_px": side,
        "largest_difference": differences,
        **measured,
        "missed": missed,
        "absent": absent,
        "versions": versions(*(packages.get(name, name) for name in readers)),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def tiles_of(path: Path, reads: int) -> tuple[int, list[tuple[int, int]], list[bytes]]:
    """Return side of a tile, corners of some whole tiles of level 0, and the complete streams of these."""
    with OpenSlide(path) as slide:
        size = slide.dimensions

        def show(corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> NDArray[np.uint8]:
            return np.asarray(slide.read_region(corner_xy, 0, size_xy))[..., :3]

        tiles = JpegTiles.open(path, size)
        transform = None if tiles is None else shown_transform(tiles, size, show)
    if tiles is None or transform is None:
        raise SystemExit(f"{path} has no JPEG tiles that are OpenSlide's pixels")
    with tiles:
        side = tiles.side_px
        across, down = size[0] // side, size[1] // side
        chosen = np.random.default_rng(0).permutation(across * down)[:reads]
        places = [(int(n % across) * side, int(n // across) * side) for n in chosen]
        streams = [tiles.stream(y // side * tiles.across + x // side, transform) for x, y in places]
    return side, places, streams


def opened(path: Path, side: int) -> tuple[dict[str, Read], list[str]]:
    """Return the readers that are installed, ours first, and the names of those that are not."""
    ours, openslide = open_slide(path), OpenSlide(path)
    readers: dict[str, Read] = {
        "ours": lambda x, y: ours.read_region(0, (x, y), (side, side)),
        "openslide": lambda x, y: np.asarray(openslide.read_region((x, y), 0, (side, side)))[..., :3],
    }
    absent = []
    for name, door in {"tiffslide": tiffslide, "pyvips": pyvips, "fastslide": fastslide, "cucim": cucim}.items():
        try:
            readers[name] = door(path, side)
        except ImportError:
            absent.append(name)
    return readers, absent


def tiffslide(path: Path, side: int) -> Read:
    """Return tifffile behind OpenSlide's interface."""
    from tiffslide import TiffSlide

    slide = TiffSlide(path)
    return lambda x, y: slide.read_region((x, y), 0, (side, side), as_array=True)


def pyvips(path: Path, side: int) -> Read:
    """Return the fastest way through libvips: fetching from a region, without a pipeline per read."""
    from pyvips import Image, Region

    region = Region.new(Image.new_from_file(str(path), page=0))
    return lambda x, y: np.frombuffer(region.fetch(x, y, side, side), dtype=np.uint8).reshape(side, side, -1)[..., :3]


def fastslide(path: Path, side: int) -> Read:
    """Return a C++ reader."""
    from fastslide import FastSlide

    slide = FastSlide.from_file_path(str(path))
    return lambda x, y: slide.read_region(location=(x, y), level=0, size=(side, side)).numpy()[..., :3]


def cucim(path: Path, side: int) -> Read:
    """Return NVIDIA's reader, on the processor."""
    from cucim import CuImage

    slide = CuImage(str(path))
    return lambda x, y: np.asarray(slide.read_region((x, y), (side, side), 0))


def largest_difference(reference: Read, read: Read, places: list[tuple[int, int]]) -> int:
    """Return over every tenth place."""
    return max(
        int(np.abs(reference(x, y).astype(np.int16) - read(x, y).astype(np.int16)).max()) for x, y in places[::10]
    )


def turn(read: Read, places: list[tuple[int, int]]) -> int:
    """Return all places, once."""
    for x, y in places:
        read(x, y)
    return len(places)


def decoded(streams: list[bytes]) -> int:
    """Return the same tiles with their bytes in memory already."""
    for stream in streams:
        decode_jpeg(stream, colorspace="RGB")
    return len(streams)


if __name__ == "__main__":
    sys.exit(main())
