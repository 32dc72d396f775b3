"""Slides elsewhere: bytes and requests that inspect takes of a large one, and staging against a plain download.

    python benchmarks/remote.py --check

Draws an SVS of about a gigabyte, whose levels hold JPEG tiles as a scanner writes them, and gives it by a web server on
loopback that answers each request after 20 ms. A plain download is one request, read by the standard library and
written to disk; both are measured in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from range_server import serving

from pipeline.elsewhere.opening import open_source
from pipeline.provenance import file_digest
from pipeline.slides.remote_tiff import look_at
from pipeline.staging.fetching import fetch

MOST_BYTES, MOST_REQUESTS, LEAST_SHARE = 5_000_000, 20, 0.9
LATENCY_S = 0.02
TILE_PX = 256


def draw(path: Path, side_tiles: int) -> None:
    """Write an SVS of five levels; its tiles are a few dozen, repeated."""
    rng = np.random.default_rng(0)
    tiles = [
        imagecodecs.jpeg8_encode(rng.normal(200, 22, (TILE_PX, TILE_PX, 3)).clip(0, 255).astype(np.uint8), level=80)
        for _ in range(16)
    ]
    told = "Aperio Image Library v12.0.15|AppMag = 40|MPP = 0.2500"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        options = {"photometric": "rgb", "compression": "jpeg", "description": told, "metadata": None}
        for index, side in enumerate((side_tiles, 0, side_tiles // 4, side_tiles // 16, side_tiles // 32)):
            if index == 1:
                writer.write(rng.integers(0, 255, (768, 1024, 3), np.uint8), **options)
                continue
            side = max(1, side)
            chosen = (tiles[i] for i in rng.integers(0, len(tiles), side * side))
            shape = (side * TILE_PX, side * TILE_PX, 3)
            writer.write(chosen, shape=shape, dtype=np.uint8, tile=(TILE_PX, TILE_PX), **options)


def plain(url: str, path: Path) -> float:
    """Return the seconds of a download in one request."""
    start = time.perf_counter()
    with urllib.request.urlopen(url) as answer, path.open("wb") as out:
        while piece := answer.read(2**20):
            out.write(piece)
    return time.perf_counter() - start


def staged(url: str, path: Path) -> float:
    """Return the seconds of a download as stage does it."""
    start = time.perf_counter()
    fetch(open_source(url), path, connections=4, label="stage")
    return time.perf_counter() - start


def main() -> int:
    """Print the figures; returns 1 where --check finds one beyond its goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=200, help="side of level 0 in tiles; 200 are about 1 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "large.svs", parsed.tiles)
        size = (folder / "large.svs").stat().st_size
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[1] / 'tests')!r})\n" + _SERVER
        with subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"{server.stdout.readline().strip()}/large.svs"
            look = look_at(url)
            print(f"{size / 1e6:.0f} MB; inspect: {look.bytes_read / 1e6:.2f} MB, {look.requests} requests")
            ratios = []
            for _ in range(parsed.rounds):
                one, other = plain(url, folder / "plain"), staged(url, folder / "staged")
                same = file_digest(folder / "staged") == file_digest(folder / "large.svs")
                ratios.append(one / other)
                print(f"plain {one:.2f} s, staged {other:.2f} s, {one / other:.2f} of its speed, equal {same}")
                (folder / "staged").unlink()
            server.terminate()
        with serving(folder) as state:
            state.cuts, state.cut_after = 3, 2**20
            fetch(open_source(f"{state.url}/large.svs"), folder / "cut", connections=4, label="stage")
            same = file_digest(folder / "cut") == file_digest(folder / "large.svs")
            print(f"three connections cut: equal {same}, {state.sent / size:.3f} of the bytes sent")
    share = float(np.median(ratios))
    good = look.bytes_read <= MOST_BYTES and look.requests <= MOST_REQUESTS and share >= LEAST_SHARE and same
    return int(parsed.check and not good)


_SERVER = f"""
import time
from pathlib import Path
from range_server import serving
with serving(Path(sys.argv[1])) as state:
    state.latency_s = {LATENCY_S}
    print(state.url, flush=True)
    time.sleep(86400)
"""


if __name__ == "__main__":
    sys.exit(main())
