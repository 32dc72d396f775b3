"""Counts of genes at spots: a patch has the sums over the spots whose centre lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.kinds.base import DenseWords, PointKind, Points, PointTable
from pipeline.slides.kinds.fluorescence import log_of
from pipeline.slides.record import SideRecord
from pipeline.slides.spots import read_counts, read_spots
from pipeline.slides.tenx_counts import read_tenx_counts, read_tenx_places

# Counts of a patch after the normalisation of its library size, the usual choice for single cells and spots.
LIBRARY_SIZE = 10_000
_LARGEST_SUM = 2**32 - 1


class Counts(PointKind):
    """Raw counts; a patch's values are its counts per 10,000."""

    name = "counts"
    channel = "spots"
    packages = ("h5py", "pandas", "scipy")
    reader = "h5py"
    dtype = "uint32"
    endings = (".h5ad",)
    point, points = "spot", "spots"
    unit = "obsm/spatial"
    words = DenseWords(
        "gene counts",
        "gene",
        "genes",
        "Gene counts",
        "the counts of each gene",
        "log(1 + counts per 10,000)",
        "Swipe between the H&E and the spots over it: they must lie on tissue. There is no picture of the counts "
        "themselves.",
        "Squares alternate between the H&E and the spots; the spots must lie on tissue.",
        laid_over="spots of the gene counts over",
        legend_title="spots",
        no_nuclei="spots show no nuclei",
        unmeasured="How well the spots of gene counts lie on their H&E slide was not measured: they show no nuclei.",
    )

    def read_points(self, path: Path) -> Points:
        """Return the spots and the genes; see `read_spots` and `read_tenx_places` for what is refused."""
        if path.is_dir():
            tenx = read_tenx_places(path)
            return Points(tenx.position, tenx.genes, mpp=tenx.mpp, chooses=True)
        spots = read_spots(path)
        return Points(spots.position, spots.genes)

    def read_table(self, path: Path, columns: Sequence[str] = ()) -> PointTable:
        """Return the spots with their counts; see `read_counts` and `read_tenx_counts` for what is refused."""
        if path.is_dir():
            position, counts = read_tenx_places(path).position, read_tenx_counts(path, columns)
        else:
            position, counts = read_spots(path).position, read_counts(path)
        return PointTable(position, counts.shape[1], lambda rows: summed_counts(counts, rows, path))

    def patch_values(self, side: SideRecord, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, genes); see `per_library`."""
        return per_library(stored)[:, :, 0, 0]

    def comparable(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log(1 + x)."""
        return log_of(values)

    def beside(self, values: Sequence[str]) -> str:
        """Return the words of an encoder's card."""
        return f"counts of {len(values)} genes"


def summed_counts(counts: Any, rows: NDArray[np.int64], path: Path) -> NDArray[np.uint32]:
    """Return (G,) sums over some rows of a CSR matrix of counts.

    Raises:
        StatedError: if one does not fit 32 bits.
    """
    total = np.asarray(counts[rows].sum(axis=0, dtype=np.uint64)).reshape(-1)
    if total.max(initial=0) > _LARGEST_SUM:
        expected = f"at most {_LARGEST_SUM} counts of a gene in a patch"
        raise StatedError(file=path, expected=expected, found=str(total.max()))
    return total.astype(np.uint32)


def per_library(counts: NDArray[Any]) -> NDArray[np.float32]:
    """Return counts (n, G, ...) of patches scaled to 10,000 each, float32; a patch without counts stays 0.

    The normalisation of library sizes as in scanpy's `normalize_total(target_sum=1e4)`, which `log1p` follows there.
    """
    total = counts.reshape(len(counts), -1).sum(axis=1, dtype=np.float64).reshape(-1, *[1] * (counts.ndim - 1))
    return np.asarray(counts * (LIBRARY_SIZE / np.maximum(total, 1)), dtype=np.float32)
