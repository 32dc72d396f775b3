"""Read both sides of the patches in blocks of rows, write them, and measure what they show of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import progress
from pipeline.registration.patch_residual import patch_residual
from pipeline.registration.stain import hematoxylin
from pipeline.settings import TileSettings
from pipeline.slides.base import CorruptTileError, Slide
from pipeline.slides.imaged import LARGEST_SPECKS
from pipeline.slides.kinds import kind_named
from pipeline.slides.kinds.base import DenseKind
from pipeline.slides.record import SideRecord
from pipeline.store.writer import JpegEncoding, StoreWriter
from pipeline.tiling.background import BackgroundSubtraction
from pipeline.tiling.grid import Grid
from pipeline.tiling.pairing import Pairing
from pipeline.tiling.point_patches import PointPatches
from pipeline.tiling.sampling import DensePatch, read_dense_patch
from pipeline.tiling.sparse_side import SparseSide

# Share of a patch that was never imaged beyond which the rest shows nothing.
ALL_VOID = 0.99


@dataclass(frozen=True)
class DenseSide:
    """The open dense slide or the points of a table, its record, how it is paired, what is taken from its pixels."""

    slide: Slide | PointPatches
    record: SideRecord
    pairing: Pairing
    background: BackgroundSubtraction | None = None

    @property
    def kind(self) -> DenseKind:
        """What it is."""
        return kind_named(self.record.kind)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values of a patch."""
        return self.kind.value_names(self.record)


@dataclass(frozen=True)
class Evidence:
    """What reading the patches showed of each pair: (N, 2) shift, (N,) confidence, contrast, coverage, (N, C) values.

    `corrupt` (N,) is true where the pixels of either side cannot be decoded, `finite` (N,) where those of the dense
    side are numbers: float32 may hold nan and infinity, of which the shift is nan and the values may be. `void` (N,) is
    the share that was never imaged, `specks` (N,) that of small runs which look like it.
    """

    shift_um: NDArray[np.float32]
    confidence: NDArray[np.float32]
    contrast: NDArray[np.float32]
    inside: NDArray[np.float32]
    marker_mean: NDArray[np.float32]
    corrupt: NDArray[np.bool_]
    finite: NDArray[np.bool_]
    void: NDArray[np.float32]
    specks: NDArray[np.float32]

    @property
    def imaged(self) -> NDArray[np.float32]:
        """(N,) share of each patch that was imaged.

        Where the image is cut off at the value of what was never imaged, patches count that hold little else.
        """
        void, partly = self.void, 1 - self.void
        looked_at = void > 0
        specks = float((self.specks * partly)[looked_at].sum() / max(partly[looked_at].sum(), 1e-6))
        if specks > LARGEST_SPECKS:
            void = np.where(void >= ALL_VOID, void, 0)
        return np.asarray(self.inside - void, dtype=np.float32)


def write_patches(
    name: str, out: Path, sparse: SparseSide, dense: DenseSide | None, settings: TileSettings, threads: int
) -> tuple[StoreWriter, Evidence]:
    """Write all patches of a slide below `out`; where some are corrupt, `Evidence` names them and the rows are void.

    Args:
        name: of the slide, for the progress bar.
        out: folder of the store.
        sparse: the H&E side of the patches.
        dense: the other side; None where there is none.
        settings: the section `tile`.
        threads: blocks that are read and written at once.
    """
    writer = StoreWriter(
        out,
        patches=len(sparse.grid.position_px),
        size_px=sparse.grid.size_px,
        dense_channels=dense.kind.stored_channels(len(dense.value_names)) if dense else 0,
        dense_dtype=dense.kind.stored_dtype(dense.record) if dense else "uint8",
        dense_size_px=dense.kind.stored_size_px(sparse.grid.size_px) if dense else None,
        copied=sparse.transform is not None,
        jpeg=JpegEncoding(settings.jpeg_quality, settings.jpeg_subsampling) if settings.codec == "jpeg" else None,
    )
    starts = writer.block_starts(threads)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_write_block, writer, sparse, dense, start) for start in starts]
        try:
            done = [job.result() for job in progress(jobs, label=f"tile {name}", unit="blocks")]
        except BaseException:
            # Without this an error in one block would show only after all the others are written.
            pool.shutdown(cancel_futures=True)
            raise
    parts = [done[index] for index in np.argsort(starts).tolist()]
    joined = {key: np.concatenate([vars(part)[key] for part in parts]) for key in Evidence.__dataclass_fields__}
    return writer, Evidence(**joined)


def _write_block(writer: StoreWriter, sparse: SparseSide, dense: DenseSide | None, start: int) -> Evidence:
    """Read the rows of one block, writes them unless some are corrupt, and returns what they tell of the pairs."""
    rows = slice(start, start + writer.block_rows)
    corners, grid = sparse.grid.position_px[rows], sparse.grid
    count = len(corners)
    streams = sparse.streams(rows)
    corrupt = np.array([stream is None for stream in streams or []], dtype=np.bool_)
    pixels = np.zeros((0, grid.size_px, grid.size_px, 3), dtype=np.uint8)
    if streams is None:
        pixels, corrupt = sparse.pixels(rows)
    elif dense is not None:
        pixels, corrupt = sparse.decoded(streams)
    patches = [_dense_patch(dense, grid, corner) for corner in corners] if dense else []
    if dense is not None:
        corrupt = corrupt | np.array([patch is None for patch in patches])
    planes = np.stack([patch.pixels for patch in patches if patch]) if any(patches) else None
    if dense is not None and planes is not None:
        planes = dense.kind.stored_pixels(dense.record, planes)
    if corrupt.any():
        writer.skip(start, count)
        columns = len(dense.value_names) if dense else 0
        return _no_evidence(count, columns, corrupt)
    if streams is None:
        writer.write(start, pixels, planes)
    else:
        writer.copy(start, [stream for stream in streams if stream], planes)
    if dense is None or planes is None:
        return _no_evidence(count, 0, corrupt)
    finite = np.isfinite(planes).all(axis=(1, 2, 3))
    found = np.array([*_residuals(pixels, planes, finite, dense, grid.mpp)], dtype=np.float32)
    seen = [(patch.inside, patch.void, patch.specks) for patch in patches if patch]
    inside, void, specks = np.array(seen, dtype=np.float32).T
    values = dense.kind.patch_values(dense.record, planes)
    return Evidence(found[:, :2], found[:, 2], found[:, 3], inside, values, corrupt, finite, void, specks)


def _no_evidence(count: int, columns: int, corrupt: NDArray[np.bool_]) -> Evidence:
    """Return the evidence of rows that are void or have no dense side."""
    unknown, zeros = np.full((count, 3), np.nan, dtype=np.float32), np.zeros((count, 1 + columns), dtype=np.float32)
    none, finite = zeros[:, 0], np.ones(count, dtype=np.bool_)
    return Evidence(unknown[:, :2], none, unknown[:, 2], none, zeros[:, 1:], corrupt, finite, none, none)


def _dense_patch(dense: DenseSide, grid: Grid, corner_px: NDArray[np.int64]) -> DensePatch | None:
    """Return the dense side of the square at `corner_px`; None where it cannot be decoded."""
    if isinstance(dense.slide, PointPatches):
        return dense.slide.patch(grid, corner_px)
    try:
        patch = read_dense_patch(
            dense.slide,
            dense.record.mpp,
            grid,
            corner_px,
            dense.pairing.transform,
            labels=dense.kind.labels,
        )
    except CorruptTileError:
        return None
    if dense.background is None:
        return patch
    return replace(patch, pixels=dense.background.subtracted(patch.pixels))


def _residuals(
    sparse: NDArray[np.uint8], planes_of_all: NDArray[Any], finite: NDArray[np.bool_], dense: DenseSide, mpp: float
) -> Iterator[tuple[float, float, float, float]]:
    """Yield shift xy, confidence and contrast of each patch."""
    for rgb, planes, known in zip(sparse, planes_of_all, finite, strict=True):
        channel = dense.pairing.nuclear_channel
        if (channel is None and dense.kind.nuclei != "hematoxylin") or not known:
            yield float("nan"), float("nan"), 0.0, float("nan")
            continue
        # patch_residual takes intensities, of which it draws the root; hematoxylin is a density already.
        nuclei = hematoxylin(np.moveaxis(planes, 0, -1)) ** 2 if channel is None else planes[channel]
        found = patch_residual(rgb, nuclei, mpp)
        yield *found.shift_um, found.confidence, found.contrast if dense.pairing.shares_nuclei else float("nan")
