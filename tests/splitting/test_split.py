"""Folds keep together what must stay together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from drawn_store import write_store
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StatedError
from pipeline.settings import SplitSettings
from pipeline.splitting.stage import SlidePatches, read_slide_patches, split, summary


def _slide(name: str, patient: str, patches: int, pairs: int | None = None) -> SlidePatches:
    rng = np.random.default_rng(len(name) + patches)
    quality = np.zeros(patches, dtype=np.float32)
    quality[: patches if pairs is None else pairs] = 0.8
    return SlidePatches(name, patient, rng.uniform(0, 5000, (patches, 2)), quality, "digest")


cohorts = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60), st.booleans()), min_size=2, max_size=12).filter(
    lambda rows: len({patient for patient, _, paired in rows if paired}) > 1
)


@given(rows=cohorts, folds=st.integers(2, 5), seed=st.integers(0, 5))
def test_no_patient_is_in_two_folds_and_none_is_lost(rows: list[tuple[int, int, bool]], folds: int, seed: int) -> None:
    patches = [_slide(f"s{i}", f"p{p}", n, n if paired else 0) for i, (p, n, paired) in enumerate(rows)]
    result = split(patches, SplitSettings(folds=folds, seed=seed))
    fold_of: dict[str, set[int]] = {}
    for item, fold in zip(patches, result.fold, strict=True):
        assert len(fold) == len(item.position_um)
        fold_of.setdefault(item.patient, set()).update(fold.tolist())
    assert result.by == "patient"
    assert all(len(found) == 1 for found in fold_of.values())
    assert all(0 <= number < folds for found in fold_of.values() for number in found)


@given(rows=cohorts, seed=st.integers(0, 5))
def test_the_held_out_fold_and_the_rest_both_have_pairs(rows: list[tuple[int, int, bool]], seed: int) -> None:
    patches = [_slide(f"s{i}", f"p{p}", n, n if paired else 0) for i, (p, n, paired) in enumerate(rows)]
    folds = summary(patches, split(patches, SplitSettings(seed=seed)))["folds"]
    assert folds["0"]["pairs"] > 0
    assert sum(fold["pairs"] for number, fold in folds.items() if number != "0") > 0


def test_one_patient_is_split_by_blocks_and_the_result_says_so() -> None:
    patches = [_slide("west", "p1", 400), _slide("centre", "p1", 200)]
    result = split(patches, SplitSettings(block_um=1000))
    assert result.by == "block"
    assert "single patient" in result.note
    for item, fold in zip(patches, result.fold, strict=True):
        blocks: dict[tuple[int, int], set[int]] = {}
        for position, number in zip(item.position_um // 1000, fold, strict=True):
            blocks.setdefault((int(position[0]), int(position[1])), set()).add(int(number))
        assert all(len(found) == 1 for found in blocks.values())
    assert set(np.unique(np.concatenate(result.fold))) == {0, 1, 2, 3}


def test_seeds_hold_out_different_patients_of_a_reasonable_size() -> None:
    sizes = {"p1": 1200, "p2": 900, "p3": 850, "p4": 700, "p5": 300}
    patches = [_slide(f"s{name}", name, size) for name, size in sizes.items()]
    held_out = set()
    for seed in range(60):
        fold = summary(patches, split(patches, SplitSettings(seed=seed)))["folds"]["0"]
        held_out.add(tuple(fold["patients"]))
        assert 0.1 <= fold["pairs"] / sum(sizes.values()) <= 0.5
    assert {name for names in held_out for name in names} == set(sizes)


@pytest.mark.parametrize("folds", [2, 4, 10])
def test_the_patient_with_nearly_all_pairs_is_held_out_only_if_asked_for(folds: int) -> None:
    patches = [_slide("large", "large", 10000), _slide("a", "a", 100), _slide("b", "b", 100)]
    for seed in range(20):
        assert 0 not in split(patches, SplitSettings(seed=seed, folds=folds)).fold[0]
    asked = split(patches, SplitSettings(test=("large",), folds=folds)).fold
    assert [set(fold) == {0} for fold in asked] == [True, False, False]


def test_of_two_patients_either_may_be_held_out_where_they_are_about_equal() -> None:
    patches = [_slide("a", "p1", 100), _slide("b", "p2", 110)]
    chosen = {int(split(patches, SplitSettings(seed=seed, folds=8)).fold[0][0] == 0) for seed in range(20)}
    assert chosen == {0, 1}


def _with_images(item: SlidePatches, **images: str) -> SlidePatches:
    return replace(item, images=images)


@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_one_image_of_two_patients_is_refused(side: str) -> None:
    patches = [_slide("a", "p1", 40), _slide("b", "p2", 20), _slide("c", "p3", 30)]
    patches[1:] = [_with_images(item, **{side: "same"}) for item in patches[1:]]
    with pytest.raises(StatedError, match=r"slide c: .* than slide b has.*patients p2 and p3"):
        split(patches, SplitSettings())


def test_two_patients_on_one_glass_are_two_images_of_a_file(tmp_path: Path) -> None:
    sparse = np.zeros((4, 16, 16, 3), np.uint8)
    for name, image in (("a", "ROI 1"), ("b", "ROI 2")):
        inputs = {"sparse": "hash of the file", "sparse_image": image}
        write_store(tmp_path / f"{name}.zarr", sparse=sparse, slide=name, patient=name, inputs=inputs)
    first, second = (read_slide_patches(tmp_path / f"{name}.zarr").images["sparse"] for name in "ab")
    assert first != second


@pytest.mark.parametrize("by", ["slide", "block"])
def test_one_image_twice_is_refused_where_slides_of_a_patient_may_be_parted(by: Literal["slide", "block"]) -> None:
    patches = [_with_images(_slide(name, "p1", 40), sparse="same") for name in "ab"]
    with pytest.raises(StatedError, match="the same bytes in both"):
        split(patches, SplitSettings(by=by))


def test_one_image_twice_of_one_patient_is_told_where_patients_stay_together() -> None:
    patches = [
        _with_images(_slide(name, patient, 40), sparse=image)
        for name, patient, image in (("a", "p1", "x"), ("b", "p1", "x"), ("c", "p2", "y"))
    ]
    told = summary(patches, split(patches, SplitSettings()))["same_images"]
    assert told == ["slides a and b are one H&E slide"]


def test_a_store_says_which_images_it_was_cut_from(small_results: Path) -> None:
    record = json.loads((small_results / "results/inspect/a.json").read_text())
    found = read_slide_patches(small_results / "results/tile/a.zarr").images
    assert found == {side: record[side]["sha256"] for side in ("sparse", "dense")}


def test_names_to_hold_out_are_read_as_the_sheet_reads_patients() -> None:
    patches = [_slide("a", "Jos\u00e9 1", 40), _slide("b", "p2", 20)]
    folds = split(patches, SplitSettings(test=("Jose\u0301\u00a0 1",))).fold
    assert [0 in fold for fold in folds] == [True, False]


def test_named_slides_are_held_out_and_the_result_warns_of_shared_patients() -> None:
    patches = [_slide("west", "p1", 40), _slide("centre", "p1", 20)]
    result = split(patches, SplitSettings(by="slide", test=("centre",)))
    assert set(result.fold[1]) == {0}
    assert 0 not in result.fold[0]
    assert "one patient may appear in several folds" in result.note


def test_same_seed_same_folds_other_seed_other_folds() -> None:
    patches = [_slide(f"s{i}", f"p{i}", 30) for i in range(12)]
    folds = [[int(f[0]) for f in split(patches, SplitSettings(seed=seed)).fold] for seed in (0, 0, 1)]
    assert folds[0] == folds[1]
    assert folds[0] != folds[2]


@pytest.mark.parametrize("test", [("p1", "p2"), ("p1", "p1", "p2"), ("p1", "p2", "p3")], ids=str)
def test_names_to_hold_out_that_leave_no_pairs_to_train_on_are_stated(test: tuple[str, ...]) -> None:
    patches = [_slide("a", "p1", 40), _slide("b", "p2", 20), _slide("c", "p3", 20, pairs=0)]
    with pytest.raises(StatedError, match="found 3, 0 of them left to train on"):
        split(patches, SplitSettings(test=test))


def test_a_patient_without_pairs_may_be_held_out() -> None:
    patches = [_slide("a", "p1", 40), _slide("b", "p2", 20), _slide("c", "p3", 20, pairs=0)]
    folds = split(patches, SplitSettings(test=("p3",))).fold
    assert [0 in fold for fold in folds] == [False, False, True]


def test_unknown_test_names_and_too_few_patients_are_stated() -> None:
    patches = [_slide("a", "p1", 40), _slide("b", "p2", 20)]
    with pytest.raises(StatedError, match="p9"):
        split(patches, SplitSettings(test=("p9",)))
    with pytest.raises(StatedError, match="at least 2 patients"):
        split(patches[:1], SplitSettings(by="patient"))
