"""Draw the multiplex image: one plane per marker, at the mapped positions of the same cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.tools.demo.architecture import Architecture
from pipeline.tools.demo.cells import NAMES, DrawnCells
from pipeline.tools.demo.cohort import NUCLEAR_MARKER, DensePlan
from pipeline.tools.demo.deformation import TrueMap
from pipeline.tools.demo.fields import Field, Plane, smooth_step
from pipeline.tools.demo.nuclei import Stamps, chromatin, draw_texture, paint_max, stamps_of

Localisation = Literal["nucleus", "membrane", "cytoplasm"]

_MAP_STEP_PX = 16
_MEMBRANE_REACH_UM = 3.5


@dataclass(frozen=True)
class Marker:
    """What a marker shows.

    Attributes:
        localisation: where in the cell.
        level: mean intensity above background of each phenotype that carries it.
        autofluorescence: strength of the tissue's own light in this channel.
        noise: standard deviation of the camera's noise.
    """

    localisation: Localisation
    level: dict[str, float]
    autofluorescence: float
    noise: float


MARKERS: dict[str, Marker] = {
    NUCLEAR_MARKER: Marker("nucleus", dict.fromkeys(NAMES, 9000.0), 150.0, 25.0),
    "CD3": Marker("membrane", {"T cell": 5200.0, "regulatory T cell": 4600.0}, 420.0, 30.0),
    "CD20": Marker("membrane", {"B cell": 6500.0}, 320.0, 25.0),
    "CD68": Marker("cytoplasm", {"macrophage": 4200.0}, 520.0, 35.0),
    "PanCK": Marker("cytoplasm", {"tumour": 7500.0, "proliferating tumour": 6800.0}, 260.0, 25.0),
    "aSMA": Marker("cytoplasm", {"myofibroblast": 5200.0}, 380.0, 30.0),
    "Ki67": Marker("nucleus", {"proliferating tumour": 4800.0}, 220.0, 20.0),
    "FOXP3": Marker("nucleus", {"regulatory T cell": 3800.0}, 240.0, 22.0),
}


@dataclass(frozen=True)
class DenseGrid:
    """The grid of the dense image and the sparse-frame position of each of its pixels.

    Attributes:
        size_px: width and height.
        mpp: um per pixel.
        x_um: (height, width) sparse-frame x.
        y_um: (height, width) sparse-frame y.
    """

    size_px: tuple[int, int]
    mpp: float
    x_um: Plane
    y_um: Plane


def dense_grid(true_map: TrueMap, size_px: tuple[int, int], mpp: float) -> DenseGrid:
    """Return where every dense pixel comes from; exact at every 16th pixel and linear between (error below 0.05 um)."""
    width, height = size_px
    columns = np.arange(0, width + _MAP_STEP_PX, _MAP_STEP_PX)
    rows = np.arange(0, height + _MAP_STEP_PX, _MAP_STEP_PX)
    x, y = np.meshgrid(columns * mpp, rows * mpp)
    sparse = true_map.to_sparse(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(len(rows), len(columns), 2)
    return DenseGrid(size_px, mpp, *(_upsampled(sparse[..., axis], size_px) for axis in (0, 1)))


def _upsampled(coarse: NDArray[np.float64], size_px: tuple[int, int]) -> Plane:
    width, height = size_px
    column, row = np.divmod(np.arange(width), _MAP_STEP_PX), np.divmod(np.arange(height), _MAP_STEP_PX)
    u = (column[1] / _MAP_STEP_PX).astype(np.float32)
    v = (row[1] / _MAP_STEP_PX).astype(np.float32)[:, None]
    values = coarse.astype(np.float32)
    across = values[:, column[0]] * (1 - u) + values[:, column[0] + 1] * u
    return np.asarray(across[row[0]] * (1 - v) + across[row[0] + 1] * v, np.float32)


def render_multiplex(
    plan: DensePlan,
    tissue: Architecture,
    cells: DrawnCells,
    fibres: Field,
    true_map: TrueMap,
    size_px: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[NDArray[np.uint16]]:
    """Yield the planes (height, width) of the panel, in its order."""
    grid = dense_grid(true_map, size_px, plan.mpp)
    centre_um = true_map.to_dense(cells.position_um)
    jacobian = true_map.jacobian(cells.position_um)
    texture = draw_texture(rng)
    own_light = _autofluorescence(tissue, fibres, grid)
    # Each marker draws from its own seed, so leaving one out of a panel changes no other.
    seeds = dict(zip(MARKERS, rng.spawn(len(MARKERS)), strict=True))
    for name in plan.panel:
        marker, own = MARKERS[name], seeds[name]
        expression = _expression(name, marker, cells, own)
        rows = np.flatnonzero(expression > 0)
        signal = np.zeros((size_px[1], size_px[0]), np.float32)
        chosen = cells.take(rows)
        for stamps, level in _with_levels(chosen, expression[rows], centre_um[rows], jacobian[rows], plan.mpp):
            paint_max(signal, stamps.corner_px, _localised(marker.localisation, stamps, texture) * level)
        if name == "aSMA":
            signal = np.maximum(signal, _smooth_muscle(tissue, fibres, grid))
        staining = tissue.frame.field(np.exp(0.10 * tissue.frame.noise(own, 250))).at(grid.x_um, grid.y_um)
        yield _recorded(signal * staining * np.float32(np.exp(own.normal(0, 0.12))), marker, own_light, plan.mpp, own)


def _with_levels(
    cells: DrawnCells,
    expression: NDArray[np.float64],
    centre_um: NDArray[np.float64],
    jacobian: NDArray[np.float64],
    mpp: float,
) -> Iterator[tuple[Stamps, Plane]]:
    for stamps in stamps_of(cells, centre_um, mpp, jacobian, _MEMBRANE_REACH_UM):
        yield stamps, expression[stamps.rows].astype(np.float32)[:, None, None]


def _expression(name: str, marker: Marker, cells: DrawnCells, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return intensity of the marker in each cell."""
    level = np.array([marker.level.get(phenotype, 0.0) for phenotype in NAMES])[cells.phenotype]
    scatter = 0.12 if name == NUCLEAR_MARKER else 0.28
    return np.asarray(level * np.exp(rng.normal(0, scatter, len(cells))))


def _localised(localisation: Localisation, stamps: Stamps, texture: tuple[Plane, Plane]) -> Plane:
    """Return (n, S, S) distribution of a marker over the cell."""
    if localisation == "nucleus":
        return np.asarray(stamps.coverage(0.5) * (0.45 + 0.55 * chromatin(stamps, texture)), np.float32)
    beyond = stamps.beyond_um()
    if localisation == "membrane":
        return np.asarray(np.exp(-np.square((beyond - 0.9) / 0.9)), np.float32)
    speckle = np.clip(1 + 0.45 * (chromatin(stamps, texture) - 1), 0.3, 2)
    around = np.clip((np.float32(3.2) - beyond) / np.float32(1.6), 0, 1) * np.clip(beyond / 1.2 + 1, 0.25, 1)
    return np.asarray(around * speckle, np.float32)


def _smooth_muscle(tissue: Architecture, fibres: Field, grid: DenseGrid) -> Plane:
    """Return the walls of vessels, streaked as the fibres run."""
    wall = smooth_step(5.5 - np.abs(tissue.vessel.at(grid.x_um, grid.y_um) + 4.5), 3.0)
    streaks = np.clip(1 + 0.35 * fibres.at(grid.x_um, grid.y_um), 0.2, 2)
    outside_gland = tissue.gland.at(grid.x_um, grid.y_um) < 0
    return np.asarray(5000 * wall * streaks * outside_gland, np.float32)


def _autofluorescence(tissue: Architecture, fibres: Field, grid: DenseGrid) -> Plane:
    """Return light of the tissue itself: collagen most, epithelium less, lumina and fat nearly none."""
    x, y = grid.x_um, grid.y_um
    inside = smooth_step(tissue.tissue.at(x, y), 4.0)
    gland = smooth_step(tissue.gland.at(x, y), 2.5)
    empty = np.maximum(smooth_step(tissue.lumen.at(x, y), 2.0), smooth_step(tissue.fat.at(x, y) - 1.6, 1.4))
    stroma = np.clip(0.75 + 0.3 * fibres.at(x, y), 0.1, 2)
    light = inside * (1 - 0.93 * empty) * (stroma * (1 - gland) + 0.6 * gland)
    return np.asarray(light + 0.03, np.float32)


def _recorded(
    signal: Plane, marker: Marker, own_light: Plane, mpp: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Return what the camera writes: blur, own light of the tissue, offset, shot noise, camera noise."""
    blurred = cv2.GaussianBlur(signal, (0, 0), 0.45 / mpp)
    light = np.asarray(blurred + np.float32(marker.autofluorescence) * own_light, np.float32)
    spread = np.sqrt(2.0 * light + marker.noise**2, dtype=np.float32)
    light += spread * rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(light + np.float32(200)), 0, 65535), np.uint16)
