"""Real tissue whose dense section is torn, folded, fragmented or partly lost, with the truth, and what comes of it.

The Orion region `west`, which its makers registered, is cut into parts; each is put down with a separate pose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import known_truth
import numpy as np
from numpy.typing import NDArray
from slide_files import halved, write_ome, write_rgb

from pipeline.slides.opening import open_slide

Floats = NDArray[np.float64]

MPP = 1.3
SIDE_PX = 2800
_MARGIN_UM = 700.0
_GLASS = 240


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the section: where it is on the H&E slide, bool (H, W), and its affine map (2, 3) in um."""

    inside: NDArray[np.bool_]
    affine: Floats


@dataclass(frozen=True, eq=False)
class Damaged:
    """A damaged pair: H&E (H, W, 3), nuclei (H, W) of the dense slide, and the parts that both of them show."""

    case: str
    rgb: NDArray[np.uint8]
    nuclei: NDArray[np.uint8]
    parts: tuple[Part, ...]

    def truth(self, points_um: Floats) -> Floats:
        """Return where points (N, 2) of the H&E slide lie on the dense one; nan where they have no partner."""
        column, row = np.clip(np.rint(points_um / MPP).astype(int), 0, SIDE_PX - 1).T
        there = np.full_like(points_um, np.nan)
        for part in self.parts:
            held = part.inside[row, column]
            there[held] = points_um[held] @ part.affine[:, :2].T + part.affine[:, 2]
        return there


def intact(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return the section as it is, turned."""
    whole = Part(np.ones((SIDE_PX, SIDE_PX), np.bool_), _pose(seed))
    return _put_down("intact", rgb, nuclei, [whole])


def torn(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return a section torn along a slanting line; one side has moved by 150 to 300 um and turned by 2 to 5 degrees."""
    rng, base = np.random.default_rng(seed), _pose(seed)
    x, y = _grid_um()
    line = rng.uniform(0.45, 0.6) * SIDE_PX * MPP + rng.uniform(-0.2, 0.2) * y
    beyond = x > line
    away = rng.uniform(150, 300)
    move = _rigid(rng.uniform(2, 5), (0.9 * away, 0.4 * away), (0.75 * SIDE_PX * MPP, 0.5 * SIDE_PX * MPP))
    return _put_down("torn", rgb, nuclei, [Part(~beyond, base), Part(beyond, _after(base, move))])


def lost(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return a section of which the lower third was washed off, along a wavy edge."""
    x, y = _grid_um()
    held = y < np.random.default_rng(seed).uniform(0.6, 0.7) * SIDE_PX * MPP + 150 * np.sin(x / 500)
    return _put_down("lost", rgb, nuclei, [Part(held, _pose(seed))])


def folded(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return a section in which a fold has taken in 200 to 400 um."""
    rng, base = np.random.default_rng(seed), _pose(seed)
    x, _ = _grid_um()
    first, taken = rng.uniform(0.4, 0.6) * SIDE_PX * MPP, rng.uniform(200, 400)
    move = _rigid(0.0, (-taken, 0.0), (0.0, 0.0))
    return _put_down("folded", rgb, nuclei, [Part(x < first, base), Part(x > first + taken, _after(base, move))])


def fragments(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return two strips, 900 um apart on glass, of which one has moved and turned by itself."""
    rng, base = np.random.default_rng(seed), _pose(seed)
    x, _ = _grid_um()
    whole = SIDE_PX * MPP
    left, right = x < (whole - 900) / 2, x > (whole + 900) / 2
    move = _rigid(rng.uniform(4, 8), (rng.uniform(100, 300), rng.uniform(-300, -100)), (0.8 * whole, 0.5 * whole))
    strips = np.where((left | right)[..., None], rgb, _GLASS).astype(np.uint8)
    return _put_down("fragments", strips, nuclei, [Part(left, base), Part(right, _after(base, move))])


def torn_twice(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return a section torn across at two places; the outer parts have moved and turned, each its own way."""
    rng, base = np.random.default_rng(seed), _pose(seed)
    x, y = _grid_um()
    whole = SIDE_PX * MPP
    upper, lower = y < 0.33 * whole + 0.1 * x, y > 0.68 * whole - 0.1 * x
    first = _rigid(-rng.uniform(2, 4), (60.0, -rng.uniform(150, 250)), (0.5 * whole, 0.15 * whole))
    second = _rigid(rng.uniform(2, 4), (-80.0, rng.uniform(150, 250)), (0.5 * whole, 0.85 * whole))
    parts = [Part(~upper & ~lower, base), Part(upper, _after(base, first)), Part(lower, _after(base, second))]
    return _put_down("torn_twice", rgb, nuclei, parts)


def turned(rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], seed: int) -> Damaged:
    """Return two strips, 900 um apart on glass, of which one has turned by 60 to 180 degrees and lies farther off."""
    rng, base = np.random.default_rng(seed), _pose(seed)
    x, _ = _grid_um()
    whole = SIDE_PX * MPP
    left, right = x < (whole - 900) / 2 + 200, x > (whole + 900) / 2 + 200
    move = _rigid(
        rng.choice([-1, 1]) * rng.uniform(60, 180), (rng.uniform(2600, 3000), 300.0), (0.8 * whole, whole / 2)
    )
    strips = np.where((left | right)[..., None], rgb, _GLASS).astype(np.uint8)
    return _put_down("turned", strips, nuclei, [Part(left, base), Part(right, _after(base, move))])


CASES: dict[str, Callable[[NDArray[np.uint8], NDArray[np.uint8], int], Damaged]] = {
    "intact": intact,
    "torn": torn,
    "lost": lost,
    "folded": folded,
    "fragments": fragments,
    "torn_twice": torn_twice,
    "turned": turned,
}


def tissue(real_data: Path, corner_px: tuple[int, int] = (4400, 1500)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return H&E and nuclei of a square of real tissue, on the same pixels."""
    folder, size = real_data / "orion_crc01", (SIDE_PX, SIDE_PX)
    with open_slide(folder / "west_he.tif") as sparse, open_slide(folder / "west_mif.ome.tif") as dense:
        return sparse.read_region(0, corner_px, size), dense.read_region(0, corner_px, size)[..., 0]


def outcome(pair: Damaged, folder: Path) -> known_truth.Outcome:
    """Write a pair to an empty folder, inspect, register and tile it, and compare with its truth."""
    write_rgb(folder / "he.tif", [pair.rgb, halved(pair.rgb)], mpp=MPP, tile=256)
    metadata = {"PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    levels = [plane[None] for plane in (pair.nuclei, halved(pair.nuclei))]
    write_ome(folder / "dense.ome.tif", levels, ["Hoechst"], metadata=metadata, tile=(256, 256))
    points = _tissue_points(pair.rgb)
    return known_truth.outcome(folder / "he.tif", folder / "dense.ome.tif", points, pair.truth(points), folder)


def _tissue_points(rgb: NDArray[np.uint8]) -> Floats:
    """Return the points of a grid of 60 um that lie on stained tissue."""
    y, x = np.mgrid[30 : SIDE_PX * MPP : 60.0, 30 : SIDE_PX * MPP : 60.0]
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    dark: Any = cv2.GaussianBlur(rgb.min(axis=2), (0, 0), 15.0) < 210
    column, row = np.clip(np.rint(points / MPP).astype(int), 0, SIDE_PX - 1).T
    held: Floats = points[dark[row, column]]
    return held


def _put_down(case: str, rgb: NDArray[np.uint8], nuclei: NDArray[np.uint8], parts: list[Part]) -> Damaged:
    """Return the pair whose dense slide shows the parts, each where its map puts it, on a slide that holds them all."""
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * SIDE_PX * MPP
    there = np.concatenate([corners @ part.affine[:, :2].T + part.affine[:, 2] for part in parts])
    low, high = there.min(0) - _MARGIN_UM, there.max(0) + _MARGIN_UM
    width, height = np.ceil((high - low) / MPP).astype(int).tolist()
    moved = tuple(Part(part.inside, part.affine - np.column_stack([np.zeros((2, 2)), low])) for part in parts)
    dense = np.zeros((height, width), np.uint8)
    for part in moved:
        in_px = np.column_stack([part.affine[:, :2], part.affine[:, 2] / MPP])
        dense = np.maximum(dense, cv2.warpAffine(nuclei * part.inside, in_px, (width, height)))
    noise = np.random.default_rng(0).poisson(4, dense.shape)
    return Damaged(case, rgb, np.minimum(dense + noise, 255).astype(np.uint8), moved)


def _pose(seed: int) -> Floats:
    return _rigid(float(np.random.default_rng([seed, 1]).uniform(-180, 180)), (0.0, 0.0), (0.0, 0.0))


def _rigid(degrees: float, shift_um: tuple[float, float], centre_um: tuple[float, float]) -> Floats:
    """Return the map that turns about a centre, then shifts."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, np.array(centre_um) + shift_um - turn @ centre_um])


def _after(second: Floats, first: Floats) -> Floats:
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def _grid_um() -> tuple[Floats, Floats]:
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX] * MPP
    return x, y
