"""The table of predictions, `patches.parquet`: a row per patch, in the order of the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from pipeline.errors import BROKEN_INPUT, StatedError
from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED, MarkerProbe
from pipeline.tiling.store import PatchStore

PREFIX = "predicted "


@dataclass(frozen=True)
class Predictions:
    """What a probe says of the patches of one slide.

    Attributes:
        slide: its name.
        markers: what is known of the probe of each, T of them.
        values: (N, T) float32, in standard deviations (`UNIT_EXPLAINED`), row i being patch i of the store.
    """

    slide: str
    markers: tuple[MarkerProbe, ...]
    values: NDArray[np.float32]


def write_table(predictions: Predictions, store: PatchStore, path: Path, provenance: dict[str, Any]) -> None:
    """Writes row, x_um, y_um, x_px, y_px (upper-left pixel at level 0) and one column `predicted MARKER` each."""
    known = store.table
    columns: dict[str, Any] = {"slide": [predictions.slide] * len(known.position_px)}
    columns |= {"row": np.arange(len(known.position_px), dtype=np.int64)}
    columns |= dict(zip(("x_um", "y_um"), known.position_um.T, strict=True))
    columns |= dict(zip(("x_px", "y_px"), known.position_px.T, strict=True))
    columns |= {f"{PREFIX}{item.marker}": predictions.values[:, i] for i, item in enumerate(predictions.markers)}
    about = {
        "unit": f"{UNIT}: {UNIT_EXPLAINED}",
        "scores": json.dumps({item.marker: item.scored() for item in predictions.markers}, ensure_ascii=False),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    parquet.write_table(pa.table(columns).replace_schema_metadata(about), path)


def read_values(path: Path, markers: Sequence[str]) -> NDArray[np.float32]:
    """The predictions (N, T) of these markers from a table that `write_table` wrote.

    Raises:
        StatedError: if it cannot be read or lacks one of them.
    """
    try:
        found = parquet.read_table(path, columns=[f"{PREFIX}{marker}" for marker in markers])
        return np.stack([column.to_numpy() for column in found.columns], axis=1).astype(np.float32)
    except (pa.ArrowException, *BROKEN_INPUT) as error:
        raise StatedError(file=path, expected=f"predictions of {', '.join(markers)}", found=str(error)) from None
