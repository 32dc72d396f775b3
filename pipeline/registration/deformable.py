"""Refine the affine map to a smooth deformation: shifts of blocks, coarse to fine, fitted by a robust field.

The slide is gone through in windows that are read at the resolution of the step, so memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.displacement import DisplacementGrid, Floats
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.information import match_by_information
from pipeline.registration.matching import Shifts, dense_under, laid_on, match_blocks
from pipeline.registration.smoothing import SplineField, fit_field
from pipeline.registration.transform import GRID_MARGIN_UM, GRID_SPACING_UM, Transform

MIN_CONFIDENCE = 0.3
MIN_BLOCKS = 12
STIFFNESSES = (10.0, 1.0, 0.1, 0.01, 0.001)
_WINDOW_PX = 1536
# Enough for a verdict; a field of a few mm2 has to be asked in smaller blocks to give as many.
_WANTED_BLOCKS = 150


@dataclass(frozen=True)
class Step:
    """How one round of block matching is done.

    Attributes:
        name: as it stands in the quality report.
        mpp: um per pixel of both images.
        block_um: side of a block.
        spacing_um: distance of the block centres.
        reach_um: largest shift looked for.
        coarsen: factor on the scale of the band-pass, 1 for single nuclei.
        knot_um: distance of the knots of the fitted field.
        min_confidence: from which a block is believed.
        score: how a block is compared: by the correlation of nuclei, or by mutual information of any structures.
    """

    name: str
    mpp: float
    block_um: float
    spacing_um: float
    reach_um: float
    coarsen: float
    knot_um: float
    min_confidence: float = MIN_CONFIDENCE
    score: Literal["correlation", "information"] = "correlation"

    @property
    def independent(self) -> float:
        """Share of the blocks that would be left if none overlapped another by more than half."""
        return min(1.0, (2 * self.spacing_um / self.block_um) ** 2)

    @property
    def side_blocks(self) -> int:
        """Blocks along a square of the chequerboard: overlapping ones would tell the held-out half what the fit saw."""
        return int(np.ceil(self.block_um / self.spacing_um / 2))

    def for_area(self, area_um2: float) -> Step:
        """Return the step with blocks down to half as large and as far apart, where there is little to put them on."""
        factor = float(np.clip(np.sqrt(area_um2 / _WANTED_BLOCKS) / self.spacing_um, 0.5, 1.0))
        return replace(self, block_um=self.block_um * factor, spacing_um=self.spacing_um * factor)


# One section: groups of nuclei first, then single ones.
SMOOTH = Step("smooth", 4.0, 384.0, 192.0, 64.0, 3.0, 384.0)
BLOCKS = Step("blocks", 2.0, 192.0, 128.0, 28.0, 1.5, 192.0)
FINE = Step("fine", 1.0, 128.0, 128.0, 12.0, 1.0, 192.0)
# Neighbouring sections share no nuclei. Finer bands, smaller blocks and more steps gained nothing on hand-placed
# landmarks and made drawn neighbours worse: they lock onto chance. A single block says little, so many are averaged.
NEIGHBOURS = Step("smooth", 8.0, 512.0, 128.0, 192.0, 8.0, 1024.0, 0.15)
# A given transform is only looked at: single nuclei, and a reach that shows errors of some cell diameters.
GIVEN = Step("given", 1.0, 160.0, 160.0, 32.0, 1.0, 192.0)
# Where no channel shows nuclei: fibres, vessels, muscle. Blocks of 256 um on real tissue held too little of them.
STRUCTURES = Step("structures", 2.6, 512.0, 512.0, 48.0, 1.0, 384.0, 0.2, score="information")
SAME_SECTION = (SMOOTH, BLOCKS, FINE)
SERIAL = (NEIGHBOURS,)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a step made of its blocks.

    Attributes:
        transform: fitted to all blocks; the one that went in where the step did not help.
        held_out: fitted without the odd half of the blocks.
        accepted: whether the held-out blocks lie closer than before.
    """

    transform: Transform
    held_out: Transform
    accepted: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """The shifts of one step and which of them belong to the held-out half.

    Attributes:
        shifts: of all blocks with tissue.
        odd: (N,) the held-out half of a chequerboard of blocks.
        min_confidence: from which a block is believed.
    """

    shifts: Shifts
    odd: NDArray[np.bool_]
    min_confidence: float = MIN_CONFIDENCE

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """(N,) blocks whose correlation peak stands out."""
        return self.shifts.confidence >= self.min_confidence


def measure(
    sparse: NuclearSource, dense: NuclearSource, transform: Transform, step: Step, tissue: NuclearImage
) -> Measured:
    """Return the shifts that are left under a transform, in all blocks that hold tissue on the sparse side.

    Args:
        sparse: H&E side.
        dense: dense side.
        transform: map so far.
        step: block size, spacing and reach.
        tissue: coarse sparse image whose `inside` marks tissue.
    """
    parts, odds = [], []
    for bounds, centres, odd in _windows(sparse, step, tissue):
        margin = step.block_um / 2 + step.reach_um + 4 * step.mpp
        fixed = sparse.read(step.mpp, np.stack([bounds[0] - margin, bounds[1] + margin]))
        moving = dense_under(dense, transform, fixed, step.mpp)
        if moving is None:
            continue
        pixels = np.rint(fixed.to_px(centres)).astype(np.int64)
        laid = laid_on(moving, transform, fixed)
        if step.score == "information":
            shifts, rows = match_by_information(fixed, laid, pixels, step.block_um, step.reach_um)
        else:
            shifts, rows = match_blocks(fixed, laid, pixels, step.block_um, step.reach_um, step.coarsen)
        parts.append(shifts)
        odds.append(odd[rows])
    return Measured(Shifts.joined(parts), np.concatenate(odds) if odds else np.zeros(0, np.bool_), step.min_confidence)


def extended(transform: Transform, measured: Measured, step: Step, domain_um: Floats) -> Fitted:
    """Return the transform after fitting the measured shifts, once with all blocks and once without the held-out half.

    Of several stiffnesses the one is taken whose fit to the even blocks foretells the odd ones best.
    """
    shifts, trusted = measured.shifts, measured.trusted
    if np.count_nonzero(trusted) < MIN_BLOCKS or np.count_nonzero(trusted & measured.odd) < MIN_BLOCKS // 2:
        return Fitted(transform, transform, False)
    even, odd = shifts.chosen(trusted & ~measured.odd), shifts.chosen(trusted & measured.odd)
    trials = []
    for stiffness in STIFFNESSES:
        field = _fit(even, step, domain_um, stiffness)
        left = np.linalg.norm(field.at(odd.centre_um) - odd.shift_um, axis=1)
        trials.append((float(np.minimum(left, np.percentile(left, 90)).mean()), stiffness, field))
    score, stiffness, half = min(trials, key=lambda trial: trial[0])
    before = np.linalg.norm(odd.shift_um, axis=1)
    if score >= float(np.minimum(before, np.percentile(before, 90)).mean()):
        return Fitted(transform, transform, False)
    whole = _fit(shifts.chosen(trusted), step, domain_um, stiffness)
    return Fitted(_moved(transform, whole, domain_um), _moved(transform, half, domain_um), True)


def _fit(shifts: Shifts, step: Step, domain_um: Floats, stiffness: float) -> SplineField:
    return fit_field(
        shifts.centre_um, shifts.shift_um, shifts.confidence, domain_um, knot_um=step.knot_um, stiffness=stiffness
    )


def _moved(transform: Transform, field: SplineField, domain_um: Floats) -> Transform:
    """Return the transform after a field of shifts; the inverse is not solved.

    The shift s at p says that p matches the dense point T(p + s), so the new displacement at p is
    T(p + f(p)) - A p - b, where f is the smooth field through the shifts.
    """
    grid = transform.forward or DisplacementGrid.covering(
        (float(domain_um[0, 0]) - GRID_MARGIN_UM, float(domain_um[0, 1]) - GRID_MARGIN_UM),
        (float(domain_um[1, 0]) + GRID_MARGIN_UM, float(domain_um[1, 1]) + GRID_MARGIN_UM),
        GRID_SPACING_UM,
    )
    nodes = grid.nodes_um()
    moved = transform.to_dense(nodes + field.on_lattice(*grid.axes_um()))
    without = nodes @ transform.affine[:, :2].T + transform.affine[:, 2]
    return Transform(transform.affine, grid.with_values(moved - without))


def block_lattice(sparse: NuclearSource, step: Step) -> tuple[Floats, int, int]:
    """Return the centre of the first block of a step, and how many columns and rows of blocks the slide has."""
    low, high = sparse.extent_um
    columns, rows = (np.floor((high - low - step.block_um) / step.spacing_um).astype(int) + 1).tolist()
    first = (high - low - (np.array([columns, rows]) - 1) * step.spacing_um) / 2 + low
    return first, max(columns, 0), max(rows, 0)


def _windows(
    sparse: NuclearSource, step: Step, tissue: NuclearImage
) -> Iterator[tuple[Floats, Floats, NDArray[np.bool_]]]:
    """Yield windows of the sparse slide.

    Bounds, centres of the blocks with tissue in them, and their chequerboard colour.
    """
    first, columns, rows = block_lattice(sparse, step)
    per_side = max(1, int(_WINDOW_PX * step.mpp / step.spacing_um))
    for top in range(0, rows, per_side):
        for left in range(0, columns, per_side):
            y, x = np.mgrid[top : min(top + per_side, rows), left : min(left + per_side, columns)]
            index = np.stack([x.ravel(), y.ravel()], axis=1)
            centres = first + index * step.spacing_um
            held = _has_tissue(tissue, centres)
            if held.any():
                kept = centres[held]
                odd = (index[held] // step.side_blocks).sum(1) % 2
                yield np.stack([kept.min(0), kept.max(0)]), kept, odd.astype(np.bool_)


def _has_tissue(tissue: NuclearImage, centres_um: Floats) -> NDArray[np.bool_]:
    height, width = tissue.inside.shape
    pixel = np.rint(tissue.to_px(centres_um)).astype(int)
    x, y = np.clip(pixel[:, 0], 0, width - 1), np.clip(pixel[:, 1], 0, height - 1)
    held: NDArray[np.bool_] = tissue.inside[y, x]
    return held
