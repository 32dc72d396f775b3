"""Small finished stores with chosen contents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store.patch_store import PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter


def write_store(
    path: Path,
    *,
    sparse: NDArray[np.uint8],
    dense: NDArray[Any] | None = None,
    slide: str = "s1",
    patient: str = "p1",
    mpp: float = 1.0,
    markers: tuple[str, ...] = (),
    pair_quality: NDArray[np.float32] | None = None,
    position_px: NDArray[np.int64] | None = None,
    dense_kind: str = "fluorescence",
    marker_mean: NDArray[Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Writes a store through the project's own writer; rows lie on a line unless positions are given."""
    count, size_px = sparse.shape[:2]
    writer = StoreWriter(
        path,
        patches=count,
        size_px=size_px,
        dense_channels=0 if dense is None else dense.shape[1],
        dense_dtype="uint8" if dense is None else dense.dtype.name,
        dense_size_px=None if dense is None else dense.shape[-1],
    )
    for start in range(0, count, writer.block_rows):
        rows = slice(start, start + writer.block_rows)
        writer.write(start, sparse[rows], None if dense is None else dense[rows])
    if position_px is None:
        position_px = np.stack([np.arange(count) * size_px, np.zeros(count)], axis=1).astype(np.int64)
    if pair_quality is None:
        pair_quality = np.full(count, 0.0 if dense is None else 1.0, dtype=np.float32)
    mean = np.zeros((count, 0)) if dense is None else dense.mean(axis=(2, 3)) if marker_mean is None else marker_mean
    table = PatchTable(
        position_px=position_px,
        position_um=position_px * mpp,
        tissue=np.ones(count, dtype=np.float32),
        residual_um=np.full(count, np.nan, dtype=np.float32),
        pair_quality=pair_quality,
        marker_mean=mean.astype(np.float32),
    )
    extent = position_px.max(axis=0, initial=0) + size_px
    attributes = StoreAttributes(
        slide=slide,
        patient=patient,
        size_px=size_px,
        mpp=mpp,
        mpp_level0=mpp,
        size_level0_px=(int(extent[0]), int(extent[1])),
        patch_size_level0=size_px,
        overview_mpp=8.0,
        markers=markers,
        nuclear_channel=0 if markers and dense_kind != "counts" else None,
        verdict="pass" if markers else "",
        counts={"kept": count, "no_tissue": 0, "pair_outside": 0, "pair_not_finite": 0, "pair_residual": 0},
        recipe={"size_px": size_px, "mpp": mpp},
        provenance={"stage": "tile", "inputs": dict(inputs or {})},
        dense_kind=dense_kind,
    )
    shape = tuple(int(-(-side * mpp // 8)) for side in extent[::-1])
    writer.finish(attributes, table, np.full((*shape, 3), 230, dtype=np.uint8), np.ones(shape, dtype=bool))
