"""OME-Zarr against zarr alone and against the same pixels as OME-TIFF.

Usage: python benchmarks/ome_zarr.py [--side PX] [--repeats N] [--threads N] [--check]. Draws an H&E slide and 18
channels of 16 bits, writes the channels as OME-Zarr in several layouts and as OME-TIFF, all in zstd, checks that both
show the same pixels and give the same patches, then times all in turn. A patch is a window of 256 px of all channels,
read by a reader that has kept nothing; "tiling" is the whole stage tile. Prints a table; the last line is JSON. With
--check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import interleaved, judged, versions

from pipeline.provenance import file_digest
from pipeline.registration.transform import Transform
from pipeline.settings import InspectSettings, TileSettings
from pipeline.sheet import SheetRow
from pipeline.slides.opening import open_slide
from pipeline.slides.record import SlideRecord
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.pairing import Pairing
from pipeline.tiling.stage import tile

CHANNELS = 18
PATCH_PX = 256
MPP = 0.5
PATCHES = 8
# Side of a chunk, and of a shard.
LAYOUTS: dict[str, tuple[int, int | None]] = {
    "256 px": (256, None),
    "512 px": (512, None),
    "1024 px": (1024, None),
    "256 px in shards": (256, 2048),
}
SLOWEST_PATCH, SLOWEST_TILING = 1.3, 1.2


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096, help="side of the slide in px")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each")
    parser.add_argument("--threads", type=int, default=2, help="threads of the stage tile")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder, parsed.side)
        work, goals = patches(folder, parsed.side)
        rates = interleaved(work, parsed.repeats)
        tilings, more = whole_tilings(folder, parsed.threads)
        tiled = interleaved(tilings, max(3, parsed.repeats // 3))
    measured, missed = judged(rates | tiled, goals + more, "patches")
    result = {"benchmark": "ome_zarr", "side": parsed.side, **measured, "missed": missed}
    print(json.dumps(result | {"versions": versions("zarr", "tifffile", "imagecodecs")}))
    return 1 if parsed.check and missed else 0


def write_all(folder: Path, side: int) -> None:
    """Write the H&E slide and the channels in every layout."""
    rng = np.random.default_rng(0)
    nuclei = np.zeros((side, side), np.float32)
    for x, y in rng.integers(0, side, (side * side // 700, 2)).tolist():
        cv2.circle(nuclei, (x, y), int(rng.integers(4, 9)), float(rng.uniform(0.5, 1)), -1)
    nuclei = cv2.GaussianBlur(nuclei, (0, 0), 1.5)
    he = (np.array([240, 225, 236]) - np.array([140, 170, 100]) * nuclei[..., None]).astype(np.uint8)
    options: dict[str, Any] = {"tile": (PATCH_PX, PATCH_PX), "photometric": "rgb", "compression": "zstd"}
    resolution = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(folder / "he.tif", he, **options, **resolution)
    channels = np.empty((CHANNELS, side, side), np.uint16)
    for index, plane in enumerate(channels):
        noise = cv2.randn(np.empty((side, side), np.float32), 30, 6)
        plane[...] = np.clip(nuclei * 400 * (index + 1) + noise, 1, 65535)
    for tile_px in sorted({chunk for chunk, _ in LAYOUTS.values()}):
        write_tiff(folder / f"{tile_px}.ome.tif", channels, tile_px)
    for number, (chunk, shard) in enumerate(LAYOUTS.values()):
        write_zarr(folder / f"{number}.zarr", channels, chunk, shard)


def write_tiff(path: Path, channels: NDArray[np.uint16], tile_px: int) -> None:
    """Write an OME-TIFF of one level."""
    size = {f"PhysicalSize{axis}": MPP for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    metadata = {"axes": "CYX", "Channel": {"Name": names()}, **size}
    options: dict[str, Any] = {"compression": "zstd", "photometric": "minisblack", "metadata": metadata}
    tifffile.imwrite(path, channels, ome=True, bigtiff=True, tile=(tile_px, tile_px), **options)


def write_zarr(path: Path, channels: NDArray[np.uint16], chunk: int, shard: int | None) -> None:
    """Write an OME-Zarr of one level, NGFF 0.5, in the codec of the TIFF."""
    group = zarr.open_group(path, mode="w")
    group.create_array(
        "0",
        shape=channels.shape,
        dtype=channels.dtype,
        chunks=(1, chunk, chunk),
        shards=(1, shard, shard) if shard else None,
        compressors=zarr.codecs.ZstdCodec(),
    )[...] = channels
    axes = [{"name": "c", "type": "channel"}, *({"name": x, "type": "space", "unit": "micrometer"} for x in "yx")]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, MPP, MPP]}]}
    labels = {"channels": [{"label": name} for name in names()]}
    own = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}], "omero": labels}
    group.attrs["ome"] = own


def names() -> list[str]:
    """Return the names of the channels."""
    return ["DAPI", *(f"M{index}" for index in range(1, CHANNELS))]


def patches(folder: Path, side: int) -> tuple[dict[str, Callable[[], int]], list[tuple[str, str, float]]]:
    """Return reading patches by our reader, which has read none before, and by zarr, of each layout; and the goals."""
    work: dict[str, Callable[[], int]] = {}
    goals = []
    rng = np.random.default_rng(1)
    for number, (layout, (chunk, _)) in enumerate(LAYOUTS.items()):
        array = zarr.open_array(folder / f"{number}.zarr" / "0", mode="r")
        slide = open_slide(folder / f"{number}.zarr")
        corners = rng.integers(0, side - PATCH_PX, (PATCHES, 2)).tolist()
        tiff = open_slide(folder / f"{chunk}.ome.tif")
        for x, y in corners:
            theirs = array[:, y : y + PATCH_PX, x : x + PATCH_PX]
            for ours in (slide, tiff):
                shown = ours.read_region(0, (x, y), (PATCH_PX, PATCH_PX))
                if not np.array_equal(np.moveaxis(shown, -1, 0), theirs):
                    raise SystemExit(f"{ours.header.path} does not show what zarr reads")

        def by_zarr(array: Any = array, corners: Any = corners) -> int:
            for x, y in corners:
                array[:, y : y + PATCH_PX, x : x + PATCH_PX]
            return PATCHES

        def by_us(slide: Any = slide, corners: Any = corners) -> int:
            for x, y in corners:
                slide.close()  # Forgets its chunks.
                slide.read_region(0, (x, y), (PATCH_PX, PATCH_PX))
            return PATCHES

        work |= {f"zarr, {layout}": by_zarr, f"ours, {layout}": by_us}
        goals.append((f"ours, {layout}", f"zarr, {layout}", 1 / SLOWEST_PATCH))
    return work, goals


def whole_tilings(folder: Path, threads: int) -> tuple[dict[str, Callable[[], int]], list[tuple[str, str, float]]]:
    """Return the stage tile on OME-Zarr and on OME-TIFF, of the same patches; and the goals."""
    work: dict[str, Callable[[], int]] = {}
    goals = []
    for number, (layout, (chunk, _)) in enumerate(LAYOUTS.items()):
        made = {}
        for kind, path in (("TIFF", f"{chunk}.ome.tif"), ("Zarr", f"{number}.zarr")):
            row = SheetRow("drawn", "p", str(folder / "he.tif"), str(folder / path), transform="identity")
            record = inspect_slide(row, InspectSettings(), hashed=False)
            made[kind] = folder / f"{kind}.patches.zarr"
            name = f"tiling, {kind}, {layout}"
            work[name] = lambda record=record, out=made[kind]: stage(record, out, threads)  # type: ignore[misc]
            work[name]()
        for part in ("sparse", "dense", "pair_quality"):
            if file_digest(made["TIFF"] / part) != file_digest(made["Zarr"] / part):
                raise SystemExit(f"{part} of the two stores differs, {layout}")
        goals.append((f"tiling, Zarr, {layout}", f"tiling, TIFF, {layout}", 1 / SLOWEST_TILING))
    return work, goals


def stage(record: SlideRecord, out: Path, threads: int) -> int:
    """Return how many patches the stage tile has made."""
    turned = np.array([[1.0, 0.01, -2.0], [-0.01, 1.0, 3.0]])
    pairing = Pairing(Transform(turned, None, None), "pass", 0)
    tile(record, pairing, TileSettings(min_tissue=0.0, size_px=PATCH_PX), out, threads=threads, provenance={})
    return len(PatchStore.open(out))


if __name__ == "__main__":
    sys.exit(main())
