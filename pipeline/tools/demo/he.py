"""Draw the H&E image: densities of two stains, mixed as light passes through them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.tools.demo.architecture import Architecture
from pipeline.tools.demo.cells import DrawnCells
from pipeline.tools.demo.cohort import SlidePlan
from pipeline.tools.demo.fields import Field, Frame, Plane, smooth_step
from pipeline.tools.demo.nuclei import chromatin, draw_texture, paint_max, stamps_of

# Optical density of red, green and blue per unit of stain, after the vectors of Ruifrok and Johnston (2001).
_HEMATOXYLIN = np.array([0.64, 0.70, 0.31])
_EOSIN = np.array([0.10, 0.92, 0.38])
_BACKGROUND = np.array([243.0, 242.0, 244.0], np.float32)

_BLUR_UM = 0.65
_GRAIN_UM = 0.65
_SENSOR_NOISE = np.float32(1.6)
_NUCLEAR_DENSITY = np.float32(0.92)
_STRIP_PX = 512
_STRIP_MARGIN_PX = 16


@dataclass(frozen=True)
class Nuisance:
    """What varies within a slide and says nothing about the cells.

    Attributes:
        hematoxylin: factor on the stain.
        eosin: factor on the stain.
        hue: tilt between the stains' colours.
        focus: 0 sharp to 1 blurred.
        light: factor on the brightness.
    """

    hematoxylin: Field
    eosin: Field
    hue: Field
    focus: Field
    light: Field


def draw_nuisance(frame: Frame, rng: np.random.Generator) -> Nuisance:
    """Smooth fields over the slide."""
    return Nuisance(
        hematoxylin=frame.field(np.exp(0.22 * frame.noise(rng, 90))),
        eosin=frame.field(np.exp(0.24 * frame.noise(rng, 100))),
        hue=frame.field(0.05 * frame.noise(rng, 150)),
        focus=frame.field(np.clip(0.35 + 0.35 * frame.noise(rng, 160), 0, 1)),
        light=frame.field(1 + 0.012 * frame.noise(rng, 300)),
    )


def render_he(
    plan: SlidePlan, tissue: Architecture, cells: DrawnCells, fibres: Field, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the image (height, width, 3) on the grid of the plan.

    Pixel (0, 0) is centred at the origin of the frame.
    """
    width, height = plan.size_px
    nuisance = draw_nuisance(tissue.frame, rng)
    texture = draw_texture(rng)
    grain = cv2.GaussianBlur(rng.standard_normal((height, width), dtype=np.float32), (0, 0), _GRAIN_UM / plan.mpp)
    nuclei, cytoplasm = _painted_cells(plan, cells, texture)
    image = np.empty((height, width, 3), np.uint8)
    # Strips, a little taller than what is kept of them, bound the memory.
    for top in range(0, height, _STRIP_PX):
        rows = slice(max(0, top - _STRIP_MARGIN_PX), min(height, top + _STRIP_PX + _STRIP_MARGIN_PX))
        x, y = np.meshgrid(
            np.arange(width, dtype=np.float32) * np.float32(plan.mpp),
            np.arange(rows.start, rows.stop, dtype=np.float32) * np.float32(plan.mpp),
        )
        eosin, basophil = _matrix(tissue, fibres, grain[rows], cytoplasm[rows], x, y)
        eosin *= 1 - 0.35 * np.minimum(nuclei[rows], 1)
        colour = _transmitted(plan, nuisance, _NUCLEAR_DENSITY * nuclei[rows] + basophil, eosin, x, y)
        colour += _SENSOR_NOISE * rng.standard_normal(colour.shape, dtype=np.float32)
        kept = slice(top - rows.start, top - rows.start + min(_STRIP_PX, height - top))
        image[top : top + _STRIP_PX] = np.clip(np.rint(colour[kept]), 0, 255).astype(np.uint8)
    return image


def _painted_cells(plan: SlidePlan, cells: DrawnCells, texture: tuple[Plane, Plane]) -> tuple[Plane, Plane]:
    """Return density of the nuclei, mean about 1 inside them, and of the cytoplasm around them."""
    width, height = plan.size_px
    nuclei = np.zeros((height, width), np.float32)
    cytoplasm = np.zeros((height, width), np.float32)
    for stamps in stamps_of(cells, cells.position_um, plan.mpp, margin_um=3.0):
        strength = stamps.cells.strength.astype(np.float32)[:, None, None]
        paint_max(nuclei, stamps.corner_px, stamps.coverage(0.3) * chromatin(stamps, texture) * strength)
        halo = np.clip(1.2 - np.abs(stamps.beyond_um()) / 2.6, 0, 1)
        paint_max(cytoplasm, stamps.corner_px, halo * stamps.cells.cytoplasm.astype(np.float32)[:, None, None])
    return nuclei, cytoplasm


def _transmitted(plan: SlidePlan, nuisance: Nuisance, hematoxylin: Plane, eosin: Plane, x: Plane, y: Plane) -> Plane:
    """Return the light (rows, columns, 3) that passes both stains (Beer and Lambert), before the camera's noise."""
    hematoxylin_od, eosin_od = _stain_colours(plan)
    hematoxylin = hematoxylin * nuisance.hematoxylin.at(x, y) * np.float32(plan.hematoxylin)
    eosin = eosin * nuisance.eosin.at(x, y) * np.float32(plan.eosin)
    density = hematoxylin[..., None] * hematoxylin_od + eosin[..., None] * eosin_od
    hue = nuisance.hue.at(x, y)
    density[..., 0] += hue * hematoxylin
    density[..., 2] -= hue * eosin
    light = np.exp(-density) * nuisance.light.at(x, y)[..., None]
    return _focused(light, nuisance.focus.at(x, y), plan.mpp) * _BACKGROUND


def _matrix(
    tissue: Architecture, fibres: Field, grain: Plane, cytoplasm: Plane, x: Plane, y: Plane
) -> tuple[Plane, Plane]:
    """Return densities of eosin and of diffuse hematoxylin between the nuclei."""
    fibre = fibres.at(x, y)
    # A little of the fibres' run roughens the borders: no compartment ends on a smooth curve.
    rough = 0.8 * fibre + 2.0 * grain
    inside = smooth_step(tissue.tissue.at(x, y) + 2 * rough, 4.0)
    gland = smooth_step(tissue.gland.at(x, y) + rough, 2.5)
    lymphoid = tissue.lymphoid.at(x, y) * (1 - gland)
    vessel = tissue.vessel.at(x, y) + 0.4 * rough
    wall = smooth_step(5.5 - np.abs(vessel + 4.5), 3.0) * (1 - gland)
    stroma = 0.42 + 0.17 * fibre
    slit = smooth_step(fibre + 1.25, 0.8)
    stroma = np.maximum(stroma, 0.12) * (0.25 + 0.75 * slit)
    eosin = stroma * (1 - 0.55 * lymphoid) + 0.5 * cytoplasm * slit
    eosin = eosin * (1 - wall) + wall * (0.62 + 0.08 * fibre)
    epithelium = 0.44 + 0.35 * grain
    eosin = eosin * (1 - gland) + gland * epithelium
    basophil = 0.04 + gland * (0.13 + 0.1 * grain) + 0.10 * lymphoid
    cleft = smooth_step(np.abs(tissue.gland.at(x, y) + 1.2 + 0.5 * rough) - 0.7, 1.2)
    eosin *= 0.45 + 0.55 * cleft
    empty = smooth_step(tissue.lumen.at(x, y) + rough, 2.0)
    empty = np.maximum(empty, smooth_step(tissue.fat.at(x, y) - 1.6 + 0.25 * rough, 1.4))
    blood = smooth_step(vessel, 2.0)
    present = inside * (1 - empty) * (1 - blood)
    secretion = 0.07 * smooth_step(tissue.lumen.at(x, y) - 6 + 3 * fibre, 20.0)
    eosin = eosin * present + inside * (secretion + blood * 0.55 * smooth_step(grain + 0.10, 0.35))
    return np.asarray(np.maximum(eosin, 0), np.float32), np.asarray(np.maximum(basophil * present, 0), np.float32)


def _focused(light: Plane, focus: Plane, mpp: float) -> Plane:
    """Blend a sharp and a blurred image by the local focus."""
    sharp = cv2.GaussianBlur(light, (0, 0), 0.25 / mpp)
    soft = cv2.GaussianBlur(light, (0, 0), _BLUR_UM / mpp)
    blended: Plane = sharp + (soft - sharp) * focus[..., None]
    return blended


def _stain_colours(plan: SlidePlan) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the colours of both stains, a little different for every patient."""
    tint = np.random.default_rng(list(f"stain of {plan.patient}".encode()))
    hematoxylin = _HEMATOXYLIN * np.exp(tint.normal(0, 0.06, 3))
    eosin = _EOSIN * np.exp(tint.normal(0, 0.07, 3))
    return hematoxylin.astype(np.float32), eosin.astype(np.float32)
