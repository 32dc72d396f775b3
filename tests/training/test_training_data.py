"""Which patches a run trains on, what is refused before it starts, and how pixels are normalised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_store import write_store
from drawn_training import SIZE_PX, draw_pairs, write_cohort

from pipeline.errors import StatedError
from pipeline.store.patch_store import PatchStore
from pipeline.training.batches import batches_ahead, make_batch, partners
from pipeline.training.normalisation import Normalisation, colour_statistics, marker_statistics
from pipeline.training.order import epoch_order, groups_of
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import TrainingRows, read_training_rows

PAIR = ("sparse", "dense")
ALL = [np.arange(40)]


def _rows(folder: Path, branches: tuple[str, ...] = PAIR, batch_size: int = 8) -> TrainingRows:
    return read_training_rows(folder / "patches.tsv", folder / "tile", branches=branches, batch_size=batch_size)


def _rewrite(split: Path, old: str, new: str) -> None:
    split.write_text(split.read_text().replace(old, new))


def test_only_pairs_outside_fold_0_are_used_and_the_same_for_every_run(tmp_path: Path) -> None:
    _, split = write_cohort(tmp_path)
    _rewrite(split, "s1\t3\tp1\t2\t1.0", "s1\t3\tp1\t2\t0.0")
    rows, sparse_only = _rows(tmp_path), _rows(tmp_path, ("sparse", "sparse"))
    assert [item.store.attributes.slide for item in rows.slides] == ["s0", "s1"]
    assert rows.slides[1].rows.tolist() == [row for row in range(20) if row != 3]
    assert [item.rows.tolist() for item in rows.slides] == [item.rows.tolist() for item in sparse_only.slides]
    assert rows.markers == ("DAPI", "CD3", "CD8")


@pytest.mark.parametrize(
    ("old", "new", "batch_size", "message"),
    [
        ("\t1.0", "\t0.0", 8, "expected pairs to train on"),
        ("x", "x", 41, "at least one batch of 41 patches"),
        ("pair_quality", "quality", 8, "found no pair_quality"),
        ("s0\t19\tp0\t1\t1.0\n", "", 8, "slide s0"),
        ("s1\t", "s9\t", 8, "s9.zarr"),
    ],
)
def test_a_cohort_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, old: str, new: str, batch_size: int, message: str
) -> None:
    _, split = write_cohort(tmp_path)
    _rewrite(split, old, new)
    with pytest.raises(StatedError, match=message):
        _rows(tmp_path, batch_size=batch_size)


def test_a_dense_branch_needs_a_dense_side(tmp_path: Path) -> None:
    _, split = write_cohort(tmp_path, panels=((), ()))
    _rewrite(split, "\t0.0", "\t1.0")
    assert len(_rows(tmp_path, ("sparse", "sparse"))) == 40
    with pytest.raises(StatedError, match=r"slide s0.*dense branch.*sparse patches only"):
        _rows(tmp_path)


def test_stores_of_different_resolution_are_refused(tmp_path: Path) -> None:
    write_cohort(tmp_path, panels=(("DAPI",),))
    sparse, dense = draw_pairs(20, 1, 5)
    write_store(tmp_path / "tile" / "s9.zarr", sparse=sparse, dense=dense, slide="s9", markers=("DAPI",), mpp=1.2)
    with (tmp_path / "patches.tsv").open("a") as stream:
        stream.writelines(f"s9\t{row}\tp9\t2\t1.0\n" for row in range(20))
    with pytest.raises(StatedError, match=r"slide s9.*32 px at 1 um/px, as of slide s0, found 32 px at 1.2"):
        _rows(tmp_path)


def test_non_finite_pixels_are_refused_by_slide_and_row(tmp_path: Path) -> None:
    write_cohort(tmp_path, panels=(("DAPI",),))
    sparse, dense = draw_pairs(20, 1, 0)
    broken = dense.astype(np.float32)
    broken[7, 0, 2, 2] = np.nan
    (tmp_path / "tile" / "s0.zarr").rename(tmp_path / "old.zarr")
    write_store(tmp_path / "tile" / "s0.zarr", sparse=sparse, dense=broken, slide="s0", markers=("DAPI",))
    patches = TrainingPatches(_rows(tmp_path), dense=True)
    with pytest.raises(StatedError, match=r"slide s0.*finite pixels.*row 7"):
        patches.dense(np.arange(20))


@pytest.mark.parametrize("budget", [0, 2**30])
def test_memory_and_stores_give_the_same_batches_with_markers_in_their_channels(tmp_path: Path, budget: int) -> None:
    stores, _ = write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True, budget_bytes=budget)
    assert patches.in_memory == (budget > 0)
    numbers = np.array([25, 3, 39, 0])
    second = PatchStore.open(stores / "s1.zarr")
    pixels, present = patches.dense(numbers)
    np.testing.assert_array_equal(patches.sparse(numbers)[0], second.read_sparse([5])[0])
    np.testing.assert_array_equal(pixels[0, [0, 2]], second.read_dense([5])[0])
    assert (pixels[0, 1] == 0).all()
    assert present.tolist() == [[True, False, True], [True, True, False], [True, False, True], [True, True, False]]


def test_batches_come_in_the_order_of_the_seed_and_leave_out_an_incomplete_one(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True)
    order = epoch_order(ALL, seed=3, epoch=1)
    assert np.array_equal(order, epoch_order(ALL, seed=3, epoch=1))
    assert not np.array_equal(order, epoch_order(ALL, seed=3, epoch=2))
    groups = groups_of(order, 12)
    assert [len(group) for group in groups] == [12, 12, 12]
    batches = list(batches_ahead(patches, groups, partners(40, "true", seed=0), dense=True, pin=False))
    for group, batch in zip(groups, batches, strict=True):
        np.testing.assert_array_equal(batch.sparse.numpy(), patches.sparse(group))
        assert batch.dense is not None
        np.testing.assert_array_equal(batch.dense.numpy(), patches.dense(group)[0])


def test_the_number_of_reading_threads_changes_nothing_in_the_batches(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True, budget_bytes=0)
    groups = groups_of(epoch_order(ALL, seed=3, epoch=1), 5)
    shuffled = partners(40, "shuffled", seed=0)
    one, four = (
        list(batches_ahead(patches, groups, shuffled, dense=True, pin=False, threads=threads)) for threads in (1, 4)
    )
    assert len(one) == len(four) == 8
    for left, right in zip(one, four, strict=True):
        for name in ("sparse", "dense", "present"):
            assert torch.equal(getattr(left, name), getattr(right, name))


def test_an_error_of_a_reading_thread_reaches_the_one_who_waits(tmp_path: Path) -> None:
    stores, _ = write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True, budget_bytes=0)
    shard = next((stores / "s1.zarr" / "dense" / "c").rglob("0/0/0/0"))
    shard.write_bytes(b"x" * 100)
    groups = groups_of(np.arange(40), 8)
    with pytest.raises(StatedError, match="broken index"):
        list(batches_ahead(patches, groups, partners(40, "true", seed=0), dense=True, pin=False, threads=2))


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_pairs_leave_no_patch_with_its_own_and_stay_the_same(seed: int) -> None:
    shuffled = partners(50, "shuffled", seed=seed)
    assert shuffled is not None
    assert sorted(shuffled.tolist()) == list(range(50))
    assert (shuffled != np.arange(50)).all()
    assert np.array_equal(shuffled, partners(50, "shuffled", seed=seed))
    assert np.array_equal(partners(50, "true", seed=seed), np.arange(50))


def test_shuffled_shows_the_partners_pixels_and_blank_shows_none(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True)
    numbers = np.array([0, 30, 7])
    shuffled = partners(40, "shuffled", seed=0)
    assert shuffled is not None
    batch = make_batch(patches, numbers, shuffled, dense=True)
    np.testing.assert_array_equal(batch.sparse.numpy(), patches.sparse(numbers))
    np.testing.assert_array_equal(batch.dense.numpy(), patches.dense(shuffled[numbers])[0])  # type: ignore[union-attr]
    blank = make_batch(patches, numbers, partners(40, "blank", seed=0), dense=True)
    assert blank.present is not None
    assert not blank.present.any()


def test_statistics_are_those_of_the_pixels_of_the_slides_that_have_the_marker(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    patches = TrainingPatches(_rows(tmp_path), dense=True)
    everything = patches.sparse(np.arange(40)).reshape(-1, 3) / 255
    colour = colour_statistics(patches.sparse(block) for block in patches.blocks())
    np.testing.assert_allclose(colour.mean, everything.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(colour.std, everything.std(axis=0), rtol=1e-6)
    statistics = marker_statistics(
        patches.rows.markers, lambda: (patches.dense(block) for block in np.split(np.arange(40), 4))
    )
    cd8 = patches.dense(np.arange(20, 40))[0][:, 2].astype(np.float64)
    assert statistics[2].patches == 20
    assert statistics[2].cofactor == pytest.approx(np.abs(cd8).mean(), rel=1e-6)
    compressed = np.log1p(cd8 / np.abs(cd8).mean())
    assert statistics[2].mean == pytest.approx(compressed.mean(), rel=1e-5)
    assert statistics[2].std == pytest.approx(compressed.std(), rel=1e-4)


def test_normalised_markers_are_standard_and_do_not_depend_on_the_unit() -> None:
    random = np.random.default_rng(0)
    values = random.lognormal(3, 1, (30, 2, SIZE_PX, SIZE_PX)).astype(np.float32)
    values[:, 1] = 0
    values[0, 0, 0] *= -1
    present = np.ones((30, 2), dtype=bool)
    results = []
    for unit in (1.0, 1000.0):
        statistics = marker_statistics(("a", "b"), lambda unit=unit: [(values * np.float32(unit), present)])
        normalisation = Normalisation(
            colour_statistics([np.zeros((1, 2, 2, 3), np.uint8)]), statistics, torch.device("cpu")
        )
        results.append(normalisation.dense(torch.from_numpy(values * np.float32(unit))))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)
    assert results[0][:, 0].mean().item() == pytest.approx(0, abs=1e-3)
    assert results[0][:, 0].std().item() == pytest.approx(1, abs=1e-3)
    assert (results[0][:, 1] == 0).all()
