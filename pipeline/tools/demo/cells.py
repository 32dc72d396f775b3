"""Cells: where they are, of which phenotype, and how their nuclei look.

The phenotypes differ in nuclear size, shape and chromatin only a little; each cell scatters widely around its
kind. Strength of stain is drawn without regard to the phenotype. Which kind of immune cell a place holds, and how
much of its epithelium proliferates, follows smooth random fields that know nothing of the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.tools.demo.architecture import Architecture
from pipeline.tools.demo.fields import Field, Plane

Values = NDArray[np.float64]
Codes = NDArray[np.intp]

_IMMUNE_FIELD_UM = 85.0
_EDGE_UM = 14.0


@dataclass(frozen=True)
class Appearance:
    """Mean look of a phenotype's nuclei.

    Attributes:
        radius_um: of the circle of the same area.
        axis_ratio: long over short axis.
        bend: 0 is an ellipse, more is a kidney.
        rim: chromatin gathered at the border, against the middle.
        spot: strength of a nucleolus.
        grain: strength of coarse clumps of chromatin.
        cytoplasm: strength of visible cytoplasm around the nucleus.
    """

    radius_um: float
    axis_ratio: float
    bend: float
    rim: float
    spot: float
    grain: float
    cytoplasm: float


PHENOTYPES: dict[str, Appearance] = {
    "tumour": Appearance(5.3, 1.30, 0.00, 0.70, 0.10, 0.10, 0.0),
    "proliferating tumour": Appearance(5.7, 1.20, 0.00, -0.10, 0.40, 0.80, 0.0),
    "fibroblast": Appearance(3.5, 3.20, 0.05, 0.10, 0.00, 0.20, 0.0),
    "myofibroblast": Appearance(3.9, 2.80, 0.05, 0.10, 0.10, 0.25, 0.0),
    "endothelium": Appearance(3.2, 2.40, 0.10, 0.10, 0.00, 0.20, 0.0),
    "T cell": Appearance(4.0, 1.05, 0.00, -0.50, 0.00, 0.20, 0.2),
    "regulatory T cell": Appearance(4.0, 1.90, 0.05, -0.50, 0.00, 0.20, 0.2),
    "B cell": Appearance(4.2, 1.05, 0.00, 1.45, 0.00, 0.12, 0.2),
    "macrophage": Appearance(4.5, 1.40, 0.30, 0.30, 0.00, 0.45, 0.85),
}
NAMES = tuple(PHENOTYPES)
_CODE = {name: code for code, name in enumerate(NAMES)}


@dataclass(frozen=True)
class DrawnCells:
    """All cells of a slide; arrays of one length N.

    Attributes:
        position_um: (N, 2) centre of the nucleus, sparse frame.
        phenotype: (N,) index into `NAMES`.
        radius_um: (N,) radius of the circle of the nucleus's area.
        axis_ratio: (N,) long over short axis.
        angle_rad: (N,) direction of the long axis, sparse frame.
        bend: (N,) kidney shape.
        lobes: (N, 2) cosine and sine part of a three-lobed irregularity.
        rim: (N,) see Appearance.
        spot: (N,) see Appearance.
        spot_at: (N, 2) place of the nucleolus in the unit circle.
        grain: (N,) see Appearance.
        grain_at: (N, 2) offset into the texture, um.
        cytoplasm: (N,) see Appearance.
        strength: (N,) optical density of the nucleus against the slide's mean.
    """

    position_um: Values
    phenotype: Codes
    radius_um: Values
    axis_ratio: Values
    angle_rad: Values
    bend: Values
    lobes: Values
    rim: Values
    spot: Values
    spot_at: Values
    grain: Values
    grain_at: Values
    cytoplasm: Values
    strength: Values

    def __len__(self) -> int:
        return len(self.phenotype)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> DrawnCells:
        """Return the cells of these rows."""
        return DrawnCells(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def names(self) -> list[str]:
        """Name of each cell's phenotype."""
        return [NAMES[code] for code in self.phenotype]


@dataclass(frozen=True)
class Composition:
    """Smooth fields, unit variance, that decide which phenotypes a place holds."""

    density: Field
    infiltrate: Field
    t_cell: Field
    b_cell: Field
    macrophage: Field
    regulatory: Field
    proliferation: Field
    myofibroblast: Field


def draw_cells(tissue: Architecture, rng: np.random.Generator) -> DrawnCells:
    """Return the cells of one slide."""
    frame = tissue.frame
    smooth = {item.name: frame.field(frame.noise(rng, _IMMUNE_FIELD_UM)) for item in fields(Composition)}
    composition = Composition(**smooth)
    position = _positions(tissue, composition, rng)
    phenotype, angle = _phenotypes(tissue, composition, position, rng)
    return _appearances(position, phenotype, angle, rng)


def _spacing(tissue: Architecture, composition: Composition) -> Plane:
    """Return least distance in um between neighbouring nuclei at every node; infinite where there are none."""
    gland, lymphoid = tissue.gland.values, tissue.lymphoid.values
    crowding = np.exp(-0.13 * composition.density.values)
    spacing = np.clip(11.3 * crowding, 9.4, 18)
    spacing = np.where(lymphoid > 0.3, 9.2 * np.clip(crowding, 0.97, 1.1), spacing)
    spacing = np.where(gland > 2, 11.0 * np.clip(crowding, 0.93, 1.15), spacing)
    spacing = np.where(np.abs(tissue.vessel.values + 2.5) < 2.5, 9.0, spacing)
    empty = (tissue.tissue.values < _EDGE_UM / 2) | (tissue.lumen.values > -4.5) | (tissue.vessel.values > 0)
    empty |= (tissue.fat.values > 2.5) | (np.abs(gland) < 1.5)
    return np.where(empty, np.inf, spacing).astype(np.float32)


def _positions(tissue: Architecture, composition: Composition, rng: np.random.Generator) -> Values:
    """Return random positions (N, 2) in um, nowhere closer than the spacing there."""
    spacing = _spacing(tissue, composition)
    step = tissue.frame.spacing_um
    expected = 5.0 * step**2 / np.square(spacing, dtype=np.float64)
    rows, columns = np.nonzero(rng.random(expected.shape) < expected)
    order = rng.permutation(len(rows))
    rows, columns = rows[order], columns[order]
    candidates = np.stack([columns, rows], axis=1) * step + rng.uniform(-step / 2, step / 2, (len(rows), 2))
    return candidates[_spaced(candidates, spacing[rows, columns].astype(np.float64))]


def _spaced(points: Values, spacing: Values) -> NDArray[np.bool_]:
    """Return which points stay when each that is closer to an earlier kept one than their mean spacing is dropped."""
    if len(points) == 0:
        return np.zeros(0, bool)
    pairs = cKDTree(points).query_pairs(float(spacing.max()), output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    distance = np.linalg.norm(points[first] - points[second], axis=1)
    close = distance < 0.5 * (spacing[first] + spacing[second])
    first, second = first[close], second[close]
    kept, open_ = np.zeros(len(points), bool), np.ones(len(points), bool)
    while open_.any():
        waiting = np.zeros(len(points), bool)
        waiting[second[open_[first] & open_[second]]] = True
        winners = open_ & ~waiting
        kept |= winners
        open_ &= ~winners
        open_[second[winners[first]]] = False
    return kept


def _phenotypes(
    tissue: Architecture, composition: Composition, position: Values, rng: np.random.Generator
) -> tuple[Codes, Values]:
    """Return index of the phenotype and direction of the long axis of every cell."""
    x, y = position[:, 0], position[:, 1]
    chance = rng.random((4, len(x)))
    in_gland = tissue.gland.at(x, y) > 0
    lymphoid = tissue.lymphoid.at(x, y) > 0.3
    vessel = tissue.vessel.at(x, y)
    at_vessel = (vessel > -6) & ~in_gland
    infiltrate = composition.infiltrate.at(x, y)
    immune_share = np.where(in_gland, 0.16 * np.exp(0.6 * infiltrate), _logistic(1.1 + 1.0 * infiltrate))
    immune_share = np.where(lymphoid, 0.95, np.where(at_vessel, 0.0, immune_share))
    proliferating = chance[1] < 0.9 * _logistic(3.5 * composition.proliferation.at(x, y) - 0.5)
    contracting = chance[1] < _logistic(1.5 * composition.myofibroblast.at(x, y))
    code = np.where(
        in_gland,
        np.where(proliferating, _CODE["proliferating tumour"], _CODE["tumour"]),
        np.where(contracting, _CODE["myofibroblast"], _CODE["fibroblast"]),
    )
    code = np.where(at_vessel, _CODE["endothelium"], code)
    immune = chance[0] < immune_share
    code = np.where(immune, _immune(composition, x, y, chance[2], chance[3]), code)
    return code, _directions(tissue, position, code, rng)


def _immune(composition: Composition, x: Values, y: Values, chance: Values, other: Values) -> Codes:
    kinds = (composition.t_cell, composition.b_cell, composition.macrophage)
    weight = np.exp(2.8 * np.stack([kind.at(x, y) for kind in kinds]).astype(np.float64))
    weight *= np.array([1.25, 0.9, 0.9])[:, None]
    share = np.cumsum(weight / weight.sum(axis=0), axis=0)
    regulatory = other < 0.95 * _logistic(3.5 * composition.regulatory.at(x, y) - 0.3)
    t_cell = np.where(regulatory, _CODE["regulatory T cell"], _CODE["T cell"])
    return np.where(chance < share[0], t_cell, np.where(chance < share[1], _CODE["B cell"], _CODE["macrophage"]))


def _directions(tissue: Architecture, position: Values, code: Codes, rng: np.random.Generator) -> Values:
    """Return angles: stromal cells along the fibres, epithelium across the border of its gland, others at random."""
    step = tissue.frame.spacing_um
    rows = np.rint(position[:, 1] / step).astype(np.intp)
    columns = np.rint(position[:, 0] / step).astype(np.intp)
    dy, dx = np.gradient(tissue.gland.values)
    vy, vx = np.gradient(tissue.vessel.values)
    across = np.arctan2(dy[rows, columns], dx[rows, columns])
    round_vessel = np.arctan2(vx[rows, columns], -vy[rows, columns])
    angle = rng.uniform(0, np.pi, len(code))
    angle = np.where(code <= _CODE["proliferating tumour"], across + rng.normal(0, 0.45, len(code)), angle)
    along = tissue.fibre_rad[rows, columns] + rng.normal(0, 0.2, len(code))
    angle = np.where((code == _CODE["fibroblast"]) | (code == _CODE["myofibroblast"]), along, angle)
    return np.where(code == _CODE["endothelium"], round_vessel, angle)


def _appearances(position: Values, phenotype: Codes, angle: Values, rng: np.random.Generator) -> DrawnCells:
    """Draw every cell's look around the mean of its kind."""
    count = len(phenotype)
    mean = {
        item.name: np.array([getattr(look, item.name) for look in PHENOTYPES.values()])[phenotype]
        for item in fields(Appearance)
    }
    return DrawnCells(
        position_um=position,
        phenotype=phenotype,
        radius_um=mean["radius_um"] * np.clip(np.exp(rng.normal(0, 0.10, count)), 0.75, 1.3),
        axis_ratio=np.maximum(1, mean["axis_ratio"] * np.exp(rng.normal(0, 0.12, count))),
        angle_rad=angle,
        bend=mean["bend"] * rng.choice([-1.0, 1.0], count) + rng.normal(0, 0.06, count),
        lobes=rng.normal(0, 0.035, (count, 2)),
        rim=mean["rim"] + rng.normal(0, 0.18, count),
        spot=np.maximum(0, mean["spot"] + rng.normal(0, 0.15, count)),
        spot_at=rng.normal(0, 0.22, (count, 2)),
        grain=np.maximum(0, mean["grain"] + rng.normal(0, 0.10, count)),
        grain_at=rng.uniform(0, 1000, (count, 2)),
        cytoplasm=np.maximum(0, mean["cytoplasm"] + rng.normal(0, 0.12, count)),
        strength=np.exp(rng.normal(0, 0.16, count)),
    )


def _logistic(values: NDArray[np.floating]) -> Values:
    return np.asarray(1 / (1 + np.exp(-values)), np.float64)
