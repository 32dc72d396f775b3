"""A drawn panel of 18 channels with a dead, a saturated and a bleeding one in it; the others are as real ones are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.panel.panel_file import SCHEMA_VERSION, CheckedMarker, MarkerFinding, PanelCheck

CHANNELS = (
    *("DAPI", "Autofluorescence", "CD31", "CD45", "CD68", "CD4", "FOXP3", "CD8a", "CD45RO", "CD20", "PD-L1", "CD3e"),
    *("CD163", "E-cadherin", "PD-1", "Ki67", "Pan-CK", "alpha-SMA"),
)
DEAD, SATURATED, BLEEDING, SOURCE = "CD163", "CD20", "Ki67", "PD-1"
BACKGROUND, NOISE = 300.0, 12.0
LENT = 0.3


@dataclass(frozen=True)
class Faults:
    """What is drawn wrong; `seam` is a step of brightness at every field of view of `seam_px`."""

    dead: bool = True
    saturated: bool = True
    bleeding: bool = True
    seam: float = 0.0
    seam_px: int = 0


def draw_panel(side_px: int, faults: Faults, *, seed: int = 0, dtype: str = "uint16") -> NDArray[Any]:
    """Return (18, side, side): cells of 8 um at 1 um per pixel; nuclei in DAPI, each marker in a share of the cells.

    T-cell markers are on the same cells, epithelial ones too, nuclear ones in the nuclei: what is alike in tissue is so
    here. All cells are autofluorescent a little, and light of that is in every channel.
    """
    rng = np.random.default_rng(seed)
    count = side_px**2 // 220
    x, y = rng.integers(0, side_px, (2, count))
    epithelial = (np.sin(x / side_px * 7) + np.cos(y / side_px * 5)) > 0
    lymphoid = ~epithelial & (rng.random(count) < 0.4)
    t_cell = lymphoid & (rng.random(count) < 0.7)
    shares = {
        "DAPI": np.ones(count, np.bool_),
        "Autofluorescence": rng.random(count) < 0.1,
        "CD45": lymphoid,
        "CD3e": t_cell,
        "CD4": t_cell & (rng.random(count) < 0.6),
        "CD8a": t_cell & (rng.random(count) < 0.4),
        "CD45RO": lymphoid & (rng.random(count) < 0.5),
        "FOXP3": t_cell & (rng.random(count) < 0.05),
        "PD-1": t_cell & (rng.random(count) < 0.3),
        "E-cadherin": epithelial,
        "Pan-CK": epithelial & (rng.random(count) < 0.95),
        "Ki67": epithelial & (rng.random(count) < 0.2),
    }
    planes = []
    for name in CHANNELS:
        own = np.flatnonzero(shares.get(name, ~epithelial & (rng.random(count) < 0.15)))
        plane = np.zeros((side_px, side_px), np.float32)
        ring = name not in ("DAPI", "FOXP3", "Ki67", "Autofluorescence")
        levels = rng.lognormal(7.5, 0.6, len(own))
        for index, level in zip(own.tolist(), levels.tolist(), strict=True):
            centre = (int(x[index]), int(y[index]))
            cv2.circle(plane, centre, 5 if ring else 3, level, 2 if ring else -1)
        planes.append(plane)
    image = np.stack(planes)
    number = CHANNELS.index
    image += 0.02 * image[number("Autofluorescence")]
    if faults.bleeding:
        image[number(BLEEDING)] += LENT * image[number(SOURCE)]
    if faults.dead:
        image[number(DEAD)] = 0
    image = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in image])
    if faults.seam:
        place = np.arange(side_px) // faults.seam_px % 2
        image += faults.seam * 3000 * (place[None, :, None] + place[None, None, :])
    image += BACKGROUND + rng.normal(0, NOISE, image.shape).astype(np.float32)
    if faults.saturated:
        # Exposed twenty times too long: what is above the camera's end is cut off.
        image[number(SATURATED)] *= 60
    return np.clip(image, 0, np.iinfo(dtype).max).astype(dtype)


def marker(name: str, *, dead: bool = False, factor: float = 0.0, background: float = 10.0) -> CheckedMarker:
    """A channel as the stage writes it; its numbers are made up."""
    findings = (MarkerFinding("dead", "noise"),) if dead else ()
    return CheckedMarker(
        marker=name,
        background=background,
        percentiles={"50": 1.0, "99.9": 3000.0},
        largest=9.0,
        saturated=0.0,
        not_finite=0.0,
        structure=0.5,
        seam=0.0,
        seam_um=0.0,
        autofluorescence_r=0.1,
        background_factor=factor,
        neighbours={},
        closest="",
        closest_r=0.0,
        findings=findings,
        tells_nothing=dead,
    )


def check_of(*markers: CheckedMarker, autofluorescence: str = "") -> PanelCheck:
    return PanelCheck(
        SCHEMA_VERSION, "a", "fluorescence", autofluorescence=autofluorescence, imaged=1.0, mpp=4.0, markers=markers
    )
