"""The second search: small regions and overlaps, foreign matter and empty glass, on drawn densities of known pose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from hard_pairs import outcome
from numpy.typing import NDArray
from real_pairs import real_tries
from synthetic_pair import smooth_noise

from pipeline.registration import second_search
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.pair import Pair, domain_of_map, sparse_overview, tissue_of, within_glass, without_glass

_MPP = 8.0
_SIDE_PX = 400


def _tissue(seed: int) -> NDArray[np.float32]:
    """Density that varies over 30 um and is nowhere bare."""
    return np.exp(0.3 * smooth_noise(np.random.default_rng(seed), (_SIDE_PX, _SIDE_PX), 4)).astype(np.float32)


def _image(values: NDArray[np.float32]) -> NuclearImage:
    return NuclearImage(values, np.ones(values.shape, np.bool_), (0.0, 0.0), _MPP)


def _seen(
    values: NDArray[np.float32], degrees: float, mirrored: bool, middle_px: tuple[float, float], side_px: int
) -> tuple[NuclearImage, Any]:
    """Return a square of the tissue about a middle, turned, and the affine map of um that leads there."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix = matrix @ np.diag([-1.0, 1.0])
    pixels = np.column_stack([matrix, (side_px - 1) / 2 - matrix @ np.array(middle_px)])
    laid: Any = cv2.warpAffine(values, pixels, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return _image(laid.astype(np.float32)), np.column_stack([pixels[:, :2], pixels[:, 2] * _MPP])


def _error_um(sparse: NuclearImage, dense: NuclearImage, truth: Any) -> float:
    """Return how far the best pose, sharpened, is off at the middle of what both share."""
    pose = second_search.zoomed(second_search.search(sparse, dense)[0].pose, sparse, dense)
    side = (dense.inside.shape[0] - 1) / 2 * _MPP
    middle = np.linalg.solve(truth[:, :2], np.array([side, side]) - truth[:, 2])
    return float(np.linalg.norm((pose.affine - truth) @ np.append(middle, 1)))


@pytest.mark.parametrize(("degrees", "mirrored", "middle"), [(12, False, (280, 120)), (-130, True, (90, 310))])
def test_small_region_is_found_in_a_large_slide(degrees: float, mirrored: bool, middle: tuple[float, float]) -> None:
    values = _tissue(1)
    dense, truth = _seen(values, degrees, mirrored, middle, 90)
    assert _error_um(_image(values), dense, truth) < 2 * _MPP
    assert second_search.margin(second_search.search(_image(values), dense)) > 0.1


@pytest.mark.parametrize(("degrees", "mirrored"), [(8, False), (100, True)])
def test_overlap_of_a_quarter_is_found(degrees: float, mirrored: bool) -> None:
    values = _tissue(2)
    sparse = _image(values[:, :240].copy())
    rest = values.copy()
    rest[:, :170] = 0
    dense, truth = _seen(rest, degrees, mirrored, (285, 200), _SIDE_PX)
    pose = second_search.zoomed(second_search.search(sparse, dense)[0].pose, sparse, dense)
    shared = np.array([205 * _MPP, 200 * _MPP, 1])
    assert float(np.linalg.norm((pose.affine - truth) @ shared)) < 2 * _MPP


def test_bubble_and_gradient_do_not_decide() -> None:
    values = _tissue(3)
    dense, truth = _seen(values, -15, False, (200, 200), 520)
    seen = dense.values
    y, x = np.mgrid[0:520, 0:520]
    bubble = np.hypot(x - 160, y - 330) < 100
    blurred: Any = cv2.GaussianBlur(seen, (0, 0), 12)
    spoilt = np.where(bubble, blurred + 3, seen) * (0.5 + x / 520)
    assert _error_um(_image(values), _image(spoilt.astype(np.float32)), truth) < 2 * _MPP


def test_unrelated_slides_have_no_margin() -> None:
    candidates = second_search.search(_image(_tissue(4)), _image(_tissue(5)))
    assert second_search.margin(candidates) < 0.05


def test_blank_slide_has_no_candidates() -> None:
    blank = _image(np.zeros((64, 64), np.float32))
    assert second_search.search(_image(_tissue(4)), blank) == []
    assert second_search.margin([]) == 0.0


def test_tissue_is_told_from_dull_glass_however_little_it_is() -> None:
    values = np.full((1000, 1000), 0.025, np.float32)
    values[500:550, 300:400] = 0.3
    tissue = tissue_of(_image(values))
    assert tissue.inside[505:545, 305:395].all()
    assert tissue.inside.sum() < 1.5 * 50 * 100


def test_glass_is_left_out_of_the_search_and_crumbs_do_not_widen_it() -> None:
    values = np.zeros((1000, 1000), np.float32)
    values[500:600, 300:400] = 0.3
    values[20:30, 950:960] = 0.3
    part = without_glass(_image(values))
    assert max(part.inside.shape) < 250
    low, high = part.to_um(np.array([[0, 0], [part.inside.shape[1] - 1, part.inside.shape[0] - 1]]))
    assert (low <= [300 * _MPP, 500 * _MPP]).all()
    assert (high >= [399 * _MPP, 599 * _MPP]).all()
    full = _image(_tissue(1))
    assert without_glass(full) is full


def test_ink_shows_no_nuclei() -> None:
    rgb = np.full((800, 800, 3), 243, np.uint8)
    rgb[300:500, 300:500] = (120, 80, 160)
    cv2.line(rgb, (0, 100), (799, 100), (40, 60, 190), 90)
    source = NuclearSource(ArraySlide(rgb, mpp=4.0), 4.0, None)
    image = sparse_overview(source)
    assert image.values[75:125].max() == 0
    assert image.values[310:490, 310:490].min() > 0.1
    assert not tissue_of(image).inside[:140].any()


def _glass_pair() -> tuple[Pair, NuclearImage]:
    """Return a glass of 24 x 16 mm with tissue of 1 mm at (9, 9) mm, and a dense slide of 2 mm."""
    sparse = ArraySlide(np.full((4000, 6000, 3), 243, np.uint8), mpp=4.0)
    dense = ArraySlide(np.full((500, 500, 3), 243, np.uint8), mpp=4.0)
    pair = Pair(NuclearSource(sparse, 4.0, None), NuclearSource(dense, 4.0, None), "DAPI")
    inside = np.zeros((4000, 6000), np.bool_)
    inside[2125:2375, 2125:2375] = True
    return pair, NuclearImage(inside.astype(np.float32), inside, (0.0, 0.0), 4.0)


def test_field_reaches_no_farther_than_the_dense_slide() -> None:
    pair, tissue = _glass_pair()
    everywhere = replace(tissue, inside=np.ones_like(tissue.inside))
    low, high = domain_of_map(pair, np.array([[1.0, 0, -8000], [0, 1.0, -8000]]), everywhere)
    assert (low < 7000).all()
    assert (low > 6000).all()
    assert (high > 11000).all()
    assert (high < 12000).all()
    # A map that puts nothing on the dense slide bounds nothing.
    away = np.array([[1.0, 0, 90000], [0, 1.0, 0]])
    np.testing.assert_array_equal(domain_of_map(pair, away, everywhere), pair.sparse.extent_um)


def test_field_on_a_glass_covers_the_tissue_and_a_margin() -> None:
    pair, tissue = _glass_pair()
    low, high = domain_of_map(pair, np.array([[1.0, 0, -8000], [0, 1.0, -8000]]), tissue)
    np.testing.assert_allclose(low, 8500 - 300)
    np.testing.assert_allclose(high, 9496 + 300)


def test_glass_around_a_tissue_mask_is_cut_off_without_moving_the_rest() -> None:
    _, tissue = _glass_pair()
    part = within_glass(tissue)
    assert part.inside.size < tissue.inside.size / 50
    held, whole = (image.to_um(np.argwhere(image.inside)[:, ::-1]) for image in (part, tissue))
    np.testing.assert_allclose(held, whole)
    full = replace(tissue, inside=np.ones_like(tissue.inside))
    assert within_glass(full) is full


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.usefixtures("real_data")
def test_real_pairs_that_a_search_of_the_whole_loses_are_found() -> None:
    found = [outcome(tried) for tried in real_tries()]
    assert [(one.tried.case, one.median_um, one.p90_um) for one in found if not one.right or one.lost] == []
