"""Slides and timing that the benchmarks of stores share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import tifffile
from imagecodecs import jpeg8_decode, jpeg8_encode
from numpy.typing import NDArray

from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.record import SlideRecord
from pipeline.slides.stage import inspect_slide

TILE_PX = 256
_DISTINCT = 64


def jpeg_tiles(quality: int = 85) -> list[bytes]:
    """Return 64 distinct H&E-coloured tiles, 4:2:0: nuclei on stroma with the noise of a scanner."""
    rng = np.random.default_rng(0)
    tiles = []
    for _ in range(_DISTINCT):
        image = np.full((TILE_PX, TILE_PX, 3), (222, 182, 208), dtype=np.float32)
        texture = cv2.GaussianBlur(rng.normal(0, 1, (TILE_PX, TILE_PX)).astype(np.float32), (0, 0), 3) * 120
        for x, y in rng.integers(0, TILE_PX, (70, 2)).tolist():
            cv2.circle(image, (x, y), int(rng.integers(4, 9)), (105, 62, 140), -1, cv2.LINE_AA)
        image = cv2.GaussianBlur(image, (0, 0), 1) + texture[..., None] + rng.normal(0, 2, image.shape)
        tiles.append(jpeg8_encode(np.clip(image, 0, 255).astype(np.uint8), level=quality, subsampling="420"))
    return tiles


def write_slide(path: Path, side_px: int, mpp: float, tiles: list[bytes]) -> SlideRecord:
    """Return a square slide, inspected; its levels are 4 and 16 times smaller, as Aperio's."""
    across = -(-side_px // TILE_PX)
    numbers = np.random.default_rng(1).integers(0, len(tiles), across**2).reshape(across, across)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(3):
            side = side_px >> 2 * level
            writer.write(
                _reduced(tiles, numbers, 4**level) if level else (tiles[number] for number in numbers.flat),
                shape=(side, side, 3),
                dtype="uint8",
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                tile=(TILE_PX, TILE_PX),
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                metadata=None,
            )
    return inspect_slide(SheetRow("drawn", "p", str(path)), InspectSettings())


def _reduced(tiles: list[bytes], numbers: NDArray[np.int64], factor: int) -> Iterator[bytes]:
    """Yield the tiles of a level, row by row, from the numbers (n, n) of those of level 0.

    A level that did not show the slide would be left out of it, and overviews read from level 0.
    """
    side = TILE_PX // factor
    small = np.stack([cv2.resize(jpeg8_decode(tile), (side, side), interpolation=cv2.INTER_AREA) for tile in tiles])
    missing = -len(numbers) % factor
    padded = np.pad(numbers, (0, missing), mode="edge")
    for top in range(0, len(padded), factor):
        for left in range(0, len(padded), factor):
            parts = small[padded[top : top + factor, left : left + factor]]
            pixels = parts.transpose(0, 2, 1, 3, 4).reshape(TILE_PX, TILE_PX, 3)
            yield jpeg8_encode(np.ascontiguousarray(pixels), level=85, subsampling="420")


@dataclass(frozen=True)
class Rate:
    """Items per second of one turn, by the clock and by the processor time of all threads of this process."""

    clock: float
    processor: float


Rates = dict[str, list[Rate]]


def interleaved(work: dict[str, Callable[[], int]], repeats: int, clean: Callable[[], None] = lambda: None) -> Rates:
    """Return the rate of each work, turn by turn: a slow moment of the machine hits all alike.

    Each work returns how many items it did; what it left is then removed by `clean`, which is not timed.
    """
    rates: Rates = {name: [] for name in work}
    for _ in range(repeats):
        for name, task in work.items():
            clock, processor = time.perf_counter(), time.process_time()
            done = task()
            rates[name].append(Rate(done / (time.perf_counter() - clock), done / (time.process_time() - processor)))
            clean()
    return rates


def judged(rates: Rates, goals: list[tuple[str, str, float]], unit: str) -> tuple[dict[str, object], list[str]]:
    """Print median rates and the medians of each turn's ratios; returns them, and the goals that were not met.

    Goals are judged by the clock; the processor's time tells how much of a miss is a busy machine's. A goal against a
    peer that is not installed is "not measured", which is not met either: nothing passes by absence.

    Args:
        rates: by name.
        goals: (ours, theirs, smallest ratio wanted).
        unit: what is counted.
    """
    print(f"{'':40}{unit + '/s':>12}{unit + '/cpu s':>16}")
    found: dict[str, object] = {}
    for name, turns in rates.items():
        clock, processor = median(turn.clock for turn in turns), median(turn.processor for turn in turns)
        decimals = 0 if processor >= 100 else 2
        print(f"{name:40}{clock:12,.{decimals}f}{processor:16,.{decimals}f}")
        found[name] = {"per_s": round(clock, decimals), "per_cpu_s": round(processor, decimals)}
    ratios, missed = [], []
    print(f"{'':66}{'clock':>8}{'cpu':>8}")
    for ours, theirs, wanted in goals:
        sentence = f"{ours} / {theirs}"
        if not {ours, theirs} <= rates.keys():
            print(f"{sentence:66}{'':16}  goal {wanted:g}  NOT MEASURED")
            ratios.append({"ratio": sentence, "clock": None, "cpu": None, "goal": wanted, "met": False})
            missed.append(f"{sentence}: not measured")
            continue
        turns = list(zip(rates[ours], rates[theirs], strict=True))
        clock = median(a.clock / b.clock for a, b in turns)
        processor = median(a.processor / b.processor for a, b in turns)
        met = clock >= wanted
        print(f"{sentence:66}{clock:8.2f}{processor:8.2f}  goal {wanted:g}  {'met' if met else 'MISSED'}")
        ratios.append(
            {"ratio": sentence, "clock": round(clock, 3), "cpu": round(processor, 3), "goal": wanted, "met": met}
        )
        if not met:
            missed.append(sentence)
    return {"rates": found, "ratios": ratios}, missed


def versions(*packages: str) -> dict[str, str]:
    """Return versions of the packages compared."""
    return {package: version(package) for package in packages}
