"""From a slide to patches on disk: our copy and our decoding, pyvips dzsave, OpenSlide into zarr, and cp.

Usage: python benchmarks/slide_to_store.py [--side PX] [--repeats N] [--threads N] [--check]. Draws a slide of 256-px
JPEG tiles, checks that our stores hold OpenSlide's pixels, then times all in turn. "copy" opens the slide, fits the
grid and writes a whole store; "tile stage" also reads the overview and finds the tissue. Prints a table; the last line
is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import zarr
from numpy.typing import NDArray
from openslide import OpenSlide

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import TILE_PX, interleaved, jpeg_tiles, judged, versions, write_slide

from pipeline.settings import TileSettings
from pipeline.slides.jpeg_tiles import YCBCR, JpegTiles, decode_strictly
from pipeline.slides.opening import open_side
from pipeline.slides.record import SlideRecord
from pipeline.store.blosc_encoding import BloscEncoding
from pipeline.store.patch_store import PatchStore
from pipeline.store.writer import StoreWriter
from pipeline.tiling.grid import lattice
from pipeline.tiling.lattice import TileLattice, copied_transform, find_lattice
from pipeline.tiling.stage import tile

# The slow ways do fewer tiles; rates are compared.
SMALL_PX = 8192
OPENSLIDE_PATCHES = 128
LATTICE_GOALS = [
    ("copy", "pyvips dzsave", 50.0),
    ("copy", "openslide into zarr", 200.0),
    ("copy", "cp", 0.5),
]
# What no exact tiling at 0.5 um of these pixels can do without, and all that a patch of the limit is: four tiles are
# decoded, one patch is compressed.
EXACT_LIMIT = "four tiles and zstd alone"
EXACT_GOALS = [
    ("tile stage, exact 0.5 um", EXACT_LIMIT, 0.7),
    ("tile stage, exact 0.497 um", EXACT_LIMIT, 0.6),
    ("tile stage, exact 0.5 um", "openslide into zarr, 0.5 um", 4.0),
    ("tile stage, exact 0.497 um", "openslide into zarr, 0.5 um", 4.0),
]


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=20480, help="side of the large slide in px")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--threads", type=int, default=2, help="threads of each that takes them")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    os.environ["VIPS_CONCURRENCY"] = str(parsed.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiles = jpeg_tiles()
        large = write_slide(folder / "large.tif", parsed.side, 0.25, tiles)
        small = write_slide(folder / "small.tif", SMALL_PX, 0.25, tiles)
        check_equal(small, folder)
        out = folder / "out"
        out.mkdir()
        work = works(large, small, out, parsed.threads)
        rates = interleaved(work, parsed.repeats, clean=lambda: empty(out))
    measured, missed = judged(rates, LATTICE_GOALS + EXACT_GOALS, "patches")
    result = {
        "benchmark": "slide_to_store",
        "tile_bytes": round(sum(map(len, tiles)) / len(tiles)),
        **measured,
        "missed": missed,
        "versions": versions("imagecodecs", "openslide-python", "pyvips", "zarr"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def empty(folder: Path) -> None:
    """Remove what a turn has written."""
    shutil.rmtree(folder)
    folder.mkdir()


def works(large: SlideRecord, small: SlideRecord, folder: Path, threads: int) -> dict[str, Callable[[], int]]:
    """Return all that is timed."""
    out = folder / "out.zarr"
    four, patch = four_tiles_and_patch(small)
    return {
        "cp": lambda: cp(large, folder / "copy.tif"),
        "copy": lambda: copy(large, out, threads),
        "tile stage, copied": lambda: stage(large, out, threads, TileSettings(min_tissue=0.0)),
        "tile stage, decoded": lambda: stage(small, out, threads, TileSettings(min_tissue=0.0, grid="exact")),
        "tile stage, exact 0.5 um": lambda: stage(small, out, threads, TileSettings(min_tissue=0.0, mpp=0.5)),
        # As of a scanner whose pixels are not 0.25 um: 1.988 of them make one, so that patches are interpolated.
        "tile stage, exact 0.497 um": lambda: stage(small, out, threads, TileSettings(min_tissue=0.0, mpp=0.497)),
        EXACT_LIMIT: lambda: four_tiles_and_zstd(four, patch, threads),
        "pyvips dzsave": lambda: dzsave(small, folder / "dz"),
        "openslide into zarr": lambda: openslide_into_zarr(small, out, 1),
        "openslide into zarr, 0.5 um": lambda: openslide_into_zarr(small, out, 2),
    }


def check_equal(record: SlideRecord, folder: Path) -> None:
    """Assert that our stores hold what OpenSlide shows: copied, decoded, and means of 2 x 2 pixels within rounding."""
    for settings, codec, factor in (
        (TileSettings(min_tissue=0.0), "jpeg-copied", 1),
        (TileSettings(min_tissue=0.0, grid="exact"), "blosc-zstd", 1),
        (TileSettings(min_tissue=0.0, mpp=0.5), "blosc-zstd", 2),
    ):
        stage(record, folder / "check.zarr", 1, settings)
        store = PatchStore.open(folder / "check.zarr")
        rows = np.random.default_rng(0).integers(0, len(store), 32)
        side = TILE_PX * factor
        with OpenSlide(record.sparse.path) as slide:
            for row, patch in zip(rows, store.read_sparse(rows), strict=True):
                shown = slide.read_region(tuple(store.table.position_px[row].tolist()), 0, (side, side))
                pixels = np.asarray(shown)[..., :3].astype(np.float64)
                means = pixels.reshape(TILE_PX, factor, TILE_PX, factor, 3).mean(axis=(1, 3))
                if np.abs(means - patch).max() > 0.5 or store.attributes.recipe["codec"] != codec:
                    raise SystemExit(f"row {row} of the {codec} store is not what OpenSlide shows")
        shutil.rmtree(folder / "check.zarr")


def cp(record: SlideRecord, out: Path) -> int:
    """Return the file's bytes, copied by the kernel; all levels count, for all are copied."""
    shutil.copyfile(record.sparse.path, out)
    return sum((-(-level.size_xy[0] // TILE_PX)) ** 2 for level in record.sparse.levels)


def copy(record: SlideRecord, out: Path, threads: int) -> int:
    """Return every tile of the slide into the sharded array of a store."""
    side = record.sparse
    with open_side(side) as slide:
        grid = lattice(side.size_xy, size_px=TILE_PX, mpp=side.mpp, mpp_level0=side.mpp)
        found = find_lattice(slide, grid)
        if not isinstance(found, TileLattice):
            raise SystemExit(found.reason)
        with found.tiles:
            transform = copied_transform(slide, found)
            count = len(grid.position_px)
            writer = StoreWriter(
                out, patches=count, size_px=TILE_PX, dense_channels=0, dense_dtype="uint8", copied=True
            )

            def block(start: int) -> None:
                numbers = found.numbers[start : start + writer.block_rows, 0]
                writer.copy(start, found.tiles.streams(numbers, transform), None)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(block, writer.block_starts(threads)))
    return count


def stage(record: SlideRecord, out: Path, threads: int, settings: TileSettings) -> int:
    """Return the stage tile."""
    tile(record, None, settings, out, threads=threads, provenance={})
    return len(PatchStore.open(out))


def four_tiles_and_patch(record: SlideRecord) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Return the streams of four tiles that meet, and the patch of means of 2 x 2 of their pixels."""
    tiles = JpegTiles.open(Path(record.sparse.path), record.sparse.size_xy)
    if tiles is None:
        raise SystemExit("the drawn slide has no JPEG tiles")
    with tiles:
        streams = [tiles.stream(number, YCBCR) for number in (0, 1, tiles.across, tiles.across + 1)]
    quarters = [
        cv2.resize(decode_strictly(stream), (TILE_PX // 2,) * 2, interpolation=cv2.INTER_AREA) for stream in streams
    ]
    return streams, np.vstack([np.hstack(quarters[:2]), np.hstack(quarters[2:])])


def four_tiles_and_zstd(streams: list[bytes], patch: NDArray[np.uint8], threads: int) -> int:
    """Decode four tiles and compress a patch as the store does, as often as the small slide has patches of 0.5 um."""
    count, codec = (SMALL_PX // TILE_PX // 2) ** 2, BloscEncoding(1, "noshuffle", 1)

    def some(numbers: range) -> None:
        pixels = np.empty((TILE_PX, TILE_PX, 3), dtype=np.uint8)
        for _ in numbers:
            for stream in streams:
                decode_strictly(stream, pixels)
            codec.encode(patch)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, [range(first, count, threads) for first in range(threads)]))
    return count


def dzsave(record: SlideRecord, out: Path) -> int:
    """Return tiles of one level, decoded and encoded again at quality 80."""
    import pyvips

    image = pyvips.Image.new_from_file(record.sparse.path, access="sequential")
    image.dzsave(str(out), tile_size=TILE_PX, overlap=0, depth="one", suffix=".jpg[Q=80]")
    return (SMALL_PX // TILE_PX) ** 2


def openslide_into_zarr(record: SlideRecord, out: Path, factor: int) -> int:
    """Return patch by patch into an array with zarr's default codec, one chunk each."""
    side = TILE_PX * factor
    array = zarr.create_array(
        out, shape=(OPENSLIDE_PATCHES, TILE_PX, TILE_PX, 3), chunks=(1, TILE_PX, TILE_PX, 3), dtype="uint8"
    )
    across = SMALL_PX // side
    with OpenSlide(record.sparse.path) as slide:
        for row in range(min(OPENSLIDE_PATCHES, across * across)):
            region = slide.read_region((row % across * side, row // across * side), 0, (side, side))
            pixels = np.asarray(region.convert("RGB"))
            small = cv2.resize(pixels, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA) if factor > 1 else pixels
            array[row] = small
    return min(OPENSLIDE_PATCHES, across * across)


if __name__ == "__main__":
    sys.exit(main())
