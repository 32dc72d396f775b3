"""The shift left in one patch: known shifts are found, unrelated and empty patches are not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from synthetic_pair import SyntheticPair, Truth, synthetic_pair

from pipeline.errors import StatedError
from pipeline.registration.patch_residual import PatchResidual, overlap_correlation, patch_residual
from pipeline.registration.stain import hematoxylin, nuclear_channel

PATCH_PX = 256
SHIFTS_UM = (0.0, 2.0, 4.0, 8.0, 16.0)


@pytest.fixture(scope="module")
def pair() -> SyntheticPair:
    """One section on two grids that differ by a shift of whole pixels only."""
    drawn = synthetic_pair(11, deformation_um=0.0, mpp=(1.0, 1.0), side_um=1024, whole_shift=True)
    assert isinstance(drawn.truth, Truth)
    return drawn


def measured(pair: SyntheticPair, corner: tuple[int, int], shift_px: tuple[int, int]) -> PatchResidual:
    """The residual of a patch whose dense side was cut out `shift_px` away from its place."""
    x, y = corner
    place = np.rint(pair.truth(np.array([[x, y]], np.float64))[0]).astype(int) + shift_px
    rgb = pair.sparse.read_region(0, (x, y), (PATCH_PX, PATCH_PX))
    dense = pair.dense.read_region(0, (int(place[0]), int(place[1])), (PATCH_PX, PATCH_PX), [1])[..., 0]
    return patch_residual(rgb, dense, 1.0)


def corners() -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [(int(x), int(y)) for x, y in rng.integers(250, 520, (24, 2))]


def directed(shift_um: float, seed: int) -> tuple[int, int]:
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
    return round(shift_um * np.cos(angle)), round(shift_um * np.sin(angle))


@pytest.mark.parametrize("shift_um", SHIFTS_UM)
def test_injected_shifts_are_recovered(pair: SyntheticPair, shift_um: float) -> None:
    shifts = [directed(shift_um, i) for i in range(24)]
    found = [measured(pair, corner, shift) for corner, shift in zip(corners(), shifts, strict=True)]
    wrong = [abs(x.residual_um - np.hypot(*shift)) for x, shift in zip(found, shifts, strict=True)]
    assert np.median(wrong) < 0.15
    assert np.max(wrong) < 0.5
    assert min(x.confidence for x in found) > 0.3


@pytest.mark.parametrize(("shift_um", "least"), [(2.0, 0.98), (4.0, 0.99)])
def test_shifted_patches_are_told_from_aligned_ones(pair: SyntheticPair, shift_um: float, least: float) -> None:
    aligned = [measured(pair, corner, (0, 0)).residual_um for corner in corners()]
    shifted = [measured(pair, corner, directed(shift_um, i)).residual_um for i, corner in enumerate(corners())]
    assert np.mean([[b > a for a in aligned] for b in shifted]) >= least


@pytest.mark.parametrize(("blank", "most"), [(True, 0.1), (False, 0.25)])
def test_a_patch_that_is_torn_off_beyond_its_middle_shows_no_residual(
    pair: SyntheticPair, blank: bool, most: float
) -> None:
    """One side still matches by itself; the middle and the other side show glass or other tissue."""
    side, torn = 96, 72
    kept = 0
    for x, y in corners():
        place = np.rint(pair.truth(np.array([[x, y]], np.float64))[0]).astype(int)
        rgb = pair.sparse.read_region(0, (x, y), (side, side))
        dense = pair.dense.read_region(0, (int(place[0]), int(place[1])), (side, side), [1])[..., 0].copy()
        whole = patch_residual(rgb, dense, 1.0).residual_um
        other = pair.dense.read_region(0, (int(place[0]) + 150, int(place[1])), (torn, side), [1])[..., 0]
        dense[:, :torn] = np.percentile(dense, 5) if blank else other
        kept += bool(np.isfinite(patch_residual(rgb, dense, 1.0).residual_um))
        assert whole < 1
    assert kept <= most * len(corners())


@pytest.mark.realdata
def test_shifted_patches_are_told_from_aligned_ones_on_a_real_section(real_data: Path) -> None:
    """Orion `west`, its own constant offset taken out so that aligned is aligned."""
    folder = real_data / "orion_crc01"
    he = tifffile.imread(folder / "west_he.tif", key=0)
    hoechst = tifffile.imread(folder / "west_mif.ome.tif", key=0)
    rng = np.random.default_rng(0)
    residuals: dict[float, list[float]] = {0.0: [], 2.0: [], 4.0: []}
    while len(residuals[0.0]) < 40:
        x, y = int(rng.integers(50, 7800)), int(rng.integers(50, 5800))
        rgb = he[y : y + PATCH_PX, x : x + PATCH_PX]
        if rgb.mean() > 215:
            continue
        for shift_um, found in residuals.items():
            angle = rng.uniform(0, 2 * np.pi)
            across, down = (0.46 + shift_um * np.cos(angle)) / 1.3, (0.73 + shift_um * np.sin(angle)) / 1.3
            place = np.array([[1, 0, x + across], [0, 1, y + down]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            found.append(
                patch_residual(rgb, cv2.warpAffine(hoechst, place, rgb.shape[:2], flags=flags), 1.3).residual_um
            )
    for shift_um, least in ((2.0, 0.98), (4.0, 0.99)):
        assert np.mean([[b > a for a in residuals[0.0]] for b in residuals[shift_um]]) >= least


def test_correlation_at_each_shift_is_that_of_what_both_share() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 21, 24)).astype(np.float32)
    scores = overlap_correlation(first, second, 5)
    for down, across in ((0, 0), (5, -5), (-3, 4), (2, 0)):
        here = first[max(0, -down) : 21 - max(0, down), max(0, -across) : 24 - max(0, across)]
        there = second[max(0, down) : 21 + min(0, down), max(0, across) : 24 + min(0, across)]
        expected = (here * there).sum() / np.sqrt((here**2).sum() * (there**2).sum())
        assert scores[down + 5, across + 5] == pytest.approx(expected, abs=1e-5)


def test_unrelated_patches_are_not_believed(pair: SyntheticPair) -> None:
    true = [measured(pair, corner, (0, 0)).confidence for corner in corners()]
    unrelated = [measured(pair, corner, (150, -90)).confidence for corner in corners()]
    assert np.median(unrelated) < 0.15
    assert np.mean(np.array(unrelated) < min(true)) > 0.9


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_fine_patches_are_measured_in_um(mpp: float) -> None:
    drawn = synthetic_pair(12, deformation_um=0.0, mpp=(mpp, mpp), side_um=320, whole_shift=True)
    centre = round(120 / mpp)
    place = np.rint(drawn.truth(np.full((1, 2), centre * mpp))[0] / mpp).astype(int) + round(4 / mpp)
    rgb = drawn.sparse.read_region(0, (centre, centre), (PATCH_PX, PATCH_PX))
    dense = drawn.dense.read_region(0, (int(place[0]), int(place[1])), (PATCH_PX, PATCH_PX), [1])[..., 0]
    assert patch_residual(rgb, dense, mpp).residual_um == pytest.approx(4 * 2**0.5, abs=0.6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_nothing_is_said_of_empty_patches(pair: SyntheticPair, dtype: Any) -> None:
    rgb = pair.sparse.read_region(0, (400, 400), (PATCH_PX, PATCH_PX))
    white = np.full_like(rgb, 255)
    blank = np.zeros((PATCH_PX, PATCH_PX), dtype)
    for found in (patch_residual(rgb, blank, 1.0), patch_residual(white, blank, 1.0)):
        assert np.isnan(found.residual_um)
        assert found.confidence == 0


def test_hematoxylin_separates_the_stains() -> None:
    blue = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
    pink = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])
    pixels = np.rint(255 * 10 ** -np.stack([0.6 * blue, 0.6 * pink, 0.4 * blue + 0.4 * pink, 0 * blue])).astype(
        np.uint8
    )
    np.testing.assert_allclose(hematoxylin(pixels[None])[0], [0.6, 0, 0.4, 0], atol=0.01)


@pytest.mark.parametrize(
    ("channels", "index"),
    [
        (["CD3", "DAPI"], 1),
        (["Autofluorescence", "Hoechst"], 1),
        (["DNA1", "CD45", "DNA2"], 0),
        (["CD3", "DAPI-01", "DAPI-02"], 1),
        (["Opal 520", "dapi (MSI)"], 1),
        (["hoechst33342", "PD-1"], 0),
        (["DNAM-1", "DAPI"], 1),
        (["B7-H3", "H3"], 1),
    ],
)
def test_nuclear_channel_is_found_by_name(channels: list[str], index: int) -> None:
    assert nuclear_channel(channels, None) == index


def test_wanted_channel_wins_and_unknown_ones_are_stated() -> None:
    assert nuclear_channel(["DAPI", "Iridium"], "iridium") == 1
    with pytest.raises(StatedError, match="CD3, CD8"):
        nuclear_channel(["CD3", "CD8"], None)
    with pytest.raises(StatedError, match="Hoechst"):
        nuclear_channel(["CD3", "DAPI"], "Hoechst")
