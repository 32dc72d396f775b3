"""The engine `sitk`: search, affine, smooth field, blocks, each kept only if held-out blocks come closer by it."""

from __future__ import annotations

import numpy as np

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse
from pipeline.registration.assessment import (
    SUPPORT_FRACTION,
    held_out,
    placed,
    quality_of,
    shared_area_um2,
    tissue_blocks,
)
from pipeline.registration.deformable import SAME_SECTION, SERIAL, Step, extended, measure
from pipeline.registration.images import NuclearImage
from pipeline.registration.pair import Pair, centred, overview, tissue_of
from pipeline.registration.parts import described
from pipeline.registration.pieces import find_pieces, labelled, own_blocks
from pipeline.registration.piecewise import joined, with_inverse
from pipeline.registration.quality import MAX_CHANCE, MIN_MARGIN, Correspondences, Quality
from pipeline.registration.scale import other_scales
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """The transform of an open pair, and how good it is."""
    pair = pair.shown_for(settings.mode)
    sparse, dense = overview(pair.sparse), overview(pair.dense)
    tissue = tissue_of(sparse)
    poses = coarse.search(sparse, dense)
    refined = affine_step.refined(poses, sparse, dense)
    start = Transform(poses[0].affine) if poses else centred(pair)
    first = refined[0] if refined else None
    found = _deformed(pair, settings, tissue, start, first, coarse.margin(refined) if refined else None)
    if found[1].supported or not refined:
        return found
    for candidate in other_scales(sparse, dense):
        other = Transform(candidate.pose.affine)
        if candidate.margin >= MIN_MARGIN and _agrees(
            pair, other, SAME_SECTION[0] if settings.mode == "same-section" else SERIAL[-1], tissue
        ):
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
    """The transform after the smooth and local steps that follow a pose, and how good it is."""
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
    for step in steps:
        before = maps[-1][1]
        measured = measure(pair.sparse, pair.dense, before, step, tissue)
        fitted = extended(before, measured, step, pair.sparse.extent_um)
        maps.append((step.name, fitted.transform, fitted.accepted))
    assert measured is not None
    assert fitted is not None
    found = Correspondences.of(measured, before, measured.odd)
    judged = [*maps[:-1], (steps[-1].name, fitted.held_out, fitted.accepted)]
    transform = Transform.with_inverse(fitted.transform.affine, fitted.transform.forward, pair.dense.extent_um)
    quality = quality_of(pair, settings, transform, found, judged, steps[-1], "sitk", pose, margin)
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
    quality = quality_of(pair, settings, transform, found, judged, steps[-1], "sitk", pose, margin, seams)
    blocks = tissue_blocks(pair, steps[-1], tissue, transform, everywhere)
    return transform, placed(quality, blocks, described(maps_of_parts, nodes, blocks))


def _agrees(pair: Pair, transform: Transform, step: Step, tissue: NuclearImage) -> bool:
    """Whether blocks support a map far more often than chance would."""
    found = held_out(measure(pair.sparse, pair.dense, transform, step, tissue), transform)
    return found.chance(transform, step.reach_um * SUPPORT_FRACTION, step.independent) < MAX_CHANCE
