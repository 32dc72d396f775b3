"""Slide vectors of embed-slides, pooled to one vector of each kind per patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from pipeline.errors import StatedError

Features = NDArray[np.float32]

_COLUMNS = ("slide", "patient", "patches", "encoder", "mean", "mean_std")
_EXPECTED = "the table that embed-slides wrote"


@dataclass(frozen=True)
class SlideVectors:
    """The slides of one run.

    Attributes:
        path: of the table.
        slides: their names.
        patients: whom each comes from.
        patches: (S,) number of patches.
        encoder: hash of the encoder's weights.
        mean: (S, D) float32 mean of the features.
        std: (S, D) float32 their standard deviation.
        prototypes: (S, P) float32 shares of the patches by prototype; None where there are none.
    """

    path: Path
    slides: tuple[str, ...]
    patients: tuple[str, ...]
    patches: NDArray[np.int64]
    encoder: str
    mean: Features
    std: Features
    prototypes: Features | None

    @property
    def owners(self) -> dict[str, str]:
        """The patient of each slide."""
        return dict(zip(self.slides, self.patients, strict=True))

    def slides_of(self, patient: str) -> list[str]:
        """Return the slides of a patient."""
        return [slide for slide, owner in self.owners.items() if owner == patient]

    def of_patients(self, patients: Sequence[str]) -> Mapping[str, Features]:
        """Return vectors (n, D) of patients by kind: `mean`, `mean_std`, and `prototypes` where there are some.

        They are what the vectors of a slide with all of a patient's patches would be.
        """
        place = {name: index for index, name in enumerate(patients)}
        owner = np.array([place.get(name, -1) for name in self.patients])
        weight = np.zeros((len(patients), len(self.slides)))
        weight[owner[owner >= 0], np.flatnonzero(owner >= 0)] = self.patches[owner >= 0]
        weight /= weight.sum(axis=1, keepdims=True)
        mean = weight @ self.mean.astype(np.float64)
        # Within slides, and between them: of patients with a single slide just that slide's.
        between = weight @ (self.mean.astype(np.float64) ** 2) - mean**2
        variance = weight @ (self.std.astype(np.float64) ** 2) + np.maximum(between, 0)
        found = {"mean": mean, "mean_std": np.concatenate([mean, np.sqrt(variance)], axis=1)}
        if self.prototypes is not None:
            found["prototypes"] = weight @ self.prototypes
        return {name: values.astype(np.float32) for name, values in found.items()}


def read_slide_vectors(path: Path) -> SlideVectors:
    """Return the slide vectors of a run.

    Raises:
        StatedError: if there is no such table, or it is none of embed-slides'.
    """
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing or not len(table):
        raise StatedError(file=path, expected=_EXPECTED, found=f"no {', '.join(missing)}" if missing else "no slide")
    mean, both = _rows(table, "mean", path), _rows(table, "mean_std", path)
    if both.shape[1] != 2 * mean.shape[1]:
        found = f"mean_std of {both.shape[1]} numbers and mean of {mean.shape[1]}"
        raise StatedError(file=path, expected=_EXPECTED, found=found)
    return SlideVectors(
        path=path,
        slides=tuple(map(str, table["slide"].to_pylist())),
        patients=tuple(map(str, table["patient"].to_pylist())),
        patches=np.asarray(table["patches"].to_numpy(), dtype=np.int64),
        encoder=str(table["encoder"][0].as_py()),
        mean=mean,
        std=both[:, mean.shape[1] :],
        prototypes=_rows(table, "prototypes", path) if "prototypes" in table.column_names else None,
    )


def _rows(table: pa.Table, name: str, path: Path) -> Features:
    try:
        rows = np.asarray(table[name].to_pylist(), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=f"{name}: {error}") from None
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise StatedError(file=path, expected=f"finite vectors of one length in {name}", found="others")
    return rows
