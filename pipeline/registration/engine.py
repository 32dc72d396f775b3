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
from pipeline.registration.deformable import GIVEN, SAME_SECTION, SERIAL, Measured, Step, extended, measure
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.quality import (
    MAX_CHANCE,
    MIN_MARGIN,
    UNKNOWN,
    Correspondences,
    Quality,
    StepQuality,
    believed,
    determinant_range,
    fold_fraction,
    verdict,
)
from pipeline.registration.scale import other_scales, scale_between
from pipeline.registration.stain import nuclear_channel
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings
from pipeline.slides.base import Slide
from pipeline.slides.opening import open_side
from pipeline.slides.record import SlideRecord

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

    def shown_for(self, mode: str) -> Pair:
        """The pair as a mode looks at it: two brightfield neighbours by their tissue, all others by their nuclei."""
        if mode != "serial" or self.dense.channel is not None:
            return self
        return Pair(replace(self.sparse, shows="tissue"), replace(self.dense, shows="tissue"), self.channel)


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
    pair = pair.shown_for(settings.mode)
    sparse, dense = overview(pair.sparse), overview(pair.dense)
    tissue = tissue_of(sparse)
    poses = coarse.search(sparse, dense)
    refined = affine_step.refined(poses, sparse, dense)
    start = Transform(poses[0].affine) if poses else _centred(pair)
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
    maps = [("initial", _centred(pair), True), ("coarse", start, pose is not None)]
    maps.append(("affine", affine, pose is not None))
    # Same-section work goes on to single nuclei; neighbouring sections share none, so it would lock onto wrong ones.
    if settings.mode == "serial":
        steps: tuple[Step, ...] = SERIAL
    else:
        area_um2 = _shared_area_um2(pair, affine, tissue)
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
    return transform, _quality(pair, settings, transform, found, judged, steps[-1], "sitk", pose, margin)


def _agrees(pair: Pair, transform: Transform, step: Step, tissue: NuclearImage) -> bool:
    """Whether blocks support a map far more often than chance would."""
    found = _held_out(measure(pair.sparse, pair.dense, transform, step, tissue), transform)
    return found.chance(transform, step.reach_um * _SUPPORT_FRACTION, step.independent) < MAX_CHANCE


def _held_out(measured: Measured, transform: Transform) -> Correspondences:
    """Correspondences of blocks of which none had a part in a map."""
    return Correspondences.of(measured, transform, np.ones(len(measured.odd), np.bool_))


def _shared_area_um2(pair: Pair, transform: Transform, tissue: NuclearImage) -> float:
    """Area of the tissue that a map puts on the dense slide."""
    rows, columns = np.nonzero(tissue.inside)
    there = transform.to_dense(tissue.to_um(np.stack([columns, rows], axis=1)))
    low, high = pair.dense.extent_um
    return float(np.count_nonzero(((there >= low) & (there <= high)).all(1))) * tissue.mpp**2


def judge(record: SlideRecord, transform: Transform, settings: RegisterSettings) -> Quality:
    """How good a given transform is: its residual is measured, the map itself stays as it is."""
    with opened(record, settings) as pair:
        return assess(pair, transform, settings)


def assess(pair: Pair, transform: Transform, settings: RegisterSettings) -> Quality:
    """How good a given transform of an open pair is; no block had a part in it, so all of them are held out."""
    pair = pair.shown_for(settings.mode)
    tissue = tissue_of(overview(pair.sparse))
    step = SERIAL[-1] if settings.mode == "serial" else GIVEN.for_area(_shared_area_um2(pair, transform, tissue))
    found = _held_out(measure(pair.sparse, pair.dense, transform, step, tissue), transform)
    return _quality(pair, settings, transform, found, [("given", transform, True)], step, "given", None, None)


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


def _centred(pair: Pair) -> Transform:
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
    within_um = step.reach_um * _SUPPORT_FRACTION
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
    scale = scale_between(found.sparse_um, final.to_dense(found.sparse_um)) if known else None
    folds, determinants = fold_fraction(transform), determinant_range(transform)
    word, reasons = verdict(
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
        scale=scale,
        support=support,
        supported=known,
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
