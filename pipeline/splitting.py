"""The stage split: folds in which no patient, or where there is only one, no piece of tissue, appears twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.settings import SplitSettings
from pipeline.split_table import HELD_OUT_FOLD
from pipeline.tiling.store import PatchStore


@dataclass(frozen=True)
class SlidePatches:
    """What the split needs to know of one store.

    Attributes:
        slide: its name.
        patient: whom it comes from.
        position_um: (N, 2) float64 corner of each patch.
        pair_quality: (N,) float32.
        digest: hash of positions and quality, for the provenance.
    """

    slide: str
    patient: str
    position_um: NDArray[np.float64]
    pair_quality: NDArray[np.float32]
    digest: str


@dataclass(frozen=True)
class Split:
    """The folds.

    Attributes:
        by: `patient`, `slide` or `block`.
        fold: one (N,) int64 array per slide; fold 0 is held out.
        note: a sentence that says what stayed together and what did not.
    """

    by: str
    fold: tuple[NDArray[np.int64], ...]
    note: str


def read_slide_patches(store: Path) -> SlidePatches:
    """What the split needs of a store."""
    opened = PatchStore.open(store)
    table = opened.table
    digest = hashlib.sha256(table.position_px.tobytes() + table.pair_quality.tobytes()).hexdigest()
    known = opened.attributes
    return SlidePatches(known.slide, known.patient, table.position_um, table.pair_quality, digest)


def split(patches: Sequence[SlidePatches], settings: SplitSettings) -> Split:
    """The folds of all patches.

    Groups (patients, slides or blocks) are shuffled by the seed, then dealt out, largest first, to the fold with
    the fewest pairs so far; groups without pairs count their patches. `settings.test` names the groups of fold 0.

    Raises:
        StatedError: if `test` names what is not there, or fewer groups exist than folds can be filled with.
    """
    by = _what_stays_together(patches, settings)
    groups = [_groups(item, by, settings.block_um) for item in patches]
    weight: dict[str, int] = {}
    has_pairs = any((item.pair_quality > 0).any() for item in patches)
    for item, names in zip(patches, groups, strict=True):
        counted = item.pair_quality > 0 if has_pairs else np.ones(len(names), dtype=bool)
        for name in dict.fromkeys(names.tolist()):
            weight[name] = weight.get(name, 0) + int(counted[names == name].sum())
    fold_of = _deal(weight, by, settings)
    folds = tuple(np.array([fold_of[name] for name in names.tolist()], dtype=np.int64) for names in groups)
    return Split(by, folds, _note(by, patches, settings))


def summary(patches: Sequence[SlidePatches], result: Split) -> dict[str, Any]:
    """Plain values that say what each fold holds."""
    folds: dict[str, dict[str, Any]] = {}
    for number in sorted({int(fold) for array in result.fold for fold in np.unique(array)}):
        chosen = [(item, array == number) for item, array in zip(patches, result.fold, strict=True)]
        present = [(item, rows) for item, rows in chosen if rows.any()]
        folds[str(number)] = {
            "slides": [item.slide for item, _ in present],
            "patients": sorted({item.patient for item, _ in present}),
            "patches": int(sum(rows.sum() for _, rows in present)),
            "pairs": int(sum((item.pair_quality[rows] > 0).sum() for item, rows in present)),
        }
    return {"by": result.by, "note": result.note, "folds": folds}


def table_rows(patches: Sequence[SlidePatches], result: Split) -> Iterator[tuple[str, int, str, int, float]]:
    """The lines of the split table: slide, row, patient, fold, pair_quality."""
    for item, fold in zip(patches, result.fold, strict=True):
        for row, (number, quality) in enumerate(zip(fold.tolist(), item.pair_quality.tolist(), strict=True)):
            yield item.slide, row, item.patient, number, quality


def _what_stays_together(patches: Sequence[SlidePatches], settings: SplitSettings) -> str:
    if settings.by != "auto":
        return settings.by
    paired = {item.patient for item in patches if (item.pair_quality > 0).any()}
    return "patient" if len(paired or {item.patient for item in patches}) > 1 else "block"


def _groups(item: SlidePatches, by: str, block_um: float) -> NDArray[np.str_]:
    if by == "patient":
        return np.full(len(item.position_um), item.patient)
    if by == "slide":
        return np.full(len(item.position_um), item.slide)
    blocks = (item.position_um // block_um).astype(np.int64)
    return np.array([f"{item.slide}:{x}:{y}" for x, y in blocks.tolist()], dtype=np.str_)


def _deal(weight: dict[str, int], by: str, settings: SplitSettings) -> dict[str, int]:
    unknown = sorted(set(settings.test) - set(weight)) if by != "block" else []
    if unknown or (by == "block" and settings.test):
        raise StatedError(
            file="split.test", expected=f"names of {by}s of the sheet", found=", ".join(unknown or settings.test)
        )
    order = list(np.random.default_rng(settings.seed).permutation(sorted(weight)))
    order.sort(key=lambda name: -weight[name])
    fold_of = dict.fromkeys(settings.test, HELD_OUT_FOLD)
    free = [name for name in order if name not in fold_of]
    numbers = range(1 if settings.test else 0, settings.folds)
    useful = [name for name in free if weight[name]]
    # Who names what is held out may name slides without pairs, for classes are scored on those; training needs pairs.
    if not useful or len(useful) + len(set(settings.test)) < 2:
        named = f", {len(useful)} of them left to train on" if settings.test else ""
        raise StatedError(
            file="split",
            expected=f"at least 2 {by}s with patches to train on and hold out",
            found=f"{len(weight)}{named}",
        )
    filled = dict.fromkeys(numbers, 0)
    for name in free:
        number = min(filled, key=lambda key: (filled[key], key))
        fold_of[name] = number
        filled[number] += max(weight[name], 1)
    return fold_of


def _note(by: str, patches: Sequence[SlidePatches], settings: SplitSettings) -> str:
    patients = len({item.patient for item in patches})
    if by == "patient":
        return f"Split by patient: none of the {patients} patients appears in two folds."
    if by == "slide":
        return (
            "Split by slide, as configured: patches of one patient may appear in several folds, "
            "so scores may flatter the encoder."
        )
    return (
        f"Split by blocks of {settings.block_um:g} um, because the pairs come from a single patient or as configured: "
        "training and held-out tissue lie side by side, so scores do not show how the encoder does on new patients."
    )
