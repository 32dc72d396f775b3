"""Write the table of predictions, `patches.parquet`: a row per patch, in the order of the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED, MarkerProbe
from pipeline.store.patch_store import PatchStore

PREFIX = "predicted "


@dataclass(frozen=True)
class Predictions:
    """What a probe says of the patches of one slide.

    Attributes:
        slide: its name.
        markers: what is known of the probe of each, T of them.
        values: (N, T) float32, in standard deviations (`UNIT_EXPLAINED`), row i being patch i of the store.
        distance: (N,) float32, how far each patch lies from those that the probe was fitted on, in multiples of a
            limit: above 1 is outside; None where the probe does not know.
        range: that in words, for people.
    """

    slide: str
    markers: tuple[MarkerProbe, ...]
    values: NDArray[np.float32]
    distance: NDArray[np.float32] | None
    range: str

    def only(self, columns: Sequence[int]) -> Predictions:
        """Return those of some markers, by their places among them."""
        markers = tuple(self.markers[column] for column in columns)
        return replace(self, markers=markers, values=self.values[:, list(columns)])


def write_table(predictions: Predictions, store: PatchStore, path: Path, provenance: dict[str, Any]) -> None:
    """Write row, x_um, y_um, x_px, y_px (upper-left pixel at level 0), distance and `predicted MARKER` of each."""
    known = store.table
    columns: dict[str, Any] = {"slide": [predictions.slide] * len(known.position_px)}
    columns |= {"row": np.arange(len(known.position_px), dtype=np.int64)}
    columns |= dict(zip(("x_um", "y_um"), known.position_um.T, strict=True))
    columns |= dict(zip(("x_px", "y_px"), known.position_px.T, strict=True))
    columns |= {} if predictions.distance is None else {"distance": predictions.distance}
    columns |= {f"{PREFIX}{item.marker}": predictions.values[:, i] for i, item in enumerate(predictions.markers)}
    about = {
        "unit": f"{UNIT}: {UNIT_EXPLAINED}",
        "range": predictions.range,
        "scores": json.dumps({item.marker: item.scored() for item in predictions.markers}, ensure_ascii=False),
        "provenance": json.dumps(provenance, sort_keys=True),
    }
    parquet.write_table(pa.table(columns).replace_schema_metadata(about), path)


def read_values(path: Path, markers: Sequence[str]) -> NDArray[np.float32]:
    """Return the predictions (N, T) of these markers from a table that `write_table` wrote.

    Raises:
        StatedError: if it cannot be read or lacks one of them.
    """
    names, expected = [f"{PREFIX}{marker}" for marker in markers], f"predictions of {', '.join(markers)}"
    try:
        # What is missing is left out of the table, so that the names are compared below.
        found = parquet.read_table(path, columns=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    odd = [name for name in names if name not in found.column_names or not pa.types.is_floating(found[name].type)]
    if odd:
        raise StatedError(file=path, expected=expected, found=f"no numbers in a column {odd[0]}")
    return np.stack([found[name].to_numpy() for name in names], axis=1).astype(np.float32)
