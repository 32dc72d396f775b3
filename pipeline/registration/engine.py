"""The engine `sitk`: search, affine, smooth field, blocks, each kept only if held-out blocks come closer by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.errors import StatedError
from pipeline.registration import affine as affine_step
from pipeline.registration import coarse
from pipeline.registration.deformable import GIVEN, SAME_SECTION, SERIAL, SMOOTH, Step, extended, measure
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.quality import (
    MIN_SUPPORT,
    UNKNOWN,
    Correspondences,
    Quality,
    StepQuality,
    determinant_range,
    fold_fraction,
    verdict,
)
from pipeline.registration.stain import nuclear_channel
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings
from pipeline.slides.base import Slide
from pipeline.slides.opening import open_side
from pipeline.slides.record import SlideRecord

# Of maps that are not ours; the own engine's fields are smooth and stay far below.
MAX_ROUND_TRIP_UM = 1.0
_OVERVIEW_MPP = 4.0
_OVERVIEW_SIDE_PX = 4096
_TISSUE_BLUR_UM = 30.0
_SUPPORT_FRACTION = 1 / 3


@dataclass(frozen=True)
class Pair:
    """The two sides of a slide, open.

    Attributes:
        sparse: H&E.
        dense: nuclear channel of the multiplex image.
        channel: its name.
    """

    sparse: NuclearSource
    dense: NuclearSource
    channel: str

    @classmethod
    def of(cls, sparse: Slide, dense: Slide, mpp: tuple[float, float], wanted: str | None) -> Pair:
        """The pair of two open slides; a dense RGB image counts as brightfield and shows its own hematoxylin."""
        if not sparse.header.is_rgb:
            raise StatedError(expected="an RGB image as the sparse side", found=", ".join(sparse.header.channels))
        channel = None if dense.header.is_rgb and wanted is None else nuclear_channel(dense.header.channels, wanted)
        name = "hematoxylin" if channel is None else dense.header.channels[channel]
        return cls(NuclearSource(sparse, mpp[0], None), NuclearSource(dense, mpp[1], channel), name)


@contextmanager
def opened(record: SlideRecord, settings: RegisterSettings) -> Iterator[Pair]:
    """Both sides of a record, open for the time of a `with` block.

    Raises:
        StatedError: if the slide has no dense partner, no nuclear channel, or cannot be read.
    """
    if record.dense is None:
        raise StatedError(slide=record.slide, expected="a slide with a dense partner", found="none in the sheet")
    with (
        open_side(record.sparse, slide=record.slide) as sparse,
        open_side(record.dense, slide=record.slide) as dense,
    ):
        try:
            pair = Pair.of(sparse, dense, (record.sparse.mpp, record.dense.mpp), settings.nuclear_channel)
        except StatedError as error:
            raise StatedError(
                slide=record.slide, file=record.dense.path, expected=error.expected, found=error.found
            ) from None
        yield pair


def register(record: SlideRecord, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """The transform of a slide that has to be registered, and how good it is.

    A registration that does not succeed is a result too: verdict `fail`, with the best guess as the transform.

    Raises:
        StatedError: if the slide has no dense partner, no nuclear channel, or cannot be read.
    """
    with opened(record, settings) as pair:
        return align(pair, settings)


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """The transform of an open pair, and how good it is."""
    sparse, dense = overview(pair.sparse), overview(pair.dense)
    poses = coarse.search(sparse, dense)
    refined = affine_step.refined(poses, sparse, dense)
    margin = affine_step.margin(refined) if refined else None
    start = Transform(poses[0].affine) if poses else centred(pair)
    maps = [("initial", centred(pair), True), ("coarse", start, bool(poses))]
    maps.append(("affine", Transform(refined[0].affine) if refined else start, bool(refined)))
    tissue = tissue_of(sparse)
    # Same-section work goes on to single nuclei; neighbouring sections share none, so it would lock onto wrong ones.
    steps = SERIAL if settings.mode == "serial" else SAME_SECTION
    measured, fitted, before = None, None, maps[-1][1]
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
    quality = _quality(
        pair, settings, transform, found, judged, steps[-1], "sitk", refined[0] if refined else None, margin
    )
    return transform, quality


def judge(record: SlideRecord, transform: Transform, settings: RegisterSettings) -> Quality:
    """How good a given transform is: its residual is measured, the map itself stays as it is."""
    with opened(record, settings) as pair:
        return assess(pair, transform, settings)


def assess(pair: Pair, transform: Transform, settings: RegisterSettings) -> Quality:
    """How good a given transform of an open pair is; no block had a part in it, so all of them are held out."""
    return assess_steps(pair, [("given", transform)], settings, "given")


def assess_steps(
    pair: Pair,
    steps: list[tuple[str, Transform]],
    settings: RegisterSettings,
    engine: str,
    pose: coarse.Pose | None = None,
    margin: float | None = None,
) -> Quality:
    """How good the last of several maps is, which no block of ours had a part in, and what each had left.

    Args:
        pair: the open pair.
        steps: name and map of every step, in order.
        settings: of the stage.
        engine: what made the maps.
        pose: of a search that the maps had no part in, for the report; None where there was none.
        margin: of that search.
    """
    transform = steps[-1][1]
    step = SMOOTH if settings.mode == "serial" else GIVEN
    measured = measure(pair.sparse, pair.dense, transform, step, tissue_of(overview(pair.sparse)))
    found = Correspondences.of(measured, transform, np.ones(len(measured.odd), np.bool_))
    maps = [(name, candidate, True) for name, candidate in steps]
    quality = _quality(pair, settings, transform, found, maps, step, engine, pose, margin)
    if quality.round_trip_um <= MAX_ROUND_TRIP_UM:
        return quality
    word = "warn" if quality.verdict == "pass" else quality.verdict
    reason = f"going there and back misses by up to {quality.round_trip_um:.1f} um, beyond {MAX_ROUND_TRIP_UM:g} um"
    return replace(quality, verdict=word, reasons=(*quality.reasons, reason))


def overview(source: NuclearSource) -> NuclearImage:
    """The whole slide at 4 um per pixel, or as coarse as a large slide asks for."""
    extent = float((source.extent_um[1] - source.extent_um[0]).max())
    return source.read(max(_OVERVIEW_MPP, extent / _OVERVIEW_SIDE_PX))


def tissue_of(overview_image: NuclearImage) -> NuclearImage:
    """The overview with `inside` narrowed to where nuclei are about."""
    blurred = cv2.GaussianBlur(overview_image.values, (0, 0), _TISSUE_BLUR_UM / overview_image.mpp)
    strong = float(np.percentile(blurred[overview_image.inside], 99)) if overview_image.inside.any() else 0.0
    held = overview_image.inside & (blurred > max(0.15 * strong, 1e-3))
    return NuclearImage(overview_image.values, held, overview_image.origin_um, overview_image.mpp)


def centred(pair: Pair) -> Transform:
    """Both slides laid middle on middle: what one has before any registration."""
    shift = pair.dense.extent_um.mean(0) - pair.sparse.extent_um.mean(0)
    return Transform(np.column_stack([np.eye(2), shift]))


def _quality(
    pair: Pair,
    settings: RegisterSettings,
    transform: Transform,
    found: Correspondences,
    maps: list[tuple[str, Transform, bool]],
    step: Step,
    engine: str,
    pose: coarse.Pose | None,
    margin: float | None,
) -> Quality:
    final = maps[-1][1]
    support = found.support(final, step.reach_um * _SUPPORT_FRACTION)
    # Peaks that agree with nothing are chance: their distances say how far was looked, not how far off the map is.
    known = support >= MIN_SUPPORT
    residuals = [found.residual(candidate) if known else UNKNOWN for _, candidate, _ in maps]
    blocks = int(np.count_nonzero(found.trusted))
    rows = [
        StepQuality(name, accepted, blocks, residuals[max(i - 1, 0)], residuals[i])
        for i, (name, _, accepted) in enumerate(maps)
    ]
    folds, determinants = fold_fraction(transform), determinant_range(transform)
    word, reasons = verdict(
        settings,
        held_out=residuals[-1],
        support=support,
        folds=folds,
        determinants=determinants,
        pose=pose,
        margin=margin,
        searched=engine == "sitk",
    )
    return Quality(
        mode=settings.mode,
        engine=engine,
        verdict=word,
        reasons=reasons,
        channel=pair.channel,
        pose=pose,
        margin=margin,
        steps=tuple(rows),
        held_out=residuals[-1],
        support=support,
        determinant_range=determinants,
        fold_fraction=folds,
        round_trip_um=_round_trip(pair, transform),
        block_um=found.sparse_um,
        block_side_um=step.block_um,
        block_residual_um=found.distances_um(final),
    )


def _round_trip(pair: Pair, transform: Transform) -> float:
    """Greatest round trip error at points of the sparse slide that fall on the dense one."""
    low, high = pair.sparse.extent_um
    across = (np.arange(101) + 0.5) / 101
    points = np.stack(np.meshgrid(across, across), axis=-1).reshape(-1, 2) * (high - low) + low
    there = transform.to_dense(points)
    on_slide = ((there >= pair.dense.extent_um[0]) & (there <= pair.dense.extent_um[1])).all(1)
    return float(transform.round_trip_um(points[on_slide]).max(initial=0.0))
