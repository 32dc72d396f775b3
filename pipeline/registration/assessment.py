"""Assess a map from any engine: residuals at blocks not used for fitting, folds, scale and round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.registration import coarse
from pipeline.registration.areas import TissueBlocks
from pipeline.registration.deformable import GIVEN, SERIAL, STRUCTURES, Measured, Step, measure
from pipeline.registration.images import NuclearImage
from pipeline.registration.outside import shared_area_um2, with_outside
from pipeline.registration.pair import Pair, sparse_overview, tissue_of
from pipeline.registration.piecewise import Seams
from pipeline.registration.quality import (
    UNKNOWN,
    Correspondences,
    PieceQuality,
    Quality,
    StepQuality,
    believed,
    determinant_range,
    fold_fraction,
    verdict,
)
from pipeline.registration.scale import scale_between
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

# Of maps that are not ours; the own engine's fields are smooth and stay far below.
MAX_ROUND_TRIP_UM = 1.0
# Blocks support a map within this part of what the last step looked through.
SUPPORT_FRACTION = 1 / 3
# Of the tissue that can be compared, the share without agreement from which a person should look.
WARN_AREA_SHARE = 0.05
MAX_NAMED_AREAS = 3


def assess(pair: Pair, transform: Transform, settings: RegisterSettings) -> Quality:
    """Return how good a given transform of an open pair is; no block had a part in it, so all of them are held out."""
    return assess_steps(pair, [("given", transform)], settings, "given")


def assess_steps(
    pair: Pair,
    steps: list[tuple[str, Transform]],
    settings: RegisterSettings,
    engine: str,
    pose: coarse.Pose | None = None,
    margin: float | None = None,
) -> Quality:
    """Return how good the last of several maps is, which no block of ours had a part in, and what each had left.

    Args:
        pair: the open pair.
        steps: name and map of every step, in order.
        settings: of the stage.
        engine: what made the maps.
        pose: of an independent search, for the report; None without one.
        margin: of that search.
    """
    pair, transform = pair.shown_for(settings.mode), steps[-1][1]
    tissue = tissue_of(sparse_overview(pair.sparse))
    step = judging_step(pair, transform, settings, tissue)
    found = held_out(measure(pair.sparse, pair.dense, transform, step, tissue), transform)
    maps = [(name, candidate, True) for name, candidate in steps]
    quality = quality_of(pair, settings, transform, found, maps, step, engine, pose, margin)
    quality = with_outside(quality, pair, transform, tissue)
    quality = placed(quality, tissue_blocks(pair, step, tissue, transform, found))
    if quality.round_trip_um <= MAX_ROUND_TRIP_UM:
        return quality
    grade = "warn" if quality.verdict == "pass" else quality.verdict
    reason = f"going there and back misses by up to {quality.round_trip_um:.1f} um, beyond {MAX_ROUND_TRIP_UM:g} um"
    return replace(quality, verdict=grade, reasons=(*quality.reasons, reason))


def judging_step(pair: Pair, transform: Transform, settings: RegisterSettings, tissue: NuclearImage) -> Step:
    """Return how blocks are compared where they only judge a map."""
    if settings.mode == "serial" and pair.nuclei:
        return SERIAL[-1]
    return (GIVEN if pair.nuclei else STRUCTURES).for_area(shared_area_um2(pair, transform, tissue))


def unmeasured(pair: Pair, transform: Transform, settings: RegisterSettings) -> Quality:
    """Return what can be said of a transform to a mask or points, which show no nuclei.

    How it bends, that it is untested.
    """
    return Quality(
        mode=settings.mode,
        engine="given",
        verdict="warn",
        reasons=(f"{pair.no_nuclei} by which the given transform could be measured; look at the pictures",),
        channel=pair.channel,
        pose=None,
        margin=None,
        steps=(),
        held_out=UNKNOWN,
        scale=None,
        support=0.0,
        supported=False,
        determinant_range=determinant_range(transform),
        fold_fraction=fold_fraction(transform),
        round_trip_um=_round_trip(pair, transform),
        block_um=np.zeros((0, 2)),
        block_side_um=0.0,
        block_residual_um=np.zeros(0),
    )


def quality_of(
    pair: Pair,
    settings: RegisterSettings,
    transform: Transform,
    found: Correspondences,
    maps: list[tuple[str, Transform, bool]],
    step: Step,
    engine: str,
    pose: coarse.Pose | None,
    margin: float | None,
    seams: Seams | None = None,
) -> Quality:
    """Return what correspondences say of the last of several maps, and of those before it.

    Args:
        pair: the open pair.
        settings: of the stage.
        transform: what is stored; the last of `maps` may be fitted to half of the blocks, so that the rest can judge.
        found: blocks of one side on the other.
        maps: name, map and whether it was kept, of every step in order.
        step: how the blocks were matched.
        engine: what made the maps.
        pose: of the search; None where there was none.
        margin: of the search.
        seams: of a piecewise map, left out of what is said of folds and of the way back.
    """
    final = maps[-1][1]
    within_um = step.reach_um * SUPPORT_FRACTION
    support, chance = found.support(final, within_um), found.chance(final, within_um, step.independent)
    # Peaks that agree with nothing are chance: their distances say how far was looked, not how far off the map is.
    known = believed(settings.mode, support, chance, pose, margin)
    residuals = [found.residual(candidate) if known else UNKNOWN for _, candidate, _ in maps]
    blocks = int(np.count_nonzero(found.trusted))
    rows = [
        StepQuality(name, accepted, blocks, residuals[max(i - 1, 0)], residuals[i])
        for i, (name, _, accepted) in enumerate(maps)
    ]
    # The field follows a wrong scale too, hence not by the affine part alone.
    parts = None if seams is None else seams.sparse.nearest(found.sparse_um)
    scale = scale_between(found.sparse_um, final.to_dense(found.sparse_um), parts) if known else None
    folds, determinants = fold_fraction(transform, seams), determinant_range(transform, seams)
    grade, reasons = verdict(
        settings,
        held_out=residuals[-1],
        support=support,
        chance=chance,
        scale=scale,
        folds=folds,
        determinants=determinants,
        pose=pose,
        margin=margin,
        searched=engine != "given",
        signal="nuclear signal" if pair.nuclei else "signal",
    )
    if not pair.nuclei:
        grade = "warn" if grade == "pass" else grade
        reasons = (
            *reasons,
            f"no channel shows nuclei: blocks were compared by mutual information in {pair.channel}, which tells "
            "structures from each other, not cells",
        )
    return Quality(
        mode=settings.mode,
        engine=engine,
        verdict=grade,
        reasons=reasons,
        channel=pair.channel,
        pose=pose,
        margin=margin,
        steps=tuple(rows),
        held_out=residuals[-1],
        scale=scale,
        support=support,
        supported=known,
        determinant_range=determinants,
        fold_fraction=folds,
        round_trip_um=_round_trip(pair, transform, seams),
        block_um=found.sparse_um,
        block_side_um=step.block_um,
        block_residual_um=found.distances_um(final),
        nuclei=pair.nuclei,
    )


def supported(
    mode: str, found: Correspondences, final: Transform, step: Step, pose: coarse.Pose | None, margin: float | None
) -> bool:
    """Return whether blocks of a step say that a map may be used; see `believed`."""
    within_um = step.reach_um * SUPPORT_FRACTION
    support, chance = found.support(final, within_um), found.chance(final, within_um, step.independent)
    return believed(mode, support, chance, pose, margin)


def agrees(found: Correspondences, transform: Transform, step: Step) -> NDArray[np.bool_]:
    """Return which blocks (N,) show a clear peak where a map puts them."""
    with np.errstate(invalid="ignore"):
        near: NDArray[np.bool_] = found.distances_um(transform) <= step.reach_um * SUPPORT_FRACTION
    return near


def tissue_blocks(
    pair: Pair, step: Step, tissue: NuclearImage, transform: Transform, found: Correspondences
) -> TissueBlocks:
    """Return the tissue as blocks, with which of them agree with a map."""
    agreeing = agrees(found, transform, step)
    return TissueBlocks.of(pair, step, tissue, transform, found.sparse_um, agreeing)


def placed(quality: Quality, blocks: TissueBlocks, pieces: Sequence[PieceQuality] = ()) -> Quality:
    """Return the quality with a sense of place: what lies apart, and what matches nothing, lowers the verdict.

    Args:
        quality: of a map that blocks support; any other one stays as it is.
        blocks: what the tissue shows under the map.
        pieces: parts that are registered separately.
    """
    if not quality.supported or quality.mode == "serial":
        return quality
    areas = tuple(area for area, _ in blocks.parts(blocks.unexplained()))
    reasons, largest = list(quality.reasons), sorted(pieces, key=lambda piece: -piece.area.share)
    reasons += [
        f"{piece.area.share:.0%} of the tissue ({piece.area.place}) lies {piece.shift_um:.0f} um from where the "
        f"largest part would put it, turned {piece.degrees:.1f} degrees, and is registered separately"
        + (f"; it ends along {piece.straight_edge} of the dense slide: wrong stitching" if piece.straight_edge else "")
        for piece in largest[:MAX_NAMED_AREAS]
    ]
    if others := len(largest[MAX_NAMED_AREAS:]):
        reasons.append(f"smaller parts of the tissue registered by themselves as well: {others}")
    if (share := sum(area.share for area in areas)) >= WARN_AREA_SHARE:
        where = ", ".join(f"{area.place} {area.share:.0%}" for area in areas[:MAX_NAMED_AREAS])
        reasons.append(f"{share:.0%} of the tissue matches nothing on the dense slide ({where}): lost, torn or folded")
    lowered = quality.verdict == "pass" and len(reasons) > len(quality.reasons)
    grade = "warn" if lowered else quality.verdict
    return replace(quality, verdict=grade, reasons=tuple(reasons), areas=areas, pieces=tuple(largest))


def held_out(measured: Measured, transform: Transform) -> Correspondences:
    """Return correspondences of blocks of which none had a part in a map."""
    return Correspondences.of(measured, transform, np.ones(len(measured.odd), np.bool_))


def _round_trip(pair: Pair, transform: Transform, seams: Seams | None = None) -> float:
    """Return greatest round trip error at points of the sparse slide that fall on the dense one."""
    low, high = pair.sparse.extent_um
    across = (np.arange(101) + 0.5) / 101
    points = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2) * (high - low) + low
    there = transform.to_dense(points)
    on_slide = ((there >= pair.dense.extent_um[0]) & (there <= pair.dense.extent_um[1])).all(1)
    if seams is not None:
        on_slide &= seams.clear_of(points, there)
    return float(transform.round_trip_um(points[on_slide]).max(initial=0.0))
