"""Pool the features of a slide's patches into one vector per slide."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from pipeline.embedding.features_file import check_finite
from pipeline.embedding.prototypes import Prototypes
from pipeline.errors import StatedError
from pipeline.hdf5_file import HDF5_ERRORS, dataset
from pipeline.provenance import finished

_BLOCK_ROWS = 8192
_EXPECTED = "the features that embed wrote"


@dataclass(frozen=True)
class SlideVector:
    """One slide.

    Attributes:
        slide: its name.
        patient: patient ID.
        patches: number of patches.
        recipe: hash of patches and encoder.
        encoder: hash of the encoder's weights.
        mean: (D,) float32 over the patches.
        std: (D,) float32 over the patches, of the population.
        prototypes: (K,) float32 shares of the patches nearest to each prototype; None where there are none.
    """

    slide: str
    patient: str
    patches: int
    recipe: str
    encoder: str
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    prototypes: NDArray[np.float32] | None = None


def read_slide_vector(path: Path, slide: str, prototypes: Prototypes | None = None) -> SlideVector:
    """Return the vector of one slide from the HDF5 file that embed wrote, read block by block.

    Args:
        path: the file.
        slide: name of the slide.
        prototypes: of the cohort, to count the patches by.

    Raises:
        StatedError: if there is no such file, it is none of embed's, holds no patch, or a feature is not finite.
    """
    if not path.is_file():
        raise StatedError(slide=slide, file=path, expected=_EXPECTED, found="no file")
    try:
        with h5py.File(path) as file:
            attributes, features = _contents(slide, path, file)
            mean, std = mean_and_std(features)
            if not np.isfinite(mean).all():
                for start in range(0, len(features), _BLOCK_ROWS):
                    check_finite(features[start : start + _BLOCK_ROWS], start, slide, path)
            patches = len(features)
            shares = None if prototypes is None else prototypes.shares(features)
    except OSError as error:
        raise StatedError(slide=slide, file=path, expected=_EXPECTED, found=str(error)) from None
    return SlideVector(
        slide=slide,
        patient=str(attributes["patient"]),
        patches=patches,
        recipe=str(attributes["recipe"]),
        encoder=str(attributes["encoder"]),
        mean=mean,
        std=std,
        prototypes=shares,
    )


def _contents(slide: str, path: Path, file: h5py.File) -> tuple[dict[str, Any], h5py.Dataset]:
    """Return the attributes of `coords`, and the features, found to be a table of numbers that holds a patch."""
    try:
        attributes, features = dict(dataset(file, "coords").attrs), dataset(file, "features")
        shape, kind = features.shape, features.dtype.kind
    except HDF5_ERRORS as error:
        raise StatedError(slide=slide, file=path, expected=_EXPECTED, found=str(error)) from None
    absent = [name for name in ("patient", "recipe", "encoder") if name not in attributes]
    if absent or len(shape) != 2 or 0 in shape or kind != "f":
        found = f"coords without the attribute {absent[0]}" if absent else f"features {shape} of type {features.dtype}"
        raise StatedError(slide=slide, file=path, expected=_EXPECTED, found=found)
    return attributes, features


def mean_and_std(features: h5py.Dataset | NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and population standard deviation (D,) over the rows of (N, D), in float64 within; two passes."""
    count = len(features)
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, count, _BLOCK_ROWS)]
    mean = sum(np.asarray(features[rows], dtype=np.float64).sum(axis=0) for rows in blocks) / count
    squares = sum(((np.asarray(features[rows], dtype=np.float64) - mean) ** 2).sum(axis=0) for rows in blocks)
    return np.asarray(mean, dtype=np.float32), np.sqrt(squares / count).astype(np.float32)


def write_slide_vectors(vectors: Sequence[SlideVector], out: Path, provenance: dict[str, Any]) -> None:
    """Write one row per slide: slide, patient, patches, recipe, encoder, and the lists mean, mean_std, prototypes.

    `mean` has the length of a feature vector, `mean_std` twice that: means, then standard deviations; `prototypes`,
    the shares of the patches nearest to each, is there only where prototypes were fitted.

    Raises:
        StatedError: if the slides were embedded by different encoders, or from patches of different recipes.
    """
    check_comparable(vectors)
    width = len(vectors[0].mean)
    table = pa.table(
        {
            "slide": [item.slide for item in vectors],
            "patient": [item.patient for item in vectors],
            "patches": pa.array([item.patches for item in vectors], pa.int64()),
            "recipe": [item.recipe for item in vectors],
            "encoder": [item.encoder for item in vectors],
            "mean": _lists([item.mean for item in vectors], width),
            "mean_std": _lists([np.concatenate([item.mean, item.std]) for item in vectors], 2 * width),
        }
    )
    shares = [item.prototypes for item in vectors if item.prototypes is not None]
    if len(shares) == len(vectors):
        table = table.append_column("prototypes", _lists(shares, len(shares[0])))
    table = table.replace_schema_metadata({"provenance": json.dumps(provenance, sort_keys=True)})
    with finished(out) as temporary:
        parquet.write_table(table, temporary)


def check_comparable(vectors: Sequence[SlideVector]) -> None:
    """Raise StatedError unless all slides were embedded by one encoder, from patches of one recipe."""
    first = vectors[0]
    for item in vectors[1:]:
        if item.recipe != first.recipe:
            raise StatedError(
                slide=item.slide,
                expected=f"features of the encoder {first.encoder[:12]} and the recipe {first.recipe}, as of slide "
                f"{first.slide}",
                found=f"encoder {item.encoder[:12]}, recipe {item.recipe}",
            )


def _lists(rows: Sequence[NDArray[np.float32]], width: int) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows), pa.float32()), width)
