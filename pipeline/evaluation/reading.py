"""Read the inputs of the evaluation: each slide's pairs from split and store, and the features of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.embedding.features_file import difference
from pipeline.errors import StatedError, reraise_bug
from pipeline.hdf5_file import HDF5_ERRORS, dataset
from pipeline.marker_names import Aliases, panel_of
from pipeline.settings import PanelSettings
from pipeline.splitting.table import HELD_OUT_FOLD, read_split_table
from pipeline.store.class_tables import ClassifiedPatches
from pipeline.store.patch_indices import patch_centres_um
from pipeline.store.patch_store import PatchStore

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class SlidePairs:
    """The usable pairs of one slide, n of them, T markers in the cohort's order.

    Attributes:
        slide: its name.
        patient: patient ID.
        rows: (n,) rows of the store.
        fold: (n,) number of its fold.
        position_um: (n, 2) xy of the patches.
        centre_um: (n, 2) xy of their centres.
        marker_mean: (n, T) values of the dense side in the slide's own units, nan where the slide lacks the marker.
        dense_kind: `fluorescence`, `brightfield`, `mask` or `counts`: what these values are.
        coords_px: (N, 2) xy level-0 position of ALL patches of the store, to check features against.
    """

    slide: str
    patient: str
    rows: Integers
    fold: Integers
    position_um: Floats
    centre_um: Floats
    marker_mean: Floats
    dense_kind: str
    coords_px: Integers

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """(n,) whether a pair is in the held-out fold."""
        held: NDArray[np.bool_] = self.fold == HELD_OUT_FOLD
        return held

    @property
    def classified(self) -> ClassifiedPatches:
        """The pairs as tables of classes are asked for them."""
        return ClassifiedPatches(self.slide, self.rows, self.centre_um, len(self.coords_px))


# Features (n, D) of some pairs of a slide, which are named by their indices into `SlidePairs.rows`.
FeaturesOf = Callable[[SlidePairs, Integers], Features]


@dataclass(frozen=True)
class Cohort:
    """All slides that have pairs, and the markers that any of them has, in order of appearance."""

    markers: tuple[str, ...]
    slides: tuple[SlidePairs, ...]


def read_cohort(split: Path, stores: Path, panel: PanelSettings | None = None) -> Cohort:
    """Return the pairs (pair_quality above 0) of every slide in `patches.tsv`.

    Args:
        split: the `patches.tsv` of the stage split.
        stores: folder of the stores, `{slide}.zarr`.
        panel: what slides call the same marker.

    Raises:
        StatedError: where the table is no such table, two channels of a slide are the same marker, a store is absent
            or has other rows, or where fold 0 or the other folds have no pair.
    """
    table = read_split_table(split)
    pairs = table[table["pair_quality"] > 0]
    if not (pairs["fold"] == HELD_OUT_FOLD).any():
        raise StatedError(file=split, expected="pairs in fold 0, the held-out fold", found=f"none among {len(pairs)}")
    if not (pairs["fold"] != HELD_OUT_FOLD).any():
        raise StatedError(file=split, expected="pairs to fit on in folds other than 0", found=f"none in {len(pairs)}")
    opened: list[tuple[str, str, pd.DataFrame, PatchStore]] = []
    for slide, part in pairs.groupby("slide", sort=False):
        name = str(slide)
        store = PatchStore.open(stores / f"{name}.zarr")
        rows = int((table["slide"] == name).sum())
        if rows != len(store) or int(part["row"].max()) >= len(store):
            raise StatedError(slide=name, file=split, expected=f"the {len(store)} rows of the store", found=str(rows))
        opened.append((name, str(part["patient"].iloc[0]), part, store))
    own = panel or PanelSettings()
    joint = panel_of(
        {name: store.attributes.markers for name, *_, store in opened}, Aliases(own.aliases, own.known_aliases)
    )
    slides = tuple(_slide_pairs(*item, joint.indices[item[0]], len(joint.markers)) for item in opened)
    return Cohort(joint.markers, slides)


def read_features(folder: Path, slide: SlidePairs) -> Features:
    """Return features (n, D) of the slide's pairs from `{folder}/{slide}.h5`.

    Raises:
        StatedError: if there are none, or if their coordinates are not those of the store's patches.
    """
    path, count = folder / f"{slide.slide}.h5", len(slide.coords_px)
    with _opened(folder, slide.slide) as file:
        coords, shape = np.asarray(file["coords"]), file["features"].shape
        if shape[0] != count or not np.array_equal(coords, slide.coords_px):
            raise StatedError(
                slide=slide.slide,
                file=path,
                expected=f"features of the store's {count} patches, in its order",
                found=f"features of shape {shape}" if shape[0] != count else difference(coords, slide.coords_px),
            )
        features: Features = np.asarray(file["features"], dtype=np.float32)[slide.rows]
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        found = f"NaN or infinity in {len(bad)} rows, the first row {slide.rows[bad[0]]}"
        raise StatedError(slide=slide.slide, file=path, expected="finite features", found=found)
    return features


def features_in(folder: Path) -> FeaturesOf:
    """Return a reader of features from a run's folder; it raises what `read_features` raises."""

    def features_of(slide: SlidePairs, pairs: Integers) -> Features:
        return read_features(folder, slide)[pairs]

    return features_of


def encoder_of(folder: Path, slides: Sequence[str]) -> tuple[str, int]:
    """Return the hash of the encoder that made a run's features and their width, the same for all slides.

    Raises:
        StatedError: if a file is absent or broken, or names another run, or another encoder or width than the others.
    """
    seen: dict[tuple[str, int], str] = {}
    for slide in slides:
        path = folder / f"{slide}.h5"
        with _opened(folder, slide) as file:
            found = (str(file.attrs.get("encoder", "")), int(file["features"].shape[1]))
            made_by = str(file["coords"].attrs.get("encoder_run", folder.name))
        if made_by != folder.name:
            raise StatedError(
                slide=slide, file=path, expected=f"features of the encoder of run {folder.name}", found=f"of {made_by}"
            )
        seen.setdefault(found, slide)
        if len(seen) > 1:
            (first, width), *_ = seen
            raise StatedError(
                slide=slide,
                file=path,
                expected=f"one encoder in run {folder.name}: {width} wide, {first[:12]} as of {seen[first, width]}",
                found=f"{found[1]} wide, {found[0][:12]}",
            )
    return next(iter(seen))


@contextmanager
def _opened(folder: Path, slide: str) -> Iterator[h5py.File]:
    """Return the features file of a slide, found to hold features (N, D) and coords.

    Failures while it is open are reported the same way.

    Raises:
        StatedError: if there is no such file, or it is broken or of another layout.
    """
    path = folder / f"{slide}.h5"
    if not path.is_file():
        raise StatedError(slide=slide, file=path, expected=f"features of run {folder.name}", found="no file")
    try:
        with h5py.File(path) as file:
            features = dataset(file, "features")
            if len(features.shape) != 2 or features.dtype.kind != "f":
                raise ValueError(f"features {features.shape} of type {features.dtype}")
            dataset(file, "coords")
            yield file
    except (AttributeError, *HDF5_ERRORS) as error:
        reraise_bug(error)
        expected = "an HDF5 file with features (N, D) and coords (N, 2)"
        raise StatedError(slide=slide, file=path, expected=expected, found=str(error)) from None


def _slide_pairs(
    slide: str, patient: str, part: pd.DataFrame, store: PatchStore, indices: tuple[int, ...], markers: int
) -> SlidePairs:
    rows = part["row"].to_numpy(np.int64)
    values = np.full((len(rows), markers), np.nan)
    values[:, list(indices)] = store.table.marker_mean[rows]
    return SlidePairs(
        slide=slide,
        patient=patient,
        rows=rows,
        fold=part["fold"].to_numpy(np.int64),
        position_um=np.asarray(store.table.position_um[rows], dtype=np.float64),
        centre_um=patch_centres_um(store, rows),
        marker_mean=values,
        dense_kind=store.attributes.dense_kind,
        coords_px=np.asarray(store.table.position_px, dtype=np.int64),
    )
