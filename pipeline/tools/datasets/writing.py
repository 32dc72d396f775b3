"""Write a published set to a store with the arrays and attributes of a slide, so that every later stage takes it.

Nobody tells where on which slide the images of such a set lay. They are laid on a square in the order of their files, a
slide that never was: positions say which squares were one image, and nothing of distances beyond it.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import progress
from pipeline.provenance import file_digest, finished, record
from pipeline.slides.kinds import kind_named
from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter
from pipeline.tiling.regions import REASONS, TISSUE
from pipeline.tools.datasets.patch_set import PatchSet

_OVERVIEW_MPP = 8.0
_OVERVIEW_SIDE_PX = 4096


@dataclass(frozen=True)
class Cutting:
    """How the images of a set become patches.

    Attributes:
        images: number of images.
        side_px: side of an image.
        size_px: side of a patch.
    """

    images: int
    side_px: int
    size_px: int

    @property
    def per_side(self) -> int:
        """Patches along a side of an image; what is left over on the right and below is not used."""
        return self.side_px // self.size_px

    @property
    def per_image(self) -> int:
        """Patches of an image."""
        return self.per_side**2

    @property
    def across(self) -> int:
        """Images along the side of the square on which they are laid."""
        return ceil(sqrt(self.images))

    def image_xy(self, number: int) -> tuple[int, int]:
        """Place of an image on the square, counted in images."""
        return number % self.across, number // self.across

    def corners_px(self) -> NDArray[np.int64]:
        """Return (N, 2) int64, xy of each patch's upper left pixel, image by image, row by row within an image."""
        image, piece = np.divmod(np.arange(self.images * self.per_image), self.per_image)
        column, row = image % self.across, image // self.across
        x, y = piece % self.per_side, piece // self.per_side
        size = self.size_px
        return np.stack([column * self.side_px + x * size, row * self.side_px + y * size], axis=1).astype(np.int64)

    def pieces(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (per_image, P, P, C) of an image (S, S, C)."""
        n, size = self.per_side, self.size_px
        used = image[: n * size, : n * size].reshape(n, size, n, size, -1)
        return used.transpose(0, 2, 1, 3, 4).reshape(n * n, size, size, -1)


def write_set(patches: PatchSet, out: Path, *, dataset: str, size_px: int | None) -> None:
    """Write the store of one part of a set to `out`.

    Args:
        patches: the images.
        out: the store.
        dataset: name of the set.
        size_px: side of the patches that the images are cut into; None takes each image whole.

    Raises:
        StatedError: if an image is not as published, or smaller than a patch.
    """
    cutting = Cutting(len(patches), patches.side_px, size_px or patches.side_px)
    if not cutting.per_side:
        raise StatedError(
            slide=patches.name, expected=f"patches of up to {patches.side_px} px", found=f"{cutting.size_px} px"
        )
    settings = {"dataset": dataset, "sparse": patches.sparse, "size_px": cutting.size_px, "mpp": patches.mpp}
    provenance = record("dataset", settings, {"files": _digest(patches)}, ("numpy", "pillow", "scikit-image", "zarr"))
    count, side = cutting.images * cutting.per_image, patches.dense
    kind = kind_named(side.kind)
    names = kind.value_names(side)
    mosaic = _Mosaic(cutting, patches.mpp)
    with finished(out) as temporary:
        writer = StoreWriter(
            temporary,
            patches=count,
            size_px=cutting.size_px,
            dense_channels=kind.stored_channels(len(names)),
            dense_dtype=kind.stored_dtype(side),
        )
        values = np.empty((count, len(names)), dtype=np.float32)
        for first, sparse, dense in _blocks(patches, cutting, mosaic, writer.block_rows):
            stored = kind.stored_pixels(side, dense)
            writer.write(first, sparse, stored)
            values[first : first + len(stored)] = kind.patch_values(side, stored)
        corners = cutting.corners_px()
        table = PatchTable(
            position_px=corners,
            position_um=np.asarray(corners * patches.mpp, dtype=np.float64),
            tissue=np.ones(count, dtype=np.float32),
            residual_um=np.full(count, np.nan, dtype=np.float32),
            pair_quality=np.ones(count, dtype=np.float32),
            marker_mean=values,
        )
        attributes = StoreAttributes(
            slide=patches.name,
            patient=patches.patient,
            size_px=cutting.size_px,
            mpp=patches.mpp,
            mpp_level0=patches.mpp,
            size_level0_px=mosaic.size_level0_px,
            patch_size_level0=cutting.size_px,
            overview_mpp=mosaic.mpp,
            markers=names,
            nuclear_channel=None,
            verdict="",
            counts=all_kept(count),
            recipe=settings,
            provenance=provenance,
            dense_kind=side.kind,
        )
        writer.finish(attributes, table, mosaic.rgb, mosaic.regions)


def all_kept(count: int) -> dict[str, int]:
    """Return what a store tells of its squares, where its publisher has chosen them and none is dropped."""
    reasons = (*REASONS.values(), "corrupt", "pair_outside", "pair_not_imaged", "pair_not_finite", "pair_residual")
    return {"kept": count} | dict.fromkeys(reasons, 0)


def write_files(patches: PatchSet, path: Path, *, size_px: int | None) -> None:
    """Write the table of where each row of the store comes from: row, file, x_px, y_px (in the image), label.

    Of a set whose nuclei may be known it has a column `cell`, the type that most nuclei in the patch have.

    Raises:
        StatedError: if a file of nuclei is not as it should be.
    """
    cutting = Cutting(len(patches), patches.side_px, size_px or patches.side_px)
    with finished(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(("row", "file", "x_px", "y_px", "label", *(("cell",) if patches.nuclei else ())))
        for image in range(cutting.images):
            nuclei = patches.nuclei(image) if patches.nuclei else None
            for piece in range(cutting.per_image):
                y, x = divmod(piece, cutting.per_side)
                place = (x * cutting.size_px, y * cutting.size_px)
                cell = nuclei.within(*place, cutting.size_px).most_frequent() if nuclei else ""
                row = image * cutting.per_image + piece
                named = (row, patches.files[image], *place, patches.labels[image])
                writer.writerow((*named, cell) if patches.nuclei else named)


class _Mosaic:
    """The overview of the square on which the images are laid."""

    def __init__(self, cutting: Cutting, mpp: float) -> None:
        self._cutting = cutting
        wanted = round(cutting.side_px * mpp / _OVERVIEW_MPP)
        self._cell_px = max(1, min(wanted, _OVERVIEW_SIDE_PX // cutting.across))
        rows = ceil(cutting.images / cutting.across)
        self.mpp = cutting.side_px * mpp / self._cell_px
        self.size_level0_px = (cutting.across * cutting.side_px, rows * cutting.side_px)
        shape = (rows * self._cell_px, cutting.across * self._cell_px)
        self.rgb = np.full((*shape, 3), 255, dtype=np.uint8)
        self.regions = np.zeros(shape, dtype=np.uint8)

    def lay(self, number: int, image: NDArray[np.uint8]) -> None:
        side = self._cell_px
        column, row = self._cutting.image_xy(number)
        place = (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
        self.rgb[place] = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        self.regions[place] = TISSUE


def _blocks(
    patches: PatchSet, cutting: Cutting, mosaic: _Mosaic, block_rows: int
) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield first row, sparse and dense patches of every block of rows."""
    sparse: list[NDArray[np.uint8]] = []
    dense: list[NDArray[np.uint8]] = []
    first = 0
    for number in progress(range(cutting.images), label=f"dataset {patches.name}", unit="images"):
        rgb, planes = patches.read(number)
        mosaic.lay(number, rgb)
        sparse += list(cutting.pieces(rgb))
        dense += list(np.moveaxis(cutting.pieces(np.moveaxis(planes, 0, -1)), -1, 1))
        last = number + 1 == cutting.images
        while len(sparse) >= block_rows or (last and sparse):
            yield first, np.stack(sparse[:block_rows]), np.stack(dense[:block_rows])
            first += len(sparse[:block_rows])
            del sparse[:block_rows], dense[:block_rows]


def _digest(patches: PatchSet) -> str:
    """Return SHA-256 of all files that are read, in order, with their names."""
    digest = hashlib.sha256()
    for path in patches.sources:
        digest.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()
