"""Show embeddings as colours and points: principal components of a sample, applied slide by slide.

The components are fitted once, on patches drawn evenly from all slides, so that a colour means the same thing in
every slide. Features are read a part at a time; memory does not grow with the slides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import ArrowException
from scipy.linalg import eigh

from pipeline.embedding.features_file import difference
from pipeline.errors import StatedError
from pipeline.json_file import MISFIT
from pipeline.store.patch_indices import PatchPlaces, patch_places
from pipeline.store.patch_store import PatchStore
from pipeline.training.feature_range import outside_share

Floats = NDArray[np.float64]

COMPONENTS = 3
_ROWS_AT_ONCE = 8192
_COLOUR_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Components:
    """The first principal components of a sample of patches.

    Attributes:
        centre: (D,) mean of the sample.
        axes: (3, D) directions, largest variance first; zero where the sample has fewer.
        explained: (3,) share of the sample's variance, 0 to 1.
        low: (3,) values that are drawn darkest.
        high: (3,) values that are drawn brightest.
        points: by slide, (n, 2) the first two components of its patches in the sample.
        rows: by slide, (n,) the rows of these patches.
    """

    centre: Floats
    axes: Floats
    explained: Floats
    low: Floats
    high: Floats
    points: Mapping[str, Floats]
    rows: Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class PatchColours:
    """A slide's patches as colours, one pixel per place of the grid.

    Attributes:
        rgba: (h, w, 4) uint8, transparent where there is no patch.
        places: where the pixels lie on the slide.
        scores: (N, 3) float32, the components that the colours show, in the store's order.
        outside: share of the patches outside the range of the encoder's training; None where that is not known.
    """

    rgba: NDArray[np.uint8]
    places: PatchPlaces
    scores: NDArray[np.float32]
    outside: float | None


def fit_components(features: Mapping[str, Path], patches: int) -> Components | None:
    """Return the components of at most `patches` patches, spread evenly over slides and rows; None with fewer than two.

    Raises:
        StatedError: if a file holds no features, or features of another width than the first slide's.
    """
    sample: dict[str, Floats] = {}
    picked: dict[str, NDArray[np.int64]] = {}
    width: int | None = None
    for slide, path in features.items():
        with _opened(slide, path) as file:
            count, found = file["features"].shape
            width = found if width is None else width
            if found != width:
                raise StatedError(
                    slide=slide, file=path, expected=f"features {width} wide, as of the first slide", found=str(found)
                )
            wanted = min(count, max(2, patches // len(features)))
            rows = np.unique(np.linspace(0, max(count - 1, 0), wanted).round().astype(np.int64))
            sample[slide], picked[slide] = np.asarray(file["features"][rows], dtype=np.float64), rows
    values = np.concatenate(list(sample.values())) if sample else np.empty((0, 0))
    if len(values) < 2:
        return None
    centre = values.mean(axis=0)
    axes, explained = _principal_axes(values - centre)
    scores = (values - centre) @ axes.T
    low, high = np.percentile(scores, _COLOUR_PERCENTILES, axis=0)
    points = {slide: ((part - centre) @ axes[:2].T) for slide, part in sample.items()}
    return Components(centre, axes, explained, low, high, points, picked)


def patch_colours(slide: str, path: Path, store: PatchStore, components: Components) -> PatchColours | None:
    """Return the three components of every patch of a slide as red, green and blue; None where it has no patch.

    Raises:
        StatedError: if the features are not those of the store's patches.
    """
    places, position = patch_places(store), store.table.position_px
    if places is None:
        return None
    rgba = np.zeros((*places.shape, 4), np.uint8)
    scores = np.zeros((len(position), COMPONENTS), np.float32)
    # Colours have 216 shades: single precision is enough, and twice as fast.
    axes, middle = components.axes.T.astype(np.float32), components.axes @ components.centre
    with _opened(slide, path) as file:
        coords = np.asarray(file["coords"])
        if not np.array_equal(coords, position):
            expected = f"features of the store's {len(position)} patches"
            raise StatedError(slide=slide, file=path, expected=expected, found=difference(coords, position))
        for start in range(0, len(position), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            scores[part] = np.asarray(file["features"][part], dtype=np.float32) @ axes - middle
            spread = np.where(components.high > components.low, components.high - components.low, 1)
            shade = np.clip((scores[part] - components.low) / spread, 0, 1)
            rgba[places.row[part], places.column[part], :3] = np.rint(30 + shade * 215)
            rgba[places.row[part], places.column[part], 3] = 255
        outside = outside_share(np.asarray(file["distance"])) if "distance" in file else None
    return PatchColours(rgba, places, scores, outside)


def slide_map(path: Path, slides: list[str]) -> tuple[list[str], Floats, Floats] | None:
    """Return slides, their points (n, 2) and the two shares of variance, from the vectors in slides.parquet.

    None with fewer than three slides: two points always lie on a line, and tell nothing.

    Raises:
        StatedError: if the table cannot be read or has no vectors.
    """
    try:
        table = pd.read_parquet(path, columns=["slide", "mean"])
        table = table[table["slide"].isin(slides)]
        vectors = np.asarray(table["mean"].tolist(), dtype=np.float64)
    except (ArrowException, OSError, *MISFIT) as error:
        raise StatedError(file=path, expected="slide vectors as embed-slides writes them", found=str(error)) from None
    names = table["slide"].tolist()
    if len(names) < 3:
        return None
    centred = vectors - vectors.mean(axis=0)
    axes, explained = _principal_axes(centred)
    return names, centred @ axes[:2].T, explained[:2]


def _principal_axes(centred: Floats) -> tuple[Floats, Floats]:
    """Return axes (3, D) and shares of variance (3,); each axis points to where its largest entry is positive."""
    size = centred.shape[1]
    count = min(COMPONENTS, size)
    variance, vectors = eigh(centred.T @ centred, subset_by_index=(size - count, size - 1))
    total = max(float((centred**2).sum()), 1e-300)
    axes, share = np.zeros((COMPONENTS, size)), np.zeros(COMPONENTS)
    share[:count] = np.clip(variance[::-1] / total, 0, 1)
    axes[:count] = vectors.T[::-1]
    axes[share < 1e-12] = 0  # directions without variance are arbitrary
    strongest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    return axes * np.where(strongest < 0, -1, 1), share


def _opened(slide: str, path: Path) -> h5py.File:
    try:
        file = h5py.File(path)
    except OSError as error:
        raise StatedError(slide=slide, file=path, expected="a readable HDF5 file", found=str(error)) from None
    if "features" not in file or "coords" not in file or file["features"].ndim != 2:
        found = ", ".join(f"{name} {getattr(item, 'shape', '')}".rstrip() for name, item in file.items()) or "nothing"
        file.close()
        raise StatedError(slide=slide, file=path, expected="features (N, D) and coords (N, 2)", found=found)
    return file
