"""Search separately for parts of the tissue that the map of the rest does not explain.

A section tears, folds or falls apart between two stains; then no smooth map holds everywhere. Each connected area where
nuclei abound and nothing agrees is searched nearby, then in all that is left of the dense slide, fitted like a separate
slide, and kept if blocks that had no part in its fit agree beyond chance. What no search explains has no partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration import far_search, local_search
from pipeline.registration.areas import Area, TissueBlocks
from pipeline.registration.assessment import SUPPORT_FRACTION, agrees
from pipeline.registration.deformable import BLOCKS, SMOOTH, Fitted, Measured, Step, extended, measure
from pipeline.registration.displacement import DisplacementGrid, Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import dense_under, laid_on, nuclear_band
from pipeline.registration.pair import Pair, overview
from pipeline.registration.parts import MIN_PIECE_UM2
from pipeline.registration.piecewise import LabelGrid, filled
from pipeline.registration.quality import MAX_CHANCE, MIN_SUPPORT, Correspondences
from pipeline.registration.transform import GRID_MARGIN_UM, GRID_SPACING_UM, Transform

# A section in more pieces than this is shredded; the search for each costs about a second.
_MAX_SEARCHES, _MAX_FAR_SEARCHES = 12, 4
# After the first step a candidate that is right agrees far better than this; the last step decides.
_HOPEFUL_CHANCE = 0.01
_DOMAIN_MARGIN_UM = 300.0
# Which piece a place belongs to is read from the local correlation of nuclei: over some dozens of them.
_SCORE_MPP, _SCORE_COARSEN, _SCORE_SIGMA_UM = 3.0, 1.5, 40.0
_SCORE_WINDOW_UM = 3000.0
_SCORE_REACH_UM = 400.0
_MIN_SCORE = 0.2


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the tissue with a separate map.

    Attributes:
        transform: its map, forward only.
        held_out: the same without the odd half of the blocks.
        measured: its blocks of the last step.
        before: the map under which they were measured.
        part: (rows, columns) of the lattice of blocks where it was looked for.
    """

    transform: Transform
    held_out: Transform
    measured: Measured
    before: Transform
    part: NDArray[np.bool_]

    def blocks(self, *, held_out: bool = False) -> Correspondences:
        """Return its blocks, all of them or the held-out half."""
        rows = self.measured.odd if held_out else np.ones(len(self.measured.odd), np.bool_)
        return Correspondences.of(self.measured, self.before, rows)


def find_pieces(
    pair: Pair, rest: Transform, step: Step, blocks: TissueBlocks, tissue: NuclearImage
) -> tuple[list[Piece], TissueBlocks]:
    """Return the pieces that were found, and the blocks as the pieces and the rest explain them together.

    Args:
        pair: the open pair.
        rest: the map of the rest.
        step: of the last round of block matching.
        blocks: what they show under the map of the rest.
        tissue: coarse sparse image whose `inside` marks tissue.
    """
    dense: NuclearImage | None = None
    pieces: list[Piece] = []
    claimed_um = [rest.to_dense(blocks.centres_um(blocks.agrees))]
    for anywhere, searches in ((False, _MAX_SEARCHES), (True, _MAX_FAR_SEARCHES)):
        given_up = np.zeros_like(blocks.compared)
        for _ in range(searches):
            parts = blocks.parts(blocks.unexplained() & ~given_up)
            if not parts:
                break
            dense = dense or overview(pair.dense)
            area, part = parts[0]
            held = replace(tissue, inside=tissue.inside & blocks.covers(part, tissue))
            if anywhere:
                left = far_search.unclaimed(dense, np.concatenate(claimed_um), blocks.spacing_um)
                piece = _searched(pair, step, area, part, held, far_search.candidates(held, left, rest))
            else:
                piece = _searched(pair, step, area, part, held, local_search.candidates(held, dense, rest))
            if piece is None:
                given_up |= part
                continue
            pieces.append(piece)
            found = piece.blocks()
            agreeing = agrees(found, piece.transform, step)
            blocks = blocks.with_agreeing(found.sparse_um[agreeing])
            claimed_um.append(found.dense_um[agreeing])
            # What its neighbourhood leaves unexplained is searched again, but not in vain for ever.
            given_up |= part & _eroded(blocks.agrees)
    return pieces, blocks


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    eroded: NDArray[np.bool_] = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return eroded


def _searched(
    pair: Pair,
    step: Step,
    area: Area,
    part: NDArray[np.bool_],
    held: NuclearImage,
    candidates: Iterable[Floats],
) -> Piece | None:
    """Return the piece that a part of the tissue is; None where it matches at none of the candidates."""
    low, high = np.array(area.box_um).reshape(2, 2)
    domain = np.stack([low - _DOMAIN_MARGIN_UM, high + _DOMAIN_MARGIN_UM])
    for affine in candidates:
        piece = _fitted(pair, Transform(affine), step, held, domain, part)
        if piece is not None:
            return piece
    return None


def _fitted(
    pair: Pair, start: Transform, step: Step, held: NuclearImage, domain_um: Floats, part: NDArray[np.bool_]
) -> Piece | None:
    """Return the piece after all steps from a candidate; None where held-out blocks do not agree."""
    area_um2 = float(np.count_nonzero(held.inside)) * held.mpp**2
    transform = start
    for current in (SMOOTH.for_area(area_um2), BLOCKS.for_area(area_um2)):
        tried = _tried(pair, transform, current, held, domain_um)
        if tried is None or tried.chance > _HOPEFUL_CHANCE:
            return None
        transform = tried.fitted.transform
        # A part that moved without bending lies right after the first step.
        if tried.left_um <= step.reach_um * SUPPORT_FRACTION:
            break
    tried = _tried(pair, transform, step, held, domain_um)
    if tried is None or tried.chance > MAX_CHANCE or tried.support < MIN_SUPPORT:
        return None
    return Piece(tried.fitted.transform, tried.fitted.held_out, tried.measured, transform, part)


@dataclass(frozen=True, eq=False)
class _Tried:
    """One step of fitting a part, and what the held-out half of its blocks says of it.

    Attributes:
        measured: its blocks.
        fitted: the maps through them.
        chance: that they agree as well as they do by chance.
        support: share of them that agree.
        left_um: 90th percentile of their distances from the map; nan where too few show a clear peak.
    """

    measured: Measured
    fitted: Fitted
    chance: float
    support: float
    left_um: float


def _tried(pair: Pair, transform: Transform, step: Step, held: NuclearImage, domain_um: Floats) -> _Tried | None:
    """Return what a step makes of a part; None where no block of it can be held out."""
    measured = measure(pair.sparse, pair.dense, transform, step, held)
    if not measured.odd.any():
        return None
    fitted = extended(transform, measured, step, domain_um)
    found, within_um = Correspondences.of(measured, transform, measured.odd), step.reach_um * SUPPORT_FRACTION
    chance = found.chance(fitted.held_out, within_um, step.independent)
    support, left = found.support(fitted.held_out, within_um), found.residual(fitted.held_out)
    return _Tried(measured, fitted, chance, support, left.p90_um)


def labelled(pair: Pair, rest: Transform, pieces: Sequence[Piece], blocks: TissueBlocks) -> LabelGrid:
    """Return which map each node of the 16-um grid follows: 0 is the rest, i + 1 is piece i.

    Near the pieces it is the one under which nuclei correlate best; nodes without nuclei follow their neighbours.
    """
    grid = _nodes(pair, rest)
    _, height, width = grid.values_um.shape
    origin = np.asarray(grid.origin_um)
    labels, known = np.zeros((height, width), np.int64), np.ones((height, width), np.bool_)
    for low, high in _regions(blocks, pieces):
        first = np.clip(np.floor((low - origin) / GRID_SPACING_UM), 0, [width - 1, height - 1]).astype(int)
        last = np.clip(np.ceil((high - origin) / GRID_SPACING_UM), 1, [width, height]).astype(int)
        window = np.s_[first[1] : last[1], first[0] : last[0]]
        scores = _scores(pair, [rest, *(piece.transform for piece in pieces)], grid, first, last)
        labels[window] = scores.argmax(axis=0)
        known[window] = scores.max(axis=0) >= _MIN_SCORE
    least = MIN_PIECE_UM2 / GRID_SPACING_UM**2
    for number in range(len(pieces) + 1):
        count, part, stats, _ = cv2.connectedComponentsWithStats(((labels == number) & known).astype(np.uint8))
        specks = [index for index in range(1, count) if stats[index, cv2.CC_STAT_AREA] < least]
        known &= ~np.isin(part, specks)
    return LabelGrid(grid.origin_um, grid.spacing_um, filled(labels, known))


def own_blocks(rest: Correspondences, of_pieces: Sequence[Correspondences], nodes: LabelGrid) -> Correspondences:
    """Return each block as the map that its place follows measured it; as that of the rest where its own did not."""
    parts, kept = [], np.ones(len(rest.sparse_um), np.bool_)
    for number, blocks in enumerate(of_pieces, start=1):
        owned = blocks.chosen(nodes.nearest(blocks.sparse_um) == number)
        parts.append(owned)
        kept &= ~_same_places(rest.sparse_um, owned.sparse_um)
    return Correspondences.joined([rest.chosen(kept), *parts])


def _same_places(points_um: Floats, others_um: Floats) -> NDArray[np.bool_]:
    """Return which points (N, 2) of one lattice are among others of it."""
    known = {(round(x), round(y)) for x, y in others_um.tolist()}
    return np.array([(round(x), round(y)) in known for x, y in points_um.tolist()], np.bool_)


def _nodes(pair: Pair, transform: Transform) -> DisplacementGrid:
    low, high = pair.sparse.extent_um
    return transform.forward or DisplacementGrid.covering(
        (float(low[0]) - GRID_MARGIN_UM, float(low[1]) - GRID_MARGIN_UM),
        (float(high[0]) + GRID_MARGIN_UM, float(high[1]) + GRID_MARGIN_UM),
        GRID_SPACING_UM,
    )


def _regions(blocks: TissueBlocks, pieces: Sequence[Piece]) -> list[tuple[Floats, Floats]]:
    """Return windows of some mm, lower and upper corner in um, that hold the pieces and their surroundings."""
    held = np.any([piece.part for piece in pieces], axis=0)
    reach = int(np.ceil(_SCORE_REACH_UM / blocks.spacing_um))
    near = cv2.dilate(held.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    side = max(1, int(_SCORE_WINDOW_UM / blocks.spacing_um))
    windows = []
    for top in range(0, near.shape[0], side):
        for left in range(0, near.shape[1], side):
            rows, columns = np.nonzero(near[top : top + side, left : left + side])
            if len(rows):
                low = np.array([left + columns.min() - 0.5, top + rows.min() - 0.5])
                high = np.array([left + columns.max() + 0.5, top + rows.max() + 0.5])
                windows.append((blocks.first_um + low * blocks.spacing_um, blocks.first_um + high * blocks.spacing_um))
    return windows


def _scores(
    pair: Pair, maps: Sequence[Transform], grid: DisplacementGrid, first: NDArray[np.int_], last: NDArray[np.int_]
) -> Floats:
    """Return the local correlation of nuclei (maps, rows, columns) at nodes of a grid; -1 without both sides."""
    low = np.asarray(grid.origin_um) + first * grid.spacing_um
    high = np.asarray(grid.origin_um) + (last - 1) * grid.spacing_um
    margin = 3 * _SCORE_SIGMA_UM
    fixed = pair.sparse.read(_SCORE_MPP, np.stack([low - margin, high + margin]))
    x, y = np.arange(first[0], last[0]), np.arange(first[1], last[1])
    columns = np.rint((x * grid.spacing_um + grid.origin_um[0] - fixed.origin_um[0]) / fixed.mpp).astype(int)
    rows = np.rint((y * grid.spacing_um + grid.origin_um[1] - fixed.origin_um[1]) / fixed.mpp).astype(int)
    at = np.ix_(np.clip(rows, 0, fixed.inside.shape[0] - 1), np.clip(columns, 0, fixed.inside.shape[1] - 1))
    band = nuclear_band(fixed.values, fixed.mpp, _SCORE_COARSEN) * fixed.inside
    scores = np.full((len(maps), len(y), len(x)), -1.0)
    for number, transform in enumerate(maps):
        moving = dense_under(pair.dense, transform, fixed, _SCORE_MPP)
        if moving is None:
            continue
        laid = laid_on(moving, transform, fixed)
        other = nuclear_band(laid.values, fixed.mpp, _SCORE_COARSEN) * laid.inside
        power = _blurred(band * band, fixed.mpp)[at] * _blurred(other * other, fixed.mpp)[at]
        score = _blurred(band * other, fixed.mpp)[at] / np.sqrt(np.maximum(power, 1e-9))
        scores[number] = np.where(laid.inside[at] & (power > 1e-6), score, -1.0)
    return scores


def _blurred(values: NDArray[np.float32], mpp: float) -> Floats:
    # The blur is wide, so it is taken on every fourth pixel.
    small = cv2.resize(values, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), _SCORE_SIGMA_UM / mpp / 4)
    blurred: Floats = cv2.resize(smooth, values.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float64)
    return blurred
