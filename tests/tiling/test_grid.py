"""The lattice of patches and the tissue in it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tiling.grid import lattice, tissue_fraction


@given(
    width=st.integers(50, 3000),
    height=st.integers(50, 3000),
    size_px=st.integers(16, 300),
    ratio=st.floats(1.0, 4.3),
)
def test_squares_lie_on_the_slide_and_do_not_overlap_by_more_than_rounding(
    width: int, height: int, size_px: int, ratio: float
) -> None:
    grid = lattice((width, height), size_px=size_px, mpp=0.5 * ratio, mpp_level0=0.5)
    side = grid.size_level0_px
    assert len(grid.position_px) == int(width / side + 1e-9) * int(height / side + 1e-9)
    if len(grid.position_px):
        assert grid.position_px.min() >= 0
        assert (grid.position_px.max(axis=0) + side <= np.array([width, height]) + 0.5).all()
        for axis in (0, 1):
            steps = np.diff(np.unique(grid.position_px[:, axis]))
            assert (np.abs(steps - side) <= 1).all()


def test_pitch_does_not_drift_where_resolutions_do_not_divide() -> None:
    grid = lattice((100_000, 200), size_px=64, mpp=1.0, mpp_level0=0.499)
    columns = np.unique(grid.position_px[:, 0])
    exact = np.arange(len(columns)) * 64 / 0.499
    assert np.abs(columns - exact).max() <= 0.5


def test_position_in_um_is_the_pixel_centre_in_the_frame() -> None:
    grid = lattice((1000, 1000), size_px=100, mpp=0.5, mpp_level0=0.25)
    np.testing.assert_allclose(grid.position_um, grid.position_px * 0.25)


@given(seed=st.integers(0, 10_000))
def test_tissue_fraction_equals_counting_mask_pixels_when_they_align(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((20, 30)) < rng.random()
    grid = lattice((300, 200), size_px=50, mpp=1.0, mpp_level0=1.0)
    counted = [mask[y // 10 : y // 10 + 5, x // 10 : x // 10 + 5].mean() for x, y in grid.position_px]
    np.testing.assert_allclose(tissue_fraction(grid, mask, 10.0), counted, atol=1e-6)


def test_tissue_fraction_is_exact_for_squares_between_mask_pixels() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:, :5] = True
    grid = lattice((100, 100), size_px=40, mpp=1.0, mpp_level0=1.0)
    by_column = {
        int(x): float(f) for (x, _), f in zip(grid.position_px, tissue_fraction(grid, mask, 10.0), strict=True)
    }
    assert by_column[0] == 1.0
    assert abs(by_column[40] - 0.25) < 1e-6
