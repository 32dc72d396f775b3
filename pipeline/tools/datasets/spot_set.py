"""Write a section of spatial transcriptomics to a store: H&E about each spot, and the spot's gene counts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import progress, say
from pipeline.provenance import file_digest, finished, record
from pipeline.slides.base import Level, SlideHeader
from pipeline.slides.closing import WithoutJpegTiles
from pipeline.slides.kinds.counts import Counts
from pipeline.slides.record import SideRecord
from pipeline.slides.window import clip_window
from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter
from pipeline.tiling.grid import Grid
from pipeline.tiling.regions import TISSUE
from pipeline.tiling.sampling import read_sparse_patch
from pipeline.tools.datasets.writing import all_kept

COUNTS = Counts()
DEFAULT_SIZE_PX = 256
_OVERVIEW_MPP = 8.0
_OVERVIEW_SIDE_PX = 4096


@dataclass(frozen=True, eq=False)
class SpotSet:
    """The spots of one section and the image that they lie on; becomes one store.

    Attributes:
        name: of the store; what stands for a slide.
        patient: what a split must keep together.
        mpp: um per pixel of the patches.
        image_mpp: um per pixel of the image.
        position_um: (S, 2) xy of the spots' centres on the image.
        genes: names of the counts' columns.
        labels: the region of each spot, empty where there is none.
        file: name of the file of counts.
        read_image: the image (h, w, 3) uint8.
        read_counts: (S, G) uint32.
        sources: all files that these read.
    """

    name: str
    patient: str
    mpp: float
    image_mpp: float
    position_um: NDArray[np.float64]
    genes: tuple[str, ...]
    labels: tuple[str, ...]
    file: str
    read_image: Callable[[], NDArray[np.uint8]]
    read_counts: Callable[[], NDArray[np.uint32]]
    sources: tuple[Path, ...]

    @property
    def dense(self) -> SideRecord:
        """The counts as inspect would describe them."""
        return SideRecord(self.file, COUNTS.reader, 1.0, "file", (), self.genes, COUNTS.dtype, "", COUNTS.name)

    def corners_px(self, size_px: int) -> NDArray[np.int64]:
        """Return (S, 2) xy of the image's pixel at the upper left of the patch about each spot."""
        side_px = size_px * self.mpp / self.image_mpp
        return np.rint(self.position_um / self.image_mpp - (side_px - 1) / 2).astype(np.int64)

    def inside(self, size_px: int, image_xy: tuple[int, int]) -> NDArray[np.int64]:
        """Return the spots whose patches lie wholly on the image."""
        corners = self.corners_px(size_px)
        ends = corners + size_px * self.mpp / self.image_mpp
        return np.flatnonzero((corners >= 0).all(axis=1) & (ends <= np.array(image_xy)).all(axis=1))


def write_spots(spots: SpotSet, out: Path, table: Path, *, dataset: str, size_px: int | None) -> None:
    """Write the store of one section, and the table of its rows: row, file, x_um, y_um (of the spot), label.

    Spots whose patch would reach beyond the image are left out, and their number is printed.

    Args:
        spots: the section.
        out: the store.
        table: the table.
        dataset: name of the set.
        size_px: side of the patches; None takes 256.

    Raises:
        StatedError: if a file is not as published, or no patch lies on the image.
    """
    size_px = size_px or DEFAULT_SIZE_PX
    settings = {"dataset": dataset, "size_px": size_px, "mpp": spots.mpp}
    inputs = {path.name: file_digest(path) for path in spots.sources}
    provenance = record("dataset", settings, inputs, ("numpy", "pandas", "simplejpeg", "zarr"))
    with _Picture(spots) as picture:
        kept = spots.inside(size_px, picture.header.size_xy)
        left_out = len(spots.position_um) - len(kept)
        if not len(kept):
            raise StatedError(
                slide=spots.name,
                file=spots.file,
                expected=f"a spot with {size_px} px of {spots.mpp:g} um about it on the image",
                found="none",
            )
        if left_out:
            say(f"dataset {spots.name}: {left_out} spots at the edge of the image left out, {len(kept)} kept")
        grid = Grid(size_px, spots.mpp, spots.image_mpp, spots.corners_px(size_px)[kept])
        _write_rows(spots, kept, table)
        with finished(out) as temporary:
            writer = StoreWriter(
                temporary,
                patches=len(kept),
                size_px=size_px,
                dense_channels=len(spots.genes),
                dense_dtype=COUNTS.dtype,
                dense_size_px=COUNTS.stored_size_px(size_px),
            )
            counts = spots.read_counts()[kept][:, :, None, None]
            starts = range(0, len(kept), writer.block_rows)
            for first in progress(starts, label=f"dataset {spots.name}", unit="blocks"):
                rows = slice(first, first + writer.block_rows)
                patches = np.stack([read_sparse_patch(picture, grid, corner) for corner in grid.position_px[rows]])
                writer.write(first, patches, counts[rows])
            overview, regions, overview_mpp = _overview(picture, grid)
            attributes = _attributes(spots, grid, picture.header.size_xy, overview_mpp, settings, provenance)
            writer.finish(attributes, _table(grid, COUNTS.patch_values(spots.dense, counts)), overview, regions)


class _Picture(WithoutJpegTiles):
    """The image of a section behind the interface of slides: one level, in memory."""

    def __init__(self, spots: SpotSet) -> None:
        self._pixels = spots.read_image()
        height, width = self._pixels.shape[:2]
        self.header = SlideHeader(
            Path(spots.name), "simplejpeg", spots.image_mpp, (Level((width, height), 1.0),), ("R", "G", "B"), "uint8"
        )

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(h, w, 3): all of it."""
        return self._pixels

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> NDArray[np.uint8]:
        """See `pipeline.slides.base.Slide`."""
        out = np.full((size_xy[1], size_xy[0], 3), 255, dtype=np.uint8)
        window = clip_window(corner_xy, size_xy, self.header.size_xy)
        if not window.is_empty:
            (left, top), (right, bottom), (x, y) = window.start_xy, window.stop_xy, window.corner_xy
            out[top:bottom, left:right] = self._pixels[y : y + bottom - top, x : x + right - left]
        return out if channels is None else out[..., list(channels)]

    def close(self) -> None:
        """Give up the pixels."""
        self._pixels = np.empty((0, 0, 3), np.uint8)


def _attributes(
    spots: SpotSet,
    grid: Grid,
    image_xy: tuple[int, int],
    overview_mpp: float,
    recipe: dict[str, Any],
    provenance: dict[str, Any],
) -> StoreAttributes:
    return StoreAttributes(
        slide=spots.name,
        patient=spots.patient,
        size_px=grid.size_px,
        mpp=grid.mpp,
        mpp_level0=grid.mpp_level0,
        size_level0_px=image_xy,
        patch_size_level0=round(grid.size_level0_px),
        overview_mpp=overview_mpp,
        markers=spots.genes,
        nuclear_channel=None,
        verdict="",
        counts=all_kept(len(grid.position_px)),
        recipe=recipe,
        provenance=provenance,
        dense_kind=COUNTS.name,
    )


def _table(grid: Grid, values: NDArray[np.float32]) -> PatchTable:
    ones = np.ones(len(grid.position_px), dtype=np.float32)
    return PatchTable(
        position_px=grid.position_px,
        position_um=grid.position_um,
        tissue=ones,
        residual_um=np.full(len(ones), np.nan, dtype=np.float32),
        pair_quality=ones,
        marker_mean=values,
    )


def _overview(picture: _Picture, grid: Grid) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
    """Return the image made small, the patches on it as tissue, and its um per pixel."""
    width, height = picture.header.size_xy
    scale = min(grid.mpp_level0 / _OVERVIEW_MPP, _OVERVIEW_SIDE_PX / max(width, height), 1.0)
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = np.asarray(cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    regions = np.zeros(small.shape[:2], dtype=np.uint8)
    for x, y in grid.position_px * (size[0] / width):
        side = grid.size_level0_px * (size[0] / width)
        regions[round(y) : round(y + side), round(x) : round(x + side)] = TISSUE
    return small, regions, grid.mpp_level0 * width / size[0]


def _write_rows(spots: SpotSet, kept: NDArray[np.int64], path: Path) -> None:
    with finished(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("row", "file", "x_um", "y_um", "label"))
        for row, spot in enumerate(kept.tolist()):
            x, y = spots.position_um[spot]
            writer.writerow((row, spots.file, f"{x:.1f}", f"{y:.1f}", spots.labels[spot]))
