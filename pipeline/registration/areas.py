"""Find where on the slide a map fails: connected areas of tissue with many nuclei and no agreement.

The median over a slide hides a third that was torn away or lost. Blocks are therefore read together with their
neighbours, on the lattice on which they were measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.deformable import Step, block_lattice
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.matching import nuclear_detail
from pipeline.registration.pair import Pair
from pipeline.registration.transform import Transform

# Blocks within two spacings of one vote on it, and it takes some of them.
_REACH_BLOCKS = 2
_MIN_VOTES = 3
# An area is unexplained where less than half as many blocks agree as do around a typical agreeing block.
_UNEXPLAINED = 0.5
# Blocks with fewer nuclei than nearly all that agree do not vote: they show too little.
_POOR_QUANTILE = 0.02
# Scale of groups of nuclei, which an overview resolves.
_CONTRAST_COARSEN = 3.0
# Smaller areas are a vessel or a speck of dust.
MIN_AREA_UM2 = 150_000.0


@dataclass(frozen=True)
class Area:
    """A connected part of the tissue.

    Attributes:
        share: of the tissue that can be compared.
        box_um: left, top, right, bottom, sparse frame.
        centre_um: x and y of its middle.
        area_um2: its size.
        place: where it lies, in words such as `right third`.
    """

    share: float
    box_um: tuple[float, float, float, float]
    centre_um: tuple[float, float]
    area_um2: float
    place: str


@dataclass(frozen=True, eq=False)
class TissueBlocks:
    """The tissue as the lattice of one step, and what its blocks show under a map.

    Attributes:
        first_um: x and y of block (0, 0).
        spacing_um: distance of the blocks.
        compared: (rows, columns) whether a block holds tissue and lies on the dense slide.
        agrees: (rows, columns) whether it shows a clear peak in agreement with the map.
        contrast: (rows, columns) float32, how strongly its nuclei stand out.
    """

    first_um: Floats
    spacing_um: float
    compared: NDArray[np.bool_]
    agrees: NDArray[np.bool_]
    contrast: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        pair: Pair,
        step: Step,
        tissue: NuclearImage,
        transform: Transform,
        centres_um: Floats,
        agrees: NDArray[np.bool_],
    ) -> TissueBlocks:
        """Return the lattice of a step with what its measured blocks show.

        Blocks that the matching left out because one side shows nothing are there, and agree with nothing.

        Args:
            pair: the open pair.
            step: how the blocks were matched.
            tissue: coarse sparse image whose `inside` marks tissue.
            transform: the map.
            centres_um: (N, 2) of the measured blocks.
            agrees: (N,) whether each agrees with the map.
        """
        first, columns, rows = block_lattice(pair.sparse, step)
        y, x = np.mgrid[0:rows, 0:columns]
        centres = first + np.stack([x.ravel(), y.ravel()], axis=1) * step.spacing_um
        margin = step.block_um / 2 + step.reach_um
        there, (low, high) = transform.to_dense(centres), pair.dense.extent_um
        on_dense = ((there >= low + margin) & (there <= high - margin)).all(1)
        if pair.dense.imaged is not None:
            on_dense &= _whole_imaged(pair.dense, transform, centres, step.block_um / 2)
        here, (first_um, last_um) = centres, pair.sparse.extent_um
        on_sparse = ((here >= first_um + margin) & (here <= last_um - margin)).all(1)
        held = _sampled(tissue.inside, tissue, centres)
        detail = nuclear_detail(tissue.values, tissue.mpp, _CONTRAST_COARSEN)
        power: Any = cv2.GaussianBlur(detail * detail, (0, 0), step.block_um / 3 / tissue.mpp)
        agreeing = np.zeros((rows, columns), np.bool_)
        column, row = np.rint((centres_um - first) / step.spacing_um).astype(int).T
        agreeing[row, column] = agrees
        return cls(
            first,
            step.spacing_um,
            (held & on_dense & on_sparse).reshape(rows, columns) | agreeing,
            agreeing,
            np.sqrt(_sampled(power, tissue, centres)).reshape(rows, columns).astype(np.float32),
        )

    def centres_um(self, mask: NDArray[np.bool_]) -> Floats:
        """Return the centres (N, 2) of the blocks that a mask (rows, columns) picks, sparse frame."""
        centres: Floats = self.first_um + np.argwhere(mask)[:, ::-1] * self.spacing_um
        return centres

    def with_agreeing(self, centres_um: Floats) -> TissueBlocks:
        """Return the same blocks of which those at some centres (N, 2) agree as well."""
        agreeing = self.agrees.copy()
        column, row = np.rint((centres_um - self.first_um) / self.spacing_um).astype(int).T
        agreeing[row, column] = True
        return replace(self, agrees=agreeing, compared=self.compared | agreeing)

    def unexplained(self) -> NDArray[np.bool_]:
        """Return which blocks (rows, columns) lie where nuclei abound and nothing agrees."""
        if not self.agrees.any():
            return self.compared.copy()
        rich = self.contrast >= np.quantile(self.contrast[self.agrees], _POOR_QUANTILE)
        votes, agreeing = _around(self.compared & (self.agrees | rich)), _around(self.agrees)
        share = agreeing / np.maximum(votes, 1)
        found: NDArray[np.bool_] = (
            self.compared & (votes >= _MIN_VOTES) & (share < _UNEXPLAINED * np.median(share[self.agrees]))
        )
        return found

    def parts(self, mask: NDArray[np.bool_]) -> list[tuple[Area, NDArray[np.bool_]]]:
        """Return the connected parts of a mask (rows, columns) that are not specks, largest first, with their masks."""
        count, number = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        parts = [number == index for index in range(1, count)]
        least = max(2.0, MIN_AREA_UM2 / self.spacing_um**2)
        large = sorted((part for part in parts if part.sum() >= least), key=lambda part: -int(part.sum()))
        return [(self.area(part), part) for part in large]

    def area(self, part: NDArray[np.bool_]) -> Area:
        """Return the size and place of some blocks (rows, columns)."""
        box, whole = self._box(part), self._box(self.compared)
        centre = self.first_um + np.argwhere(part).mean(0)[::-1] * self.spacing_um
        return Area(
            share=float(part.sum() / max(self.compared.sum(), 1)),
            box_um=(float(box[0, 0]), float(box[0, 1]), float(box[1, 0]), float(box[1, 1])),
            centre_um=(float(centre[0]), float(centre[1])),
            area_um2=float(part.sum()) * self.spacing_um**2,
            place=place_words(box, centre, float(part.sum() / max(self.compared.sum(), 1)), whole),
        )

    def covers(self, part: NDArray[np.bool_], image: NuclearImage) -> NDArray[np.bool_]:
        """Return which pixels of an image lie on the blocks of a part."""
        height, width = image.inside.shape
        column = np.rint((np.arange(width) * image.mpp + image.origin_um[0] - self.first_um[0]) / self.spacing_um)
        row = np.rint((np.arange(height) * image.mpp + image.origin_um[1] - self.first_um[1]) / self.spacing_um)
        rows, columns = part.shape
        padded = np.zeros((rows + 2, columns + 2), np.bool_)
        padded[1:-1, 1:-1] = part
        covered: NDArray[np.bool_] = padded[
            np.clip(row.astype(int) + 1, 0, rows + 1)[:, None], np.clip(column.astype(int) + 1, 0, columns + 1)[None]
        ]
        return covered

    def _box(self, part: NDArray[np.bool_]) -> Floats:
        rows, columns = np.nonzero(part)
        ends = np.array([[columns.min() - 0.5, rows.min() - 0.5], [columns.max() + 0.5, rows.max() + 0.5]])
        box: Floats = self.first_um + ends * self.spacing_um
        return box


def _whole_imaged(dense: NuclearSource, transform: Transform, centres_um: Floats, half_um: float) -> NDArray[np.bool_]:
    """Return which blocks (N,) the dense slide shows whole: at their middle, edges and corners."""
    y, x = np.mgrid[-1:2, -1:2] * half_um
    around = np.stack([x.ravel(), y.ravel()], axis=1)
    there = transform.to_dense((centres_um[:, None] + around).reshape(-1, 2))
    return np.asarray(dense.imaged_at(there).reshape(-1, len(around)).all(axis=1))


def place_words(box_um: Floats, centre_um: Floats, share: float, tissue_um: Floats) -> str:
    """Return where a part lies within the tissue: `right third`, `lower left`, `middle`.

    Args:
        box_um: (2, 2) corners of the part.
        centre_um: x and y of its middle.
        share: of the tissue.
        tissue_um: (2, 2) corners of the tissue.
    """
    size = np.maximum(tissue_um[1] - tissue_um[0], 1e-9)
    across, down = (box_um[1] - box_um[0]) / size
    x, y = (centre_um - tissue_um[0]) / size
    if share > 0.75:
        return "nearly everywhere"
    if down > 0.75 and down >= across:
        return f"{_side(x, 'left', 'right')} {_part(share)}"
    if across > 0.75:
        return f"{_side(y, 'upper', 'lower')} {_part(share)}"
    sides = [_side(y, "upper", "lower"), _side(x, "left", "right")]
    return " ".join(side for side in sides if side != "middle") or "middle"


def _side(along: float, low: str, high: str) -> str:
    return low if along < 0.4 else high if along > 0.6 else "middle"


def _part(fraction: float) -> str:
    names = {0.25: "quarter", 1 / 3: "third", 0.5: "half", 2 / 3: "two thirds"}
    return "edge" if fraction < 0.15 else names[min(names, key=lambda size: abs(size - fraction))]


def _sampled(values: NDArray[Any], image: NuclearImage, points_um: Floats) -> NDArray[Any]:
    height, width = values.shape
    x, y = np.rint(image.to_px(points_um)).astype(int).T
    sampled: NDArray[Any] = values[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return sampled


def _around(mask: NDArray[np.bool_]) -> Floats:
    """Return how many blocks of a mask lie within reach of each block, itself included."""
    y, x = np.mgrid[-_REACH_BLOCKS : _REACH_BLOCKS + 1, -_REACH_BLOCKS : _REACH_BLOCKS + 1]
    disc = (x**2 + y**2 <= _REACH_BLOCKS**2).astype(np.float64)
    counts: Any = cv2.filter2D(mask.astype(np.float64), -1, disc, borderType=cv2.BORDER_CONSTANT)
    whole: Floats = np.rint(counts)
    return whole
