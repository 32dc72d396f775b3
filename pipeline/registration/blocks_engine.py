"""The engine `blocks`: search, affine, smooth field, blocks, each kept only if held-out blocks come closer by it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse, second_search
from pipeline.registration.assessment import (
    SUPPORT_FRACTION,
    held_out,
    placed,
    quality_of,
    shared_area_um2,
    tissue_blocks,
    with_outside,
)
from pipeline.registration.deformable import SAME_SECTION, SERIAL, Step, extended, measure
from pipeline.registration.images import NuclearImage
from pipeline.registration.pair import (
    Pair,
    box_under_dense,
    centred,
    overview,
    sparse_overview,
    tissue_of,
    without_glass,
)
from pipeline.registration.parts import described
from pipeline.registration.pieces import find_pieces, labelled, own_blocks
from pipeline.registration.piecewise import joined, with_inverse
from pipeline.registration.quality import MAX_CHANCE, MIN_MARGIN, MIN_NCC, Correspondences, Quality
from pipeline.registration.scale import other_scales
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """Return the transform of an open pair, and how good it is."""
    pair = pair.shown_for(settings.mode)
    whole = sparse_overview(pair.sparse)
    tissue = tissue_of(whole)
    sparse, dense = without_glass(whole), without_glass(overview(pair.dense))
    poses = coarse.search(sparse, dense)
    refined = affine_step.refined(poses, sparse, dense)
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
    domain_um = box_under_dense(pair, affine.affine)
    for step in steps:
        before = maps[-1][1]
        measured = measure(pair.sparse, pair.dense, before, step, tissue)
        fitted = extended(before, measured, step, domain_um)
        maps.append((step.name, fitted.transform, fitted.accepted))
    assert measured is not None
    assert fitted is not None
    found = Correspondences.of(measured, before, measured.odd)
    judged = [*maps[:-1], (steps[-1].name, fitted.held_out, fitted.accepted)]
    transform = Transform.with_inverse(fitted.transform.affine, fitted.transform.forward, pair.dense.extent_um)
    quality = quality_of(pair, settings, transform, found, judged, steps[-1], "blocks", pose, margin)
    quality = with_outside(quality, pair, transform, tissue)
    if settings.mode == "serial" or not quality.supported:
        return transform, quality
    everywhere = Correspondences.of(measured, before, np.ones(len(measured.odd), np.bool_))
    blocks = tissue_blocks(pair, steps[-1], tissue, transform, everywhere)
    pieces, explained = find_pieces(pair, transform, steps[-1], blocks, tissue)
    if not pieces:
        return transform, placed(quality, blocks)
    rest = fitted.transform
    nodes = labelled(pair, rest, pieces, explained)
    maps_of_parts = [rest, *(piece.transform for piece in pieces)]
    transform, seams = with_inverse(maps_of_parts, nodes, pair.dense.extent_um)
    halves = joined([fitted.held_out, *(piece.held_out for piece in pieces)], nodes)
    found = own_blocks(found, [piece.blocks(held_out=True) for piece in pieces], nodes)
    everywhere = own_blocks(everywhere, [piece.blocks() for piece in pieces], nodes)
    judged.append(("pieces", halves, True))
    quality = quality_of(pair, settings, transform, found, judged, steps[-1], "blocks", pose, margin, seams)
    quality = with_outside(quality, pair, transform, tissue)
    blocks = tissue_blocks(pair, steps[-1], tissue, transform, everywhere)
    return transform, placed(quality, blocks, described(maps_of_parts, nodes, blocks))


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
