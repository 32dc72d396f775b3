"""Engine `blocks`: search, affine, smooth field, blocks; each step is kept if held-out blocks come closer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse, second_search
from pipeline.registration.assessment import (
    SUPPORT_FRACTION,
    held_out,
    placed,
    quality_of,
    supported,
    tissue_blocks,
)
from pipeline.registration.deformable import SAME_SECTION, SERIAL, Fitted, Step, extended, measure
from pipeline.registration.images import NuclearImage
from pipeline.registration.outside import shared_area_um2, with_outside
from pipeline.registration.pair import (
    Pair,
    centred,
    domain_of_map,
    overview,
    sparse_overview,
    tissue_of,
    within_glass,
    without_glass,
)
from pipeline.registration.parts import described
from pipeline.registration.pieces import Piece, find_pieces, labelled, own_blocks
from pipeline.registration.piecewise import LabelGrid, joined, with_inverse
from pipeline.registration.quality import MAX_CHANCE, MIN_MARGIN, MIN_NCC, Correspondences, Quality
from pipeline.registration.scale import other_scales
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """Return the transform of an open pair, and how good it is."""
    pair = pair.shown_for(settings.mode)
    whole = sparse_overview(pair.sparse)
    tissue = tissue_of(whole)
    sparse, dense = without_glass(whole, tissue), without_glass(overview(pair.dense))
    poses = coarse.search(sparse, dense)
    refined = affine_step.refined(poses, sparse, dense)
    tissue = within_glass(tissue)
    start = Transform(poses[0].affine) if poses else centred(pair)
    first = refined[0] if refined else None
    margin = coarse.margin(refined) if refined else None
    if first is None or margin is None:
        return _deformed(pair, settings, tissue, start, first, margin)
    found = None
    if first.ncc >= MIN_NCC and margin >= MIN_MARGIN:
        found = _deformed(pair, settings, tissue, start, first, margin)
        if found[1].supported:
            return found
    for pose, other_margin in _second(pair, settings, sparse, dense, tissue):
        again = _deformed(pair, settings, tissue, Transform(pose.affine), pose, other_margin)
        if again[1].supported:
            return again
    if found is None:
        found = _deformed(pair, settings, tissue, start, first, margin)
    if found[1].supported:
        return found
    for candidate in other_scales(sparse, dense):
        other = Transform(candidate.pose.affine)
        if candidate.margin >= MIN_MARGIN and _agrees(pair, settings, other, tissue):
            rescaled = _deformed(pair, settings, tissue, other, candidate.pose, candidate.margin)
            if rescaled[1].supported:
                return rescaled
    return found


def _deformed(
    pair: Pair,
    settings: RegisterSettings,
    tissue: NuclearImage,
    start: Transform,
    pose: coarse.Pose | None,
    margin: float | None,
) -> tuple[Transform, Quality]:
    """Return the transform after the smooth and local steps that follow a pose, and how good it is."""
    affine = start if pose is None else Transform(pose.affine)
    maps = [("initial", centred(pair), True), ("coarse", start, pose is not None)]
    maps.append(("affine", affine, pose is not None))
    # Same-section work goes on to single nuclei; neighbouring sections share none, so it would lock onto wrong ones.
    if settings.mode == "serial":
        steps: tuple[Step, ...] = SERIAL
    else:
        area_um2 = shared_area_um2(pair, affine, tissue)
        steps = tuple(step.for_area(area_um2) for step in SAME_SECTION)
    measured, fitted, before = None, None, affine
    domain_um = domain_of_map(pair, affine.affine, tissue)
    for step in steps:
        before = maps[-1][1]
        measured = measure(pair.sparse, pair.dense, before, step, tissue)
        fitted = extended(before, measured, step, domain_um)
        maps.append((step.name, fitted.transform, fitted.accepted))
    assert measured is not None
    assert fitted is not None
    found = Correspondences.of(measured, before, measured.odd)
    judged = [*maps[:-1], (steps[-1].name, fitted.held_out, fitted.accepted)]
    blocks = None
    if settings.mode != "serial" and supported(settings.mode, found, fitted.held_out, steps[-1], pose, margin):
        everywhere = Correspondences.of(measured, before, np.ones(len(measured.odd), np.bool_))
        blocks = tissue_blocks(pair, steps[-1], tissue, fitted.transform, everywhere)
        pieces, explained = find_pieces(pair, fitted.transform, steps[-1], blocks, tissue)
        if pieces:
            nodes = labelled(pair, fitted.transform, pieces, explained)
            whole = _Whole(fitted, found, everywhere, judged, steps[-1], pose, margin)
            return _joined(pair, settings, tissue, whole, pieces, nodes)
    # The way back costs as much as a step does, so it is solved once it is known which map is stored.
    transform = Transform.with_inverse(fitted.transform.affine, fitted.transform.forward, pair.dense.extent_um)
    quality = quality_of(pair, settings, transform, found, judged, steps[-1], "blocks", pose, margin)
    quality = with_outside(quality, pair, transform, tissue)
    return transform, quality if blocks is None else placed(quality, blocks)


@dataclass(frozen=True, eq=False)
class _Whole:
    """What the steps over the whole slide came to, before parts of it were searched by themselves.

    Attributes:
        fitted: the last step.
        found: its held-out blocks.
        everywhere: all of its blocks.
        judged: name, map and whether it was kept, of every step.
        step: the last one.
        pose: of the search.
        margin: of the search.
    """

    fitted: Fitted
    found: Correspondences
    everywhere: Correspondences
    judged: list[tuple[str, Transform, bool]]
    step: Step
    pose: coarse.Pose | None
    margin: float | None


def _joined(
    pair: Pair,
    settings: RegisterSettings,
    tissue: NuclearImage,
    whole: _Whole,
    pieces: Sequence[Piece],
    nodes: LabelGrid,
) -> tuple[Transform, Quality]:
    """Return the map of the rest and the pieces as one, and how good it is."""
    maps = [whole.fitted.transform, *(piece.transform for piece in pieces)]
    transform, seams = with_inverse(maps, nodes, pair.dense.extent_um)
    halves = joined([whole.fitted.held_out, *(piece.held_out for piece in pieces)], nodes)
    found = own_blocks(whole.found, [piece.blocks(held_out=True) for piece in pieces], nodes)
    everywhere = own_blocks(whole.everywhere, [piece.blocks() for piece in pieces], nodes)
    judged = [*whole.judged, ("pieces", halves, True)]
    quality = quality_of(
        pair, settings, transform, found, judged, whole.step, "blocks", whole.pose, whole.margin, seams
    )
    quality = with_outside(quality, pair, transform, tissue)
    blocks = tissue_blocks(pair, whole.step, tissue, transform, everywhere)
    return transform, placed(quality, blocks, described(maps, nodes, blocks))


def _second(
    pair: Pair, settings: RegisterSettings, sparse: NuclearImage, dense: NuclearImage, tissue: NuclearImage
) -> Iterator[tuple[coarse.Pose, float]]:
    """Yield the poses of the second search that blocks support, with their margin."""
    candidates = second_search.search(sparse, dense)
    margin = second_search.margin(candidates)
    for candidate in candidates:
        pose = second_search.zoomed(candidate.pose, sparse, dense)
        if _agrees(pair, settings, Transform(pose.affine), tissue):
            yield pose, margin if candidate is candidates[0] else 0.0


def _agrees(pair: Pair, settings: RegisterSettings, transform: Transform, tissue: NuclearImage) -> bool:
    """Return whether blocks support a map far more often than chance would."""
    step = SERIAL[-1]
    if settings.mode != "serial":
        step = SAME_SECTION[0].for_area(shared_area_um2(pair, transform, tissue))
    found = held_out(measure(pair.sparse, pair.dense, transform, step, tissue), transform)
    return found.chance(transform, step.reach_um * SUPPORT_FRACTION, step.independent) < MAX_CHANCE
