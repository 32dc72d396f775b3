"""Find the parts of the tissue between which a joined map jumps, and how each has moved.

A part may follow several maps: that of the rest, fitted across a fold, can hold far from it on both sides, and then
each side is one part together with the piece beside the fold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.registration.areas import TissueBlocks
from pipeline.registration.displacement import Floats
from pipeline.registration.piecewise import LabelGrid, Labels, filled
from pipeline.registration.quality import PieceQuality
from pipeline.registration.sampled import affine_through
from pipeline.registration.transform import Transform

# Smaller parts are specks.
MIN_PIECE_UM2 = 60_000.0
# Fewest agreeing blocks that show how a part is turned.
_MIN_PLACES = 6
# Neighbouring blocks of one part keep their distance, and lie where either one's map puts them.
_MAX_STRAIN = 0.15
_SAME_PLACE_UM = 16.0
# Parts that moved and turned by less are in place: what lies between them moved.
_MOVED_UM, _TURNED_DEGREES = 8.0, 1.0
# A field put down wrong by more than this is found by no stitching; it is not turned, and its edge is some blocks long.
_STITCHED_UM, _STITCHED_DEGREES = 150.0, 0.3
_MIN_BORDER, _MOST_ASTRAY = 8, 0.2


def described(maps: Sequence[Transform], nodes: LabelGrid, blocks: TissueBlocks) -> list[PieceQuality]:
    """Return how much tissue each part that moved is, where it lies, and how it has moved against the largest one.

    Args:
        maps: of the rest and of the pieces.
        nodes: which of them each node of a grid follows.
        blocks: what the tissue shows under the joined map.
    """
    rows, columns = blocks.compared.shape
    y, x = np.mgrid[0:rows, 0:columns]
    centres = blocks.first_um + np.stack([x.ravel(), y.ravel()], axis=1) * blocks.spacing_um
    owner = nodes.nearest(centres)
    there = np.empty_like(centres)
    for number, transform in enumerate(maps):
        there[owner == number] = transform.to_dense(centres[owner == number])
    agreeing = blocks.agrees & blocks.compared
    groups = _without_jumps(centres, there, owner, agreeing, maps)
    parts = [(groups == number) & blocks.compared for number in np.unique(groups)]
    largest = int(np.argmax([part.sum() for part in parts]))
    # Beyond its own tissue a map bends at will, so the largest part is continued by its affine part.
    usual = _affine(centres, there, parts[largest] & agreeing)
    found = []
    for number, part in enumerate(parts):
        chosen = part & agreeing
        if number == largest or part.sum() * blocks.spacing_um**2 < MIN_PIECE_UM2 or chosen.sum() < _MIN_PLACES:
            continue
        own, middle = _affine(centres, there, chosen), np.append(centres[chosen.ravel()].mean(0), 1)
        linear = own[:, :2] @ np.linalg.inv(usual[:, :2])
        degrees = float(np.rad2deg(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))
        shift_um = float(np.linalg.norm((own - usual) @ middle))
        if shift_um > _MOVED_UM or abs(degrees) > _TURNED_DEGREES:
            edge = ""
            if shift_um <= _STITCHED_UM and abs(degrees) <= _STITCHED_DEGREES:
                edge = _straight_edge(blocks, part, groups, usual)
            found.append(PieceQuality(blocks.area(part), shift_um, degrees, edge))
    return found


def _straight_edge(blocks: TissueBlocks, part: NDArray[np.bool_], groups: Labels, affine: Floats) -> str:
    """Return the lines of the dense slide along which a part ends, in words; empty where one or two do not do.

    A mosaic is laid along the axes of its own slide, so a misplaced field ends along these.

    Args:
        blocks: what the tissue shows.
        part: (rows, columns) of them.
        groups: (rows, columns) the part of each block.
        affine: (2, 3) of the largest part.
    """
    border = []
    for axis in (0, 1):
        one, other = np.s_[:-1], np.s_[1:]
        first, second = ((one, np.s_[:]), (other, np.s_[:])) if axis == 0 else ((np.s_[:], one), (np.s_[:], other))
        both = blocks.compared[first] & blocks.compared[second] & (groups[first] != groups[second])
        row, column = np.nonzero(both & (part[first] | part[second]))
        border.append(np.stack([column + 0.5 * (axis == 1), row + 0.5 * (axis == 0)], axis=1))
    points = blocks.first_um + np.concatenate(border) * blocks.spacing_um
    if len(points) < _MIN_BORDER:
        return ""
    there = points @ affine[:, :2].T + affine[:, 2]
    for name, along in zip("xy", there.T, strict=True):
        left, lines = along, []
        for _ in range(2):
            near = np.abs(left[:, None] - left) <= blocks.spacing_um
            line = near[int(near.sum(axis=1).argmax())]
            if np.count_nonzero(line) >= _MIN_BORDER // 2:
                lines.append(float(np.median(left[line])))
            left = left[~line]
            if not len(left):
                break
        if lines and len(left) <= _MOST_ASTRAY * len(along):
            return " and ".join(f"{name} = {line:.0f} um" for line in sorted(lines))
    return ""


def _without_jumps(
    centres_um: Floats, there_um: Floats, owner: Labels, agreeing: NDArray[np.bool_], maps: Sequence[Transform]
) -> Labels:
    """Return the part (rows, columns) of each block; those that do not agree follow the nearest one that does.

    Args:
        centres_um: (N, 2) of all blocks, row by row.
        there_um: (N, 2) where the joined map puts them.
        owner: (N,) the map that each follows.
        agreeing: (rows, columns) which agree with it.
        maps: all of them.
    """
    index = np.arange(agreeing.size).reshape(agreeing.shape)
    pairs = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    first, second = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    both = agreeing.ravel()[first] & agreeing.ravel()[second]
    first, second = first[both], second[both]
    apart, there = (np.linalg.norm(points[second] - points[first], axis=1) for points in (centres_um, there_um))
    smooth = (owner[first] == owner[second]) & (np.abs(there / apart - 1) <= _MAX_STRAIN)
    middle = (centres_um[first] + centres_um[second]) / 2
    for row in np.flatnonzero(owner[first] != owner[second]):
        one, other = (maps[owner[end[row]]].to_dense(middle[row : row + 1]) for end in (first, second))
        smooth[row] = np.linalg.norm(one - other) <= _SAME_PLACE_UM
    links = coo_array((np.ones(smooth.sum()), (first[smooth], second[smooth])), shape=(index.size, index.size))
    _, group = connected_components(links, directed=False)
    _, group = np.unique(np.where(agreeing.ravel(), group, -1), return_inverse=True)
    large = np.bincount(group) >= _MIN_PLACES
    known = agreeing & large[group].reshape(agreeing.shape)
    return filled(group.reshape(agreeing.shape), known)


def _affine(centres_um: Floats, there_um: Floats, part: NDArray[np.bool_]) -> Floats:
    return affine_through(centres_um[part.ravel()], there_um[part.ravel()])
