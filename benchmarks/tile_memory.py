"""Peak memory of a tile job against the size of the slide: it must not grow.

Usage: python benchmarks/tile_memory.py [--sides PX …] [--threads N] [--check]. Draws pairs of square slides (H&E in
256-px JPEG tiles, two dense uint16 channels with zlib; one tile's bytes repeated, so that drawing costs no time), tiles
each in a separate process, prints a table; the last line is JSON. With --check the exit code is 1 where a goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from imagecodecs import jpeg8_encode

from pipeline.provenance import write_json
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide

MPP = 0.5
TILE_PX = 256
GOAL_MB = 2000
# The largest slide may take this much more than the smallest: its overview and its table of patches are larger.
GOAL_RATIO = 1.5


def main() -> int:
    """Return tiles slides of growing size; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[8192, 16384, 32768], help="sides of the slides in px")
    parser.add_argument("--threads", type=int, default=2, help="threads of the tile job")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    print(f"{'side_px':>9}{'patches':>9}{'peak_mb':>9}{'seconds':>9}{'patches/s':>11}")
    rows = [tiled(side, parsed.threads) for side in parsed.sides]
    ratio = rows[-1]["peak_mb"] / rows[0]["peak_mb"]
    met = ratio <= GOAL_RATIO and max(row["peak_mb"] for row in rows) <= GOAL_MB
    print(json.dumps({"benchmark": "tile_memory", "rows": rows, "peak_last_over_first": round(ratio, 3), "met": met}))
    return 1 if parsed.check and not met else 0


def tiled(side_px: int, threads: int) -> dict[str, float]:
    """Return peak memory and speed of tiling one pair."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _draw(folder, side_px)
        row = SheetRow("big", "p", str(folder / "he.tif"), str(folder / "dense.ome.tif"))
        write_json(folder / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
        turn = np.array([[0.9998, -0.02, 0.01 * side_px], [0.02, 0.9998, -0.005 * side_px]])
        write_transform(folder / "transform.zarr", Transform(turn, None, None), {})
        write_json(folder / "qc.json", {"verdict": "pass", "channel": "DAPI"})
        words = ["tile", "--record", "record.json", "--transform", "transform.zarr", "--qc", "qc.json"]
        words += ["--out", "big.zarr", "--threads", str(threads)]
        code = (
            "import resource, sys; from pipeline.cli import main; status = main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(status)"
        )
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.perf_counter() - start
    patches = (side_px // TILE_PX) ** 2
    found = {"side_px": side_px, "patches": patches, "peak_mb": int(done.stdout), "seconds": round(seconds, 1)}
    found["patches_per_s"] = round(patches / seconds, 1)
    print(f"{side_px:9}{patches:9}{found['peak_mb']:9}{seconds:9.1f}{patches / seconds:11.1f}", flush=True)
    return found


def _draw(folder: Path, side_px: int) -> None:
    rng = np.random.default_rng(0)
    tissue = np.clip(rng.normal((190, 130, 180), 25, (TILE_PX, TILE_PX, 3)), 0, 255).astype(np.uint8)
    options = {"tile": (TILE_PX, TILE_PX), "resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    encoded = jpeg8_encode(tissue, level=85)
    with tifffile.TiffWriter(folder / "he.tif", bigtiff=True) as writer:
        for level in range(5):
            size = side_px >> level
            writer.write(
                _repeated(encoded, size),
                shape=(size, size, 3),
                dtype="uint8",
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                metadata=None,
                **options,
            )
    signal = rng.integers(0, 4000, (TILE_PX, TILE_PX), dtype=np.uint16)
    packed = zlib.compress(signal.tobytes(), 1)
    physical = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(folder / "dense.ome.tif", bigtiff=True, ome=True) as writer:
        writer.write(
            _repeated(packed, side_px, 2),
            shape=(2, side_px, side_px),
            dtype="uint16",
            photometric="minisblack",
            compression="zlib",
            tile=(TILE_PX, TILE_PX),
            metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}, **physical},
        )


def _repeated(encoded: bytes, side_px: int, planes: int = 1) -> Iterator[bytes]:
    tiles = -(-side_px // TILE_PX)
    return (encoded for _ in range(planes * tiles * tiles))


if __name__ == "__main__":
    sys.exit(main())
