"""The stage tile: one slide, and its dense partner where there is one, to a store of patches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import progress
from pipeline.provenance import finished
from pipeline.registration.quality import patch_residual
from pipeline.registration.stain import hematoxylin
from pipeline.settings import TileSettings
from pipeline.slides.base import Slide
from pipeline.slides.opening import open_side
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.tiling.grid import Grid, tissue_fraction
from pipeline.tiling.grid import lattice as all_squares
from pipeline.tiling.lattice import TileLattice
from pipeline.tiling.pairing import SMALLEST_INSIDE, Pairing, pair_quality
from pipeline.tiling.sampling import read_dense_patch
from pipeline.tiling.sparse_side import SparseSide, wanted_lattice
from pipeline.tiling.store import JpegEncoding, PatchTable, StoreAttributes, StoreWriter
from pipeline.tiling.tissue import Overview, read_overview, tissue_mask


@dataclass(frozen=True)
class DenseSide:
    """The open dense slide, its record, and how it is paired with the sparse one."""

    slide: Slide
    record: SideRecord
    pairing: Pairing


def tile(
    record: SlideRecord,
    pairing: Pairing | None,
    settings: TileSettings,
    out: Path,
    *,
    threads: int,
    provenance: dict[str, Any],
) -> None:
    """Writes the store of one slide to `out`.

    Memory is bounded by the overview plus, per thread, one block of rows (`store.rows_per_block`), whatever
    the slide's size.

    Args:
        record: the inspected slide.
        pairing: how its dense side is registered; None for a sparse-only slide.
        settings: the section `tile`.
        out: the store; replaced as a whole once the new one is complete.
        threads: patches are read and written by this many threads.
        provenance: to be stored with the result.

    Raises:
        StatedError: if the slide has no tissue or its resolution is coarser than the patches'.
    """
    cv2.setNumThreads(1)
    with ExitStack() as stack:
        sparse = stack.enter_context(open_side(record.sparse, slide=record.slide))
        overview = read_overview(sparse, record.sparse.mpp)
        mask = tissue_mask(overview)
        grid = _squares(record, settings)
        squares = len(grid.position_px)
        lattice = wanted_lattice(record, settings, sparse, grid)
        if lattice is not None:
            stack.enter_context(lattice.tiles)
        kept, tissue = _with_tissue(record, settings, grid, lattice, mask, overview.mpp)
        source = SparseSide.of(sparse, grid.take(kept), lattice.take(kept) if lattice else None, settings.codec)
        paired = record.dense is not None and pairing is not None and pairing.verdict != "fail"
        dense = None
        if paired and record.dense is not None and pairing is not None:
            dense = DenseSide(stack.enter_context(open_side(record.dense, slide=record.slide)), record.dense, pairing)
        temporary = stack.enter_context(finished(out))
        writer = StoreWriter(
            temporary,
            patches=len(tissue),
            size_px=settings.size_px,
            dense_channels=len(dense.record.channels) if dense else 0,
            dense_dtype=dense.record.dtype if dense else "uint8",
            copied=source.transform is not None,
            jpeg=JpegEncoding(settings.jpeg_quality, settings.jpeg_subsampling) if settings.codec == "jpeg" else None,
        )
        evidence = _write_patches(record.slide, writer, source, dense, threads)
        table, counts = _table(source.grid, tissue, evidence, settings, squares)
        attributes = _attributes(record, pairing, dense, settings, source, overview, counts, provenance)
        writer.finish(attributes, table, overview.rgb, mask)


def _squares(record: SlideRecord, settings: TileSettings) -> Grid:
    """All squares of the slide."""
    side = record.sparse
    mpp = side.mpp if settings.mpp == "native" else float(settings.mpp)
    if mpp < side.mpp * 0.98:
        raise StatedError(
            slide=record.slide,
            file=side.path,
            expected=f"a slide of {mpp:g} um/px or finer",
            found=f"{side.mpp:g} um/px",
        )
    return all_squares(side.size_xy, size_px=settings.size_px, mpp=mpp, mpp_level0=side.mpp)


def _with_tissue(
    record: SlideRecord,
    settings: TileSettings,
    grid: Grid,
    lattice: TileLattice | None,
    mask: NDArray[np.bool_],
    mask_mpp: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which squares have enough tissue, and how much those have; a tile that the scanner left out has none."""
    fraction = tissue_fraction(grid, mask, mask_mpp)
    kept = fraction >= max(settings.min_tissue, 1e-6)
    if lattice is not None:
        kept &= lattice.has_pixels
    if not kept.any():
        raise StatedError(
            slide=record.slide,
            file=record.sparse.path,
            expected=f"a patch of {grid.size_px * grid.mpp:g} um with at least {settings.min_tissue:.0%} tissue",
            found=f"{len(kept)} squares, {mask.mean():.1%} of the slide is tissue",
        )
    return kept, fraction[kept]


@dataclass(frozen=True)
class _Evidence:
    """What reading the patches told of each pair: (N,) residual, confidence, coverage and (N, C) marker means."""

    residual_um: NDArray[np.float32]
    confidence: NDArray[np.float32]
    inside: NDArray[np.float32]
    marker_mean: NDArray[np.float32]


def _write_patches(
    name: str, writer: StoreWriter, sparse: SparseSide, dense: DenseSide | None, threads: int
) -> _Evidence:
    starts = range(0, len(sparse.grid.position_px), writer.block_rows)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_write_block, writer, sparse, dense, start) for start in starts]
        try:
            parts = [job.result() for job in progress(jobs, label=f"tile {name}", unit="blocks")]
        except BaseException:
            # Without this an error in one block would be told only after all the others are written.
            pool.shutdown(cancel_futures=True)
            raise
    joined = {key: np.concatenate([vars(part)[key] for part in parts]) for key in _Evidence.__dataclass_fields__}
    return _Evidence(**joined)


def _write_block(writer: StoreWriter, sparse: SparseSide, dense: DenseSide | None, start: int) -> _Evidence:
    """Reads the rows of one block, writes them, and returns what they tell of the pairs."""
    rows = slice(start, start + writer.block_rows)
    corners, grid = sparse.grid.position_px[rows], sparse.grid
    streams = sparse.streams(rows)
    count = len(corners)
    if dense is None:
        if streams is None:
            writer.write(start, sparse.pixels(rows), None)
        else:
            writer.copy(start, streams, None)
        nothing = np.full(count, np.nan, dtype=np.float32)
        zeros = np.zeros(count, dtype=np.float32)
        return _Evidence(nothing, zeros, zeros, np.zeros((count, 0), dtype=np.float32))
    transform = dense.pairing.transform
    patches = [read_dense_patch(dense.slide, dense.record.mpp, grid, corner, transform) for corner in corners]
    planes = np.stack([patch.pixels for patch in patches])
    if streams is None:
        pixels = sparse.pixels(rows)
        writer.write(start, pixels, planes)
    else:
        pixels = sparse.decoded(start, streams)
        writer.copy(start, streams, planes)
    residual, confidence = np.array(list(_residuals(pixels, planes, dense.pairing.nuclear_channel, grid.mpp))).T
    inside = np.array([patch.inside for patch in patches], dtype=np.float32)
    mean = planes.mean(axis=(2, 3), dtype=np.float64)
    return _Evidence(residual.astype(np.float32), confidence.astype(np.float32), inside, mean.astype(np.float32))


def _residuals(
    sparse: NDArray[np.uint8], dense: NDArray[Any], nuclear_channel: int | None, mpp: float
) -> Iterator[tuple[float, float]]:
    for rgb, planes in zip(sparse, dense, strict=True):
        # patch_residual takes intensities, of which it draws the root; hematoxylin is a density already.
        brightfield = nuclear_channel is None
        nuclei = hematoxylin(np.moveaxis(planes, 0, -1)) ** 2 if brightfield else planes[nuclear_channel]
        found = patch_residual(rgb, nuclei, mpp)
        yield found.residual_um, found.confidence


def _table(
    grid: Grid, tissue: NDArray[np.float32], evidence: _Evidence, settings: TileSettings, squares: int
) -> tuple[PatchTable, dict[str, int]]:
    quality = pair_quality(
        evidence.residual_um, evidence.confidence, evidence.inside, max_residual_um=settings.max_residual_um
    )
    has_dense = evidence.marker_mean.shape[1] > 0
    outside = evidence.inside < SMALLEST_INSIDE
    counts = {
        "kept": len(tissue),
        "no_tissue": squares - len(tissue),
        "pair_outside": int(outside.sum()) if has_dense else 0,
        "pair_residual": int(((quality == 0) & ~outside).sum()) if has_dense else 0,
    }
    table = PatchTable(
        position_px=grid.position_px,
        position_um=grid.position_um,
        tissue=tissue,
        residual_um=evidence.residual_um,
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
    return StoreAttributes(
        slide=record.slide,
        patient=record.patient,
        size_px=grid.size_px,
        mpp=grid.mpp,
        mpp_level0=grid.mpp_level0,
        size_level0_px=record.sparse.size_xy,
        patch_size_level0=round(grid.size_level0_px),
        overview_mpp=overview.mpp,
        markers=dense.record.channels if dense else (),
        nuclear_channel=dense.pairing.nuclear_channel if dense else None,
        verdict=pairing.verdict if pairing else "",
        counts=counts,
        recipe=asdict(settings) | used,
        provenance=provenance,
    )
