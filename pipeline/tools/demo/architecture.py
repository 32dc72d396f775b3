"""Draw tissue architecture: outline, glands, lumina, fat, vessels, lymphoid aggregates, fibre direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from pipeline.tools.demo.fields import Field, Frame, Plane, smooth_step

GRID_SPACING_UM = 2.0
EPITHELIUM_UM = 27.0
_EDGE_MARGIN_UM = 40.0


@dataclass(frozen=True)
class Architecture:
    """Where each compartment is; distances are in um, positive inside, negative outside.

    Attributes:
        frame: grid of all fields.
        tissue: distance to the outline of the tissue.
        gland: distance to the border of the nearest gland or tumour nest.
        lumen: distance to the border of the nearest empty lumen.
        fat: distance to the nearest wall between fat cells; negative outside fat.
        vessel: distance to the border of the nearest vessel's lumen.
        lymphoid: 0 to 1, how much of a lymphoid aggregate there is.
        fibre_rad: direction of the fibres.
    """

    frame: Frame
    tissue: Field
    gland: Field
    lumen: Field
    fat: Field
    vessel: Field
    lymphoid: Field
    fibre_rad: Plane

    def tissue_points_um(self) -> NDArray[np.float64]:
        """Return positions (N, 2) of grid nodes inside the tissue, 8 um apart."""
        step = round(8 / self.frame.spacing_um)
        x, y = (plane[::step, ::step] for plane in self.frame.positions_um())
        inside = self.tissue.values[::step, ::step] > 0
        return np.stack([x[inside], y[inside]], axis=1).astype(np.float64)


def draw_architecture(field_um: tuple[float, float], rng: np.random.Generator) -> Architecture:
    """Return the architecture of one slide whose image covers `field_um` (width, height)."""
    rows, columns = (math.ceil(extent / GRID_SPACING_UM) + 1 for extent in (field_um[1], field_um[0]))
    frame = Frame((rows, columns), GRID_SPACING_UM)
    x, y = frame.positions_um()
    tissue = _outline(frame, field_um, rng)
    inner = tissue - 25
    fat = _fat(frame, tissue, rng)
    lymphoid = _lymphoid(frame, np.where(fat > -20, -1, inner), rng)
    gland, hollow = _glands(frame, np.where((fat > -15) | (lymphoid > 0.4), -1, inner), rng)
    depth = _signed_distance(gland, frame.spacing_um)
    lumen_border = EPITHELIUM_UM + 5 * frame.noise(rng, 15)
    lumen = np.where(hollow, depth - lumen_border, -_EDGE_MARGIN_UM).astype(np.float32)
    free = np.where((fat > -25) | (lymphoid > 0.4) | (depth > -25), -1, inner)
    vessel = _vessels(frame, free, rng)
    return Architecture(
        frame=frame,
        tissue=frame.field(tissue),
        gland=frame.field(depth),
        lumen=frame.field(lumen),
        fat=frame.field(fat),
        vessel=frame.field(vessel),
        lymphoid=frame.field(lymphoid),
        fibre_rad=_fibre_direction(frame, depth, vessel, rng, x, y),
    )


def _outline(frame: Frame, field_um: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Return a rounded block with a ragged edge that stays clear of the image's edge."""
    x, y = frame.positions_um()
    u = (x / field_um[0] - 0.5) / 0.475
    v = (y / field_um[1] - 0.5) / 0.475
    radius = (np.abs(u) ** 4 + np.abs(v) ** 4) ** 0.25
    ragged = 0.035 * frame.noise(rng, min(field_um) / 10) + 0.006 * frame.noise(rng, 8)
    edge = np.minimum(np.minimum(x, field_um[0] - x), np.minimum(y, field_um[1] - y))
    return _signed_distance((radius + ragged < 0.98) & (edge > _EDGE_MARGIN_UM), frame.spacing_um)


def _scattered(
    frame: Frame, allowed: Plane, rng: np.random.Generator, radii_um: NDArray[np.float64], gap_um: float
) -> NDArray[np.float64]:
    """Return discs (N, 3) of x, y, radius placed one after the other where `allowed` is positive and none lies yet."""
    rows, columns = np.nonzero(allowed > 0)
    discs: list[tuple[float, float, float]] = []
    if len(rows) == 0:
        return np.zeros((0, 3))
    for radius in radii_um:
        for pick in rng.integers(0, len(rows), 40):
            x, y = columns[pick] * frame.spacing_um, rows[pick] * frame.spacing_um
            if all(math.hypot(x - a, y - b) > 0.9 * (radius + c) + gap_um for a, b, c in discs):
                discs.append((x, y, float(radius)))
                break
    return np.array(discs).reshape(-1, 3)


def _area_mm2(frame: Frame) -> float:
    return frame.shape[0] * frame.shape[1] * frame.spacing_um**2 / 1e6


def _disc_height(frame: Frame, discs: NDArray[np.float64]) -> tuple[Plane, NDArray[np.intp]]:
    """Return for every node the largest 1 - distance/radius over the discs, and whose it is."""
    x, y = frame.positions_um()
    height = np.full(frame.shape, -9.0, np.float32)
    owner = np.zeros(frame.shape, np.intp)
    for index, (a, b, radius) in enumerate(discs):
        here = 1 - np.hypot(x - np.float32(a), y - np.float32(b)) / np.float32(radius)
        closer = here > height
        height[closer], owner[closer] = here[closer], index
    return height, owner


def _glands(frame: Frame, allowed: Plane, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the mask of glands and nests, and the part of it whose glands are hollow."""
    region = frame.noise(rng, 220) > -0.3
    radii = np.sort(rng.uniform(38, 100, round(45 * _area_mm2(frame)) + 2))[::-1]
    discs = _scattered(frame, np.where(region, allowed - 30, -1).astype(np.float32), rng, radii, 26.0)
    height, owner = _disc_height(frame, discs)
    ragged = 0.16 * frame.noise(rng, 22) + 0.05 * frame.noise(rng, 7)
    hollow = (rng.random(max(1, len(discs))) < 0.45) & (discs[:, 2] > 52 if len(discs) else False)
    mask = (height + ragged > 0) & (allowed > 0)
    return mask, hollow[owner] & mask


def _lymphoid(frame: Frame, allowed: Plane, rng: np.random.Generator) -> Plane:
    radii = rng.uniform(80, 150, max(1, round(1.6 * _area_mm2(frame))))
    discs = _scattered(frame, allowed - 60, rng, radii, 60.0)
    height, _ = _disc_height(frame, discs)
    return smooth_step(height + 0.18 * frame.noise(rng, 25), 0.25)


def _vessels(frame: Frame, allowed: Plane, rng: np.random.Generator) -> Plane:
    radii = rng.uniform(9, 24, max(1, round(9 * _area_mm2(frame))))
    discs = _scattered(frame, allowed - 10, rng, radii, 40.0)
    height, owner = _disc_height(frame, discs)
    if len(discs) == 0:
        return np.full(frame.shape, -_EDGE_MARGIN_UM, np.float32)
    ragged = 0.12 * frame.noise(rng, 12)
    return np.asarray((height + ragged) * discs[owner, 2], np.float32)


def _fat(frame: Frame, tissue: Plane, rng: np.random.Generator) -> Plane:
    """Return distance to the walls of a packing of fat cells, in a region or two near the edge of the tissue."""
    # Fat lies near the edge more often than deep inside.
    region = frame.noise(rng, 200) - np.clip(tissue / 250, 0, 1.4) - 0.9
    x, y = frame.positions_um()
    count = round(_area_mm2(frame) * 1e6 / 2600) + 4
    width, height = frame.shape[1] * frame.spacing_um, frame.shape[0] * frame.spacing_um
    centres = rng.uniform((0, 0), (width, height), (count, 2))
    # Lloyd's relaxation turns scattered centres into cells of like size.
    for _ in range(3):
        nearest = cKDTree(centres).query(np.stack([x[::4, ::4], y[::4, ::4]], axis=-1))[1].ravel()
        number = np.maximum(np.bincount(nearest, minlength=count), 1)
        sums = [np.bincount(nearest, plane[::4, ::4].ravel(), count) for plane in (x, y)]
        centres = np.stack(sums, axis=1) / number[:, None]
    distance, index = cKDTree(centres).query(np.stack([x, y], axis=-1), k=2)
    between = np.linalg.norm(centres[index[..., 1]] - centres[index[..., 0]], axis=-1)
    wall = (distance[..., 1] ** 2 - distance[..., 0] ** 2) / (2 * np.maximum(between, 1e-6))
    seed_region = region[
        np.clip(np.rint(centres[:, 1] / frame.spacing_um).astype(int), 0, frame.shape[0] - 1),
        np.clip(np.rint(centres[:, 0] / frame.spacing_um).astype(int), 0, frame.shape[1] - 1),
    ]
    is_fat = (seed_region > 0)[index[..., 0]] & (tissue > 4)
    outside = -distance_transform_edt(~is_fat) * frame.spacing_um if is_fat.any() else np.full(frame.shape, -1e3)
    rounded = np.minimum(wall, 34 - distance[..., 0])
    return np.where(is_fat, rounded, outside).astype(np.float32)


def _fibre_direction(frame: Frame, gland: Plane, vessel: Plane, rng: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Return the direction of fibres, which turns slowly and bends round glands and vessels."""
    free = 1.6 * frame.noise(rng, 180)
    depth = np.maximum(gland, np.where(vessel > -30, vessel, -200))
    dy, dx = np.gradient(depth)
    tangent = np.arctan2(dx, -dy)
    near = np.exp(np.minimum(depth, 0) / 45)
    # Directions without sign are averaged as vectors of the doubled angle.
    cosine = near * np.cos(2 * tangent) + (1 - near) * np.cos(2 * free)
    sine = near * np.sin(2 * tangent) + (1 - near) * np.sin(2 * free)
    wobble = 0.35 * frame.noise(rng, 18)
    return np.asarray(0.5 * np.arctan2(sine, cosine) + wobble, np.float32)


def _signed_distance(mask: NDArray[np.bool_], spacing_um: float) -> Plane:
    if not mask.any():
        return np.full(mask.shape, -1e3, np.float32)
    inside = distance_transform_edt(mask)
    outside = distance_transform_edt(~mask)
    return np.asarray((inside - outside) * spacing_um, np.float32)
