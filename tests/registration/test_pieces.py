"""Tissue that was torn or lost between two stains: each part gets its own pose, and what is lost is named."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from numpy.typing import NDArray
from synthetic_pair import SyntheticPair, synthetic_pair

from pipeline.registration.areas import place_words
from pipeline.registration.blocks_engine import align
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.pair import Pair
from pipeline.registration.piecewise import LabelGrid, filled, with_inverse
from pipeline.registration.qc_file import to_mapping
from pipeline.registration.quality import determinant_range, fold_fraction
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

SIDE_UM = 1536


@pytest.fixture(scope="module")
def drawn() -> SyntheticPair:
    """Both grids at 1 um per pixel, not turned: the dense frame is the sparse one but for a shift."""
    return synthetic_pair(23, deformation_um=5.0, side_um=SIDE_UM, mpp=(1.0, 1.0))


def _changed(drawn: SyntheticPair, stack: NDArray[np.uint16]) -> Pair:
    dense = ArraySlide(stack, mpp=1.0, downsamples=(1, 2, 4), channels=("CD3", "DAPI"))
    return Pair.of(drawn.sparse, dense, drawn.mpp, None)


def _whole(drawn: SyntheticPair) -> NDArray[np.uint16]:
    pixels: NDArray[np.uint16] = drawn.dense.read_region(0, (0, 0), drawn.dense.header.size_xy)
    return pixels


def test_both_sides_of_a_tear_are_right(drawn: SyntheticPair) -> None:
    """The right part has moved by 150 um and turned by 3 degrees."""
    stack = cv2.copyMakeBorder(_whole(drawn), 0, 250, 0, 300, cv2.BORDER_CONSTANT, value=(100, 200))
    cut = int(drawn.truth(np.array([[SIDE_UM * 0.55, SIDE_UM / 2]]))[0, 0])
    height, width = stack.shape[:2]
    move = cv2.getRotationMatrix2D((cut + 350, height / 2), 3.0, 1.0) + np.array([[0, 0, 130], [0, 0, 75]])
    right = np.arange(width) >= cut
    part = np.where(right[None, :, None], stack, 0)
    covered = cv2.warpAffine(np.tile(right.astype(np.float32), (height, 1)), move, (width, height)) > 0.5
    torn = np.where(right[None, :, None], np.array([100, 200], np.uint16), stack)
    torn = np.where(covered[..., None], cv2.warpAffine(part, move, (width, height)), torn).astype(np.uint16)
    transform, quality = align(_changed(drawn, torn), RegisterSettings())
    there = drawn.truth(drawn.nuclei_um)
    moved = there[:, 0] >= cut
    there[moved] = there[moved] @ move[:, :2].T + move[:, 2]
    clear = np.abs(drawn.truth(drawn.nuclei_um)[:, 0] - cut) > 60
    error = np.linalg.norm(transform.to_dense(drawn.nuclei_um) - there, axis=1)
    assert np.mean(error[clear] < 4) > 0.9
    back = np.linalg.norm(transform.to_sparse(there) - drawn.nuclei_um, axis=1)
    assert np.mean(back[clear] < 4) > 0.9
    assert quality.verdict == "warn"
    assert any("registered separately" in reason for reason in quality.reasons)
    assert 100 < quality.pieces[0].shift_um < 250
    assert quality.fold_fraction == 0
    assert quality.round_trip_um < 1
    assert quality.steps[-1].name == "pieces"


@pytest.mark.parametrize("degrees", [90.0, 180.0])
def test_a_fragment_is_found_however_it_turned(drawn: SyntheticPair, degrees: float) -> None:
    """The right part has come off, turned, and lies below the rest."""
    whole = _whole(drawn)
    height, width = whole.shape[:2]
    cut = int(drawn.truth(np.array([[SIDE_UM * 0.58, SIDE_UM / 2]]))[0, 0])
    stack = cv2.copyMakeBorder(whole, 0, height, 0, 0, cv2.BORDER_CONSTANT, value=(100, 200))
    middle = ((cut + width) / 2, height / 2)
    move = cv2.getRotationMatrix2D(middle, degrees, 1.0) + np.array([[0, 0, width / 2 - middle[0]], [0, 0, height]])
    came_off = np.arange(width) >= cut
    part = np.where(came_off[None, :, None], stack, 0)
    covered = cv2.warpAffine(np.tile(came_off.astype(np.float32), (height, 1)), move, (width, 2 * height)) > 0.5
    stack[:, cut:] = (100, 200)
    stack = np.where(covered[..., None], cv2.warpAffine(part, move, (width, 2 * height)), stack).astype(np.uint16)
    transform, quality = align(_changed(drawn, stack), RegisterSettings())
    there = drawn.truth(drawn.nuclei_um)
    clear, moved = np.abs(there[:, 0] - cut) > 60, there[:, 0] >= cut
    there[moved] = there[moved] @ move[:, :2].T + move[:, 2]
    error = np.linalg.norm(transform.to_dense(drawn.nuclei_um) - there, axis=1)
    assert np.mean(error[clear & ~moved] < 4) > 0.9
    assert np.mean(error[clear & moved] < 4) > 0.9
    assert quality.verdict == "warn"
    assert abs(abs(quality.pieces[0].degrees) - degrees) < 1
    assert quality.areas == ()


@pytest.mark.parametrize("noise", [0.0, 1.0], ids=["flat", "camera noise"])
def test_lost_tissue_is_named_with_its_share_and_place(drawn: SyntheticPair, noise: float) -> None:
    stack = _whole(drawn).copy()
    cut = int(drawn.truth(np.array([[SIDE_UM / 2, SIDE_UM * 0.62]]))[0, 1])
    stack[cut:] = 200 + noise * (np.random.default_rng(0).poisson(200, stack[cut:].shape) - 200.0)
    transform, quality = align(_changed(drawn, stack), RegisterSettings())
    kept = drawn.truth(drawn.nuclei_um)[:, 1] < cut - 60
    error = np.linalg.norm(transform.to_dense(drawn.nuclei_um) - drawn.truth(drawn.nuclei_um), axis=1)
    assert np.percentile(error[kept], 90) < 2
    assert quality.verdict == "warn"
    assert quality.pieces == ()
    share = np.mean(drawn.truth(drawn.nuclei_um)[:, 1] >= cut)
    assert abs(sum(area.share for area in quality.areas) - share) < 0.12
    assert quality.areas[0].place.startswith("lower")
    assert any("matches nothing on the dense slide (lower" in reason for reason in quality.reasons)
    assert to_mapping(quality)["areas"][0]["box_um"][1] > SIDE_UM * 0.5


def test_tissue_that_was_never_imaged_is_not_told_as_lost(drawn: SyntheticPair) -> None:
    stack = _whole(drawn).copy()
    cut = int(drawn.truth(np.array([[SIDE_UM / 2, SIDE_UM * 0.62]]))[0, 1])
    stack[cut:] = 0
    pair = _changed(drawn, stack)
    _, quality = align(replace(pair, dense=pair.dense.without_void(4.0)), RegisterSettings())
    share = np.mean(drawn.truth(drawn.nuclei_um)[:, 1] >= cut)
    assert quality.not_imaged_share == pytest.approx(share, abs=0.12)
    assert (quality.verdict, quality.areas) == ("pass", ())
    assert any("(lower" in reason and reason.endswith("never imaged") for reason in quality.reasons)
    assert to_mapping(quality)["not_imaged_share"] == round(quality.not_imaged_share, 4)


def test_an_intact_pair_has_no_areas_and_no_pieces(drawn: SyntheticPair) -> None:
    _, quality = align(Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None), RegisterSettings())
    assert (quality.verdict, quality.areas, quality.pieces) == ("pass", (), ())


def _two_halves() -> tuple[list[Transform], LabelGrid]:
    """The right half of 1.6 mm moved on by 200 um; between the halves nothing."""
    grid = DisplacementGrid.covering((0.0, 0.0), (1600.0, 800.0), 16.0)
    _, height, width = grid.values_um.shape
    labels = np.zeros((height, width), np.int64)
    labels[:, width // 2 :] = 1
    maps = [Transform(np.array([[1.0, 0, 50], [0, 1, 30]])), Transform(np.array([[1.0, 0, 250], [0, 1, 30]]))]
    return maps, LabelGrid(grid.origin_um, grid.spacing_um, labels)


def test_a_joined_map_follows_each_piece_there_and_back() -> None:
    maps, nodes = _two_halves()
    transform, seams = with_inverse(maps, nodes, np.array([[0.0, 0.0], [2000.0, 900.0]]))
    points = np.array([[200.0, 300.0], [700.0, 10.0], [1000.0, 400.0], [1500.0, 700.0]])
    there = transform.to_dense(points)
    np.testing.assert_allclose(there - points, [[50, 30], [50, 30], [250, 30], [250, 30]], atol=1e-3)
    np.testing.assert_allclose(transform.to_sparse(there), points, atol=1e-3)
    assert seams.clear_of(points, there).all()
    assert not seams.clear_of(np.array([[795.0, 300.0]]), transform.to_dense(np.array([[795.0, 300.0]]))).any()


def test_a_seam_is_no_fold_and_a_fold_elsewhere_is_still_one() -> None:
    maps, nodes = _two_halves()
    maps[1] = Transform(np.array([[1.0, 0, -350], [0, 1, 30]]))
    transform, seams = with_inverse(maps, nodes, np.array([[0.0, 0.0], [2000.0, 900.0]]))
    assert fold_fraction(transform) > 0
    assert fold_fraction(transform, seams) == 0
    assert determinant_range(transform, seams) == pytest.approx((1.0, 1.0), abs=1e-4)
    assert transform.forward is not None
    values = transform.forward.values_um.copy()
    values[0, 5:9, 10] += 60
    folded = replace(transform, forward=replace(transform.forward, values_um=values))
    assert fold_fraction(folded, seams) > 0


def test_unknown_nodes_take_the_label_of_the_nearest_known_one() -> None:
    labels = np.array([[1, 0, 0, 0, 2]])
    known = np.array([[True, False, False, False, True]])
    assert filled(labels, known)[0, [0, 1, 3, 4]].tolist() == [1, 1, 2, 2]
    assert filled(labels, np.zeros_like(known)).tolist() == [[0] * 5]


@pytest.mark.parametrize(
    ("box", "centre", "share", "words"),
    [
        ([[600, 0], [1000, 1000]], [800, 500], 0.33, "right third"),
        ([[0, 500], [1000, 1000]], [500, 750], 0.5, "lower half"),
        ([[0, 0], [300, 300]], [150, 150], 0.06, "upper left"),
        ([[350, 350], [650, 650]], [500, 500], 0.06, "middle"),
        ([[0, 0], [1000, 1000]], [500, 500], 0.9, "nearly everywhere"),
    ],
)
def test_places_are_told_in_words(box: list[list[float]], centre: list[float], share: float, words: str) -> None:
    tissue = np.array([[0.0, 0.0], [1000.0, 1000.0]])
    assert place_words(np.array(box, float), np.array(centre, float), share, tissue) == words
