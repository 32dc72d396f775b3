"""Stage tile: write one slide, with its dense partner where there is one, to a store of patches."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.registration.transform import Transform
from pipeline.settings import TileSettings
from pipeline.slides.kinds import kind_named
from pipeline.slides.kinds.base import PointKind
from pipeline.slides.opening import open_side
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.tiling.agreement import Measurements, agreement
from pipeline.tiling.annotations import GivenRegions, write_annotations
from pipeline.tiling.background import BackgroundSubtraction
from pipeline.tiling.blocks import DenseSide, Evidence, write_patches
from pipeline.tiling.checks import check_any_finite, check_corrupt, check_none_more, tell_of_few_pairs
from pipeline.tiling.grid import Grid
from pipeline.tiling.grid import lattice as all_squares
from pipeline.tiling.lattice import TileLattice
from pipeline.tiling.layers import layered_share
from pipeline.tiling.pairing import SMALLEST_INSIDE, Pairing, pair_quality
from pipeline.tiling.point_patches import PointPatches
from pipeline.tiling.regions import GLASS, PEN, TISSUE, Regions, drop_reasons, dropped
from pipeline.tiling.slide_regions import check_annotated, regions_of
from pipeline.tiling.sparse_side import SparseSide, wanted_lattice
from pipeline.tissue.mask import Overview, read_overview

# Patches may be finer than the slide by what scanners round their um per pixel.
FINER_TOLERANCE = 0.98


def tile(
    record: SlideRecord,
    pairing: Pairing | None,
    settings: TileSettings,
    out: Path,
    *,
    threads: int,
    provenance: dict[str, Any],
    given: GivenRegions | None = None,
    outlines: Path | None = None,
    background: BackgroundSubtraction | None = None,
) -> None:
    """Write the store of one slide to `out`.

    Memory is bounded by the overview plus, per thread, one block of rows (`store.rows_per_block`), whatever
    the slide's size.

    Args:
        record: the inspected slide.
        pairing: how its dense side is registered; None for a sparse-only slide.
        settings: the section `tile`.
        out: the store; replaced as a whole once the new one is complete.
        threads: patches are read and written by this many threads.
        provenance: to be stored with the result.
        given: what someone annotated on the slide.
        outlines: GeoJSON to write tissue and all that was told from it to.
        background: what is taken from the pixels of the dense side; None for nothing.

    Raises:
        StatedError: if the slide has no tissue, its resolution is coarser than the patches', or more of its patches
            than `tile.max_corrupt` cannot be decoded, no patch of its dense side is all numbers, or a table of
            points has none in any of them.
    """
    cv2.setNumThreads(1)
    with ExitStack() as stack:
        sparse = stack.enter_context(open_side(record.sparse, slide=record.slide))
        overview = read_overview(sparse, record.sparse.mpp)
        regions = regions_of(record, settings, sparse, overview, given)
        check_annotated(record, overview, regions, given)
        grid = _squares(record, settings)
        lattice = wanted_lattice(record, settings, sparse, grid)
        if lattice is not None:
            stack.enter_context(lattice.tiles)
        drop_reason, tissue = _with_tissue(record, settings, grid, lattice, regions, overview.mpp, given)
        kept = drop_reason == TISSUE
        tissue = tissue[kept]
        source = SparseSide.of(sparse, grid.take(kept), lattice.take(kept) if lattice else None, settings)
        paired = record.dense is not None and pairing is not None and pairing.verdict != "fail"
        dense = None
        if paired and record.dense is not None and pairing is not None:
            dense = replace(_dense_side(record, record.dense, pairing, source.grid, stack), background=background)
        temporary = stack.enter_context(finished(out))
        writer, evidence = write_patches(record.slide, temporary, source, dense, settings, threads)
        corrupt = evidence.corrupt
        if corrupt.any():
            # Rows must follow one another, so what is left is written again: rare, and simpler than moving rows.
            check_corrupt(record, corrupt, settings)
            source, tissue = source.without(corrupt), tissue[~corrupt]
            shutil.rmtree(temporary)
            writer, evidence = write_patches(record.slide, temporary, source, dense, settings, threads)
            check_none_more(record, evidence.corrupt)
        check_any_finite(record, evidence)
        drops = dropped(drop_reason) | {"corrupt": int(corrupt.sum())}
        table, counts = _table(source.grid, tissue, evidence, dense, settings, drops)
        if dense is not None:
            tell_of_few_pairs(record, counts)
        attributes = _attributes(record, pairing, dense, settings, source, overview, counts, provenance)
        writer.finish(attributes, table, overview.rgb, regions)
        if outlines is not None:
            partial = stack.enter_context(finished(outlines))
            origin_px = qupath_origin(record, settings)
            write_annotations(partial, regions, overview.mpp, record.sparse.mpp, record.sparse.size_xy, origin_px)


def qupath_origin(record: SlideRecord, settings: TileSettings) -> tuple[int, int]:
    """Return the level-0 pixel of the sparse slide, xy, from which QuPath counts."""
    return record.sparse.bounds_xy if settings.qupath_crop else (0, 0)


def _dense_side(record: SlideRecord, side: SideRecord, pairing: Pairing, grid: Grid, stack: ExitStack) -> DenseSide:
    """Return the dense side, open until the stack closes."""
    kind = kind_named(side.kind)
    if not isinstance(kind, PointKind):
        return DenseSide(stack.enter_context(open_side(side, slide=record.slide)), side, pairing)
    points = PointPatches.open(record, side, kind, pairing.transform)
    points.check_any_in(grid)
    points.check_on_tissue(grid, pairing.transform, side.mpp)
    return DenseSide(points, side, pairing)


def _squares(record: SlideRecord, settings: TileSettings) -> Grid:
    """Return all squares of the slide."""
    side = record.sparse
    mpp = side.mpp if settings.mpp == "native" else float(settings.mpp)
    if mpp < side.mpp * FINER_TOLERANCE:
        raise StatedError(
            slide=record.slide,
            file=side.path,
            expected=f"a slide of {mpp:g} um/px or finer",
            found=f"{side.mpp:g} um/px",
        )
    grid = all_squares(side.size_xy, size_px=settings.size_px, mpp=mpp, mpp_level0=side.mpp)
    if not len(grid.position_px):
        width_um, height_um = side.extent_um
        raise StatedError(
            slide=record.slide,
            file=side.path,
            expected=f"a slide that holds a patch of {settings.size_px * mpp:g} um (tile.size_px, tile.mpp)",
            found=f"one of {width_um:g} x {height_um:g} um",
        )
    return grid


def _with_tissue(
    record: SlideRecord,
    settings: TileSettings,
    grid: Grid,
    lattice: TileLattice | None,
    regions: Regions,
    regions_mpp: float,
    given: GivenRegions | None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return what becomes of each square, and its share of tissue; a tile that the scanner left out has none."""
    drop_reason, tissue = drop_reasons(grid, regions, regions_mpp, settings.min_tissue)
    if lattice is not None:
        drop_reason[~lattice.has_pixels] = GLASS
    if not (drop_reason == TISSUE).any():
        others = ", ".join(f"{count} {reason}" for reason, count in dropped(drop_reason).items() if count)
        share = f"{(regions == TISSUE).mean():.1%} of the slide is tissue"
        if given is not None:
            share += f" as annotated in {given.path}"
        elif (drop_reason == PEN).all():
            share += ": ink all over, or no H&E on bright glass"
        raise StatedError(
            slide=record.slide,
            file=record.sparse.path,
            expected=f"a patch of {grid.size_px * grid.mpp:g} um with at least {settings.min_tissue:.0%} tissue",
            found=f"{len(drop_reason)} squares ({others}), {share}",
        )
    return drop_reason, tissue


def _table(
    grid: Grid,
    tissue: NDArray[np.float32],
    evidence: Evidence,
    dense: DenseSide | None,
    settings: TileSettings,
    drops: dict[str, int],
) -> tuple[PatchTable, dict[str, int]]:
    centre_um = grid.position_um + (grid.size_level0_px - 1) / 2 * grid.mpp_level0
    imaged = evidence.imaged
    outside = evidence.inside < SMALLEST_INSIDE
    unseen = ~outside & (imaged < SMALLEST_INSIDE)
    # Where nothing was imaged nothing was measured, and the neighbours hear nothing of it.
    measured = Measurements(
        centre_um,
        np.where(unseen[:, None], np.nan, evidence.shift_um),
        np.where(unseen, 0, evidence.confidence),
        np.where(unseen, np.nan, evidence.contrast),
    )
    side_um = grid.size_px * grid.mpp
    known = agreement(measured, side_um)
    transform = dense.pairing.transform if dense else Transform.identity()
    quality = pair_quality(
        known,
        evidence.confidence,
        imaged,
        evidence.finite,
        layered_share(transform, centre_um, side_um),
        max_residual_um=settings.max_residual_um,
    )
    has_dense = evidence.marker_mean.shape[1] > 0
    unknown = ~outside & ~unseen & ~evidence.finite
    counts = {
        "kept": len(tissue),
        **drops,
        "pair_outside": int(outside.sum()) if has_dense else 0,
        "pair_not_imaged": int(unseen.sum()) if has_dense else 0,
        "pair_not_finite": int(unknown.sum()),
        "pair_residual": int(((quality == 0) & ~outside & ~unseen & ~unknown).sum()) if has_dense else 0,
    }
    table = PatchTable(
        position_px=grid.position_px,
        position_um=grid.position_um,
        tissue=tissue,
        residual_um=known.residual_um,
        pair_quality=quality if has_dense else np.zeros_like(quality),
        marker_mean=evidence.marker_mean,
    )
    return table, counts


def _attributes(
    record: SlideRecord,
    pairing: Pairing | None,
    dense: DenseSide | None,
    settings: TileSettings,
    sparse: SparseSide,
    overview: Overview,
    counts: dict[str, int],
    provenance: dict[str, Any],
) -> StoreAttributes:
    grid = sparse.grid
    used = {
        "grid": "exact" if sparse.lattice is None else "lattice",
        "codec": "jpeg-copied"
        if sparse.transform is not None
        else "jpeg"
        if settings.codec == "jpeg"
        else "blosc-zstd",
    }
    if dense and dense.background:
        used |= {"background": json.dumps(asdict(dense.background))}
    return StoreAttributes(
        slide=record.slide,
        patient=record.patient,
        size_px=grid.size_px,
        mpp=grid.mpp,
        mpp_level0=grid.mpp_level0,
        size_level0_px=record.sparse.size_xy,
        patch_size_level0=round(grid.size_level0_px),
        overview_mpp=overview.mpp,
        markers=dense.value_names if dense else (),
        nuclear_channel=dense.pairing.nuclear_channel if dense else None,
        verdict=pairing.verdict if pairing else "",
        counts=counts,
        recipe=asdict(settings) | used,
        provenance=provenance,
        dense_kind=dense.record.kind if dense else "fluorescence",
        qupath_origin_px=qupath_origin(record, settings),
    )
