"""From masks to polygons and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from pipeline.tiling.outlines import paint, polygons_of

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def _painted(polygons: list[list[NDArray[np.float64]]], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """How many polygons each pixel's centre lies in."""
    total = np.zeros(shape, np.uint8)
    for polygon in polygons:
        one = np.zeros(shape, np.uint8)
        paint(one, polygon, 1, np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
        total += one
    return total


@given(MASKS)
def test_outlines_paint_the_very_mask_they_were_drawn_from(mask: NDArray[np.bool_]) -> None:
    polygons = [[ring.astype(float) for ring in rings] for rings in polygons_of(mask)]
    np.testing.assert_array_equal(_painted(polygons, mask.shape), mask.astype(np.uint8))


@given(MASKS)
def test_rings_do_not_touch_themselves_and_enclose_the_masks_area(mask: NDArray[np.bool_]) -> None:
    area = 0.0
    for rings in polygons_of(mask):
        for index, ring in enumerate(rings):
            steps = np.roll(ring, -1, axis=0) - ring
            assert len(np.unique(ring, axis=0)) == len(ring)
            assert ((steps == 0).sum(axis=1) == 1).all(), "edges run along pixels"
            x, y = ring.T
            size = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
            area += -size if index else size
    assert area == mask.sum()


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=12))
def test_painting_counts_crossings_of_any_ring_even_one_that_crosses_itself(ring: list[tuple[float, float]]) -> None:
    points = np.array(ring)
    centres = np.stack(np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5), axis=-1).reshape(-1, 2)
    edges = np.stack([points, np.roll(points, -1, axis=0)], axis=1)
    inside = np.zeros(len(centres), np.bool_)
    near = np.zeros(len(centres), np.bool_)
    for (x0, y0), (x1, y1) in edges:
        near |= _distance(centres, np.array([x0, y0]), np.array([x1, y1])) < 1e-6
        if y0 != y1:
            between = (centres[:, 1] >= min(y0, y1)) & (centres[:, 1] < max(y0, y1))
            inside ^= between & (centres[:, 0] > x0 + (centres[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    found = _painted([[points]], (20, 20)).reshape(-1) > 0
    np.testing.assert_array_equal(found[~near], inside[~near])


def _distance(points: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    along = np.clip((points - a) @ (b - a) / max(1e-300, float((b - a) @ (b - a))), 0, 1)
    return np.linalg.norm(points - a - along[:, None] * (b - a), axis=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_a_full_mask_is_one_rectangle(shape: tuple[int, int]) -> None:
    [[ring]] = polygons_of(np.ones(shape, np.bool_))
    assert len(ring) == 4
    assert ring.min() == 0
    assert ring.max(axis=0).tolist() == [shape[1], shape[0]]


def test_an_empty_mask_has_no_outline() -> None:
    assert polygons_of(np.zeros((4, 4), np.bool_)) == []
