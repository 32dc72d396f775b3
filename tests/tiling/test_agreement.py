"""Neighbours of a patch: they speak for one with few nuclei, and not for one with many that matches nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.tiling.agreement import Agreement, Measurements, agreement

SIDE = 20
DENSE_NUCLEI, FEW_NUCLEI = 0.06, 0.01


def _slide(
    shift_um: NDArray[np.float64],
    clear: NDArray[np.bool_],
    contrast: NDArray[np.float64] | None = None,
    pitch_um: float = 125.0,
) -> Agreement:
    """Return the agreement of a square of patches; those that are not clear have no shift."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * pitch_um
    shifts = np.where(clear.ravel()[:, None], shift_um.reshape(-1, 2), np.nan)
    strength = np.full(SIDE**2, DENSE_NUCLEI) if contrast is None else contrast.ravel()
    return agreement(Measurements(centres, shifts, np.where(clear.ravel(), 0.8, 0.0), strength), pitch_um)


def _small_shifts() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 0.5, (SIDE, SIDE, 2))


def test_a_patch_with_few_nuclei_takes_the_shift_of_its_neighbours() -> None:
    shifts = _small_shifts() + np.array([3.0, 4.0])
    clear = np.ones((SIDE, SIDE), np.bool_)
    contrast = np.full((SIDE, SIDE), DENSE_NUCLEI)
    clear[7, 9], contrast[7, 9] = False, FEW_NUCLEI
    found = _slide(shifts, clear, contrast)
    row = 7 * SIDE + 9
    assert found.borne[row]
    assert not found.clear[row]
    assert abs(found.residual_um[row] - 5.0) < 0.7


def test_many_nuclei_without_a_match_are_no_pair_even_among_good_neighbours() -> None:
    clear = np.ones((SIDE, SIDE), np.bool_)
    contrast = np.full((SIDE, SIDE), DENSE_NUCLEI)
    few = np.random.default_rng(1).choice(SIDE**2, 24, replace=False)
    clear.flat[few], contrast.flat[few] = False, FEW_NUCLEI
    row = int(np.setdiff1d(np.arange(SIDE**2), few)[150])
    clear.flat[row] = False
    found = _slide(_small_shifts(), clear, contrast)
    assert not found.borne[row]
    assert np.isnan(found.residual_um[row])
    assert found.borne[few].mean() > 0.9


def test_a_region_where_nothing_matches_is_no_pair() -> None:
    """One in eight of its patches shows a clear shift by chance, some of these a small one."""
    rng = np.random.default_rng(2)
    shifts, clear = _small_shifts(), rng.uniform(size=(SIDE, SIDE)) < 0.94
    contrast = np.where(clear, DENSE_NUCLEI, FEW_NUCLEI)
    lost = np.zeros((SIDE, SIDE), np.bool_)
    lost[:, 12:] = True
    clear[lost] = rng.uniform(size=lost.sum()) < 0.125
    shifts[lost] = rng.uniform(-24, 24, (lost.sum(), 2))
    found = _slide(shifts, clear, contrast)
    usable = (found.borne & ~(found.residual_um > 8)).reshape(SIDE, SIDE)
    assert usable[:, :11].mean() > 0.97
    assert usable[:, 13:].mean() < 0.03


def test_a_region_that_is_shifted_as_a_whole_keeps_its_shift() -> None:
    shifts = _small_shifts()
    shifts[:, 10:] += np.array([0.0, 12.0])
    clear = np.random.default_rng(3).uniform(size=(SIDE, SIDE)) < 0.95
    contrast = np.where(clear, DENSE_NUCLEI, FEW_NUCLEI)
    residual = _slide(shifts, clear, contrast).residual_um.reshape(SIDE, SIDE)
    assert np.nanmax(residual[:, :9]) < 4
    assert np.nanmin(residual[:, 11:]) > 8


def test_a_patch_between_fields_of_a_mosaic_rests_on_its_own_measurement() -> None:
    """Four fields meet, each put down wrong by its own 6 um: hardly a neighbour shares a shift, and all match."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    angle = np.pi / 2 * (x % 2) + np.pi * (y % 2)
    shifts = _small_shifts() + 6 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    found = _slide(shifts, np.ones((SIDE, SIDE), np.bool_))
    assert found.borne.all()
    np.testing.assert_allclose(found.residual_um, np.linalg.norm(shifts, axis=-1).ravel(), rtol=1e-6)


def test_small_patches_that_mostly_show_nothing_rest_on_those_that_do() -> None:
    """Of patches of 40 um half are silent where the sides agree, whatever their nuclei: silence says nothing there."""
    rng = np.random.default_rng(4)
    clear = rng.uniform(size=(SIDE, SIDE)) < 0.5
    found = _slide(_small_shifts(), clear, rng.uniform(0.02, 0.08, (SIDE, SIDE)), 40.0)
    assert found.borne.mean() > 0.95


def test_where_nuclei_are_no_measure_every_patch_stays() -> None:
    found = _slide(_small_shifts(), np.zeros((SIDE, SIDE), np.bool_), np.full((SIDE, SIDE), np.nan))
    assert found.borne.all()
    assert np.isnan(found.residual_um).all()


def test_a_slide_on_which_nothing_agrees_has_no_pairs() -> None:
    rng = np.random.default_rng(5)
    clear = rng.uniform(size=(SIDE, SIDE)) < 0.12
    found = _slide(rng.uniform(-24, 24, (SIDE, SIDE, 2)), clear)
    assert (found.borne & ~(found.residual_um > 8)).mean() < 0.03


def test_one_patch_and_none_are_judged_alone() -> None:
    alone = Measurements(np.zeros((1, 2)), np.ones((1, 2)), np.ones(1), np.ones(1))
    assert agreement(alone, 100.0).borne.tolist() == [True]
    nothing = Measurements(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))
    assert len(agreement(nothing, 100.0).residual_um) == 0
