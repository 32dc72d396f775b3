"""Stage split: make folds in which no patient or, of a single patient, no piece of tissue appears twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.patients import patient_name
from pipeline.settings import SplitSettings
from pipeline.splitting.likeness import Structure, alike, is_same, slide_structure
from pipeline.splitting.table import HELD_OUT_FOLD
from pipeline.store.patch_store import PatchStore

# What identifies an image of a slide: what it is called in a message, and what two slides of one identity share.
EXPORTED = "exported"
_SIDES = {
    "sparse": ("H&E slide", "the same bytes"),
    "dense": ("dense slide", "the same bytes"),
    EXPORTED: ("H&E slide", "the same nuclei at the same places, written twice,"),
}
# Fold 0 leaves at least as many pairs to train on as it holds out.
_LARGEST_HELD_OUT = 0.5
# Where every group is larger than that, one of those that are smallest, give or take a quarter, is held out.
_ABOUT_THE_SMALLEST = 1.25


@dataclass(frozen=True)
class SlidePatches:
    """What the split needs to know of one store.

    Attributes:
        slide: its name.
        patient: patient ID, spelled identically on all slides of a patient.
        position_um: (N, 2) float64 corner of each patch.
        pair_quality: (N,) float32.
        digest: hash of positions and quality, for the provenance.
        images: what identifies the image of each side, `sparse` and `dense`: hash of its file, and the image chosen of
            several in it; empty where it is not known. Slides that show one section in several files share `exported`.
        structure: of the whole slide, see `pipeline.splitting.likeness`; None where there is none to compare.
    """

    slide: str
    patient: str
    position_um: NDArray[np.float64]
    pair_quality: NDArray[np.float32]
    digest: str
    images: Mapping[str, str] = field(default_factory=dict)
    structure: Structure | None = None


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
    """Return what the split needs of a store."""
    opened = PatchStore.open(store)
    table = opened.table
    digest = hashlib.sha256(table.position_px.tobytes() + table.pair_quality.tobytes()).hexdigest()
    known = opened.attributes
    inputs = known.provenance.get("inputs", {})
    # A file may hold several images, of which the sheet chooses one.
    images = {side: f"{inputs[side]}{inputs.get(f'{side}_image', '')}" for side in _SIDES if inputs.get(side)}
    patient = patient_name(known.patient)
    structure = slide_structure(opened.overview)
    return SlidePatches(known.slide, patient, table.position_um, table.pair_quality, digest, images, structure)


def with_exports(patches: Sequence[SlidePatches], stores: Sequence[Path]) -> tuple[list[SlidePatches], list[str]]:
    """Return the slides, those that show one section in several files known as one, and what to tell of doubts.

    Args:
        patches: of each slide.
        stores: of the same slides, of which patches are read where slides look alike.
    """
    found, doubts = list(patches), []
    for first, second in alike([item.structure for item in patches]):
        one, other = found[first], found[second]
        if one.images.get("sparse") and one.images.get("sparse") == other.images.get("sparse"):
            continue
        same = is_same(PatchStore.open(stores[first]), PatchStore.open(stores[second]))
        if same:
            name = one.images.get(EXPORTED, one.slide)
            for index in (first, second):
                found[index] = replace(found[index], images={**found[index].images, EXPORTED: name})
        elif same is None:
            doubts.append(
                f"slides {one.slide} and {other.slide} look alike, and no patches tell them apart: one slide?"
            )
    return found, doubts


def split(patches: Sequence[SlidePatches], settings: SplitSettings) -> Split:
    """Return the folds of all patches.

    The seed shuffles the groups (patients, slides or blocks). Fold 0 takes them in this order, each one that brings it
    nearer to its share of the pairs, 1 / folds, and not beyond half of them; `settings.test` names its groups instead.
    The others are dealt out, largest first, to the fold with the fewest pairs so far. Where nothing is a pair, patches
    are counted.

    Raises:
        StatedError: if `test` names what is not there, if fewer groups exist than folds can be filled with, or if one
            image stands under two names of which one may be held out and the other trained on.
    """
    by = _what_stays_together(patches, settings)
    _refuse_shared_images(patches, by)
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
    """Return plain values that say what each fold holds."""
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
    return {"by": result.by, "note": result.note, "same_images": same_images(patches), "folds": folds}


def same_images(patches: Sequence[SlidePatches]) -> list[str]:
    """Return a sentence for each image that stands under two names of one patient, which counts its tissue twice."""
    return [
        f"slides {first.slide} and {second.slide} are one {_SIDES[side][0]}" for side, first, second in _shared(patches)
    ]


def table_rows(patches: Sequence[SlidePatches], result: Split) -> Iterator[tuple[str, int, str, int, float]]:
    """Yield the lines of the split table: slide, row, patient, fold, pair_quality."""
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
    order = [str(name) for name in np.random.default_rng(settings.seed).permutation(sorted(weight))]
    useful = [name for name in order if weight[name] and name not in settings.test]
    # Who names what is held out may name slides without pairs, for classes are scored on those; training needs pairs.
    if not useful or len(useful) + len(set(settings.test)) < 2:
        named = f", {len(useful)} of them left to train on" if settings.test else ""
        raise StatedError(
            file="split",
            expected=f"at least 2 {by}s with patches to train on and hold out",
            found=f"{len(weight)}{named}",
        )
    held_out = settings.test or _held_out(useful, weight, settings.folds)
    fold_of = dict.fromkeys(held_out, HELD_OUT_FOLD)
    filled = dict.fromkeys(range(HELD_OUT_FOLD + 1, settings.folds), 0)
    for name in sorted((name for name in order if name not in fold_of), key=lambda name: -weight[name]):
        number = min(filled, key=lambda key: (filled[key], key))
        fold_of[name] = number
        filled[number] += max(weight[name], 1)
    return fold_of


def _held_out(order: Sequence[str], weight: Mapping[str, int], folds: int) -> list[str]:
    """Return the groups of fold 0: those, in their order, that bring it nearer to its share."""
    total = sum(weight[name] for name in order)
    share, most = total / folds, total * _LARGEST_HELD_OUT
    chosen: list[str] = []
    held = 0
    for name in order:
        if abs(held + weight[name] - share) < abs(held - share) and held + weight[name] <= most:
            chosen.append(name)
            held += weight[name]
    if chosen:
        return chosen
    smallest = min(weight[name] for name in order)
    return [next(name for name in order if weight[name] <= smallest * _ABOUT_THE_SMALLEST)]


def _shared(patches: Sequence[SlidePatches]) -> Iterator[tuple[str, SlidePatches, SlidePatches]]:
    """Yield side and slides of each pair of slides that show one image, byte for byte or written twice."""
    for side in _SIDES:
        first: dict[str, SlidePatches] = {}
        for item in patches:
            if image := item.images.get(side, ""):
                earlier = first.setdefault(image, item)
                if earlier is not item:
                    yield side, earlier, item


def _refuse_shared_images(patches: Sequence[SlidePatches], by: str) -> None:
    """Refuse one image under two names that a split may part."""
    for side, first, second in _shared(patches):
        if by == "patient" and first.patient == second.patient:
            continue
        patients = f" (patients {first.patient} and {second.patient})" if first.patient != second.patient else ""
        what, shared = _SIDES[side]
        raise StatedError(
            slide=second.slide,
            expected=f"another {what} than slide {first.slide} has, for a split by {by} may train on one and "
            "hold out the other",
            found=f"{shared} in both{patients}",
        )


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
