"""Patches are taken at the resolution and place that the frame says."""

from __future__ import annotations

import numpy as np
import pytest
from array_slide import ArraySlide
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from pipeline.registration.transform import Transform
from pipeline.tiling.grid import Grid, lattice
from pipeline.tiling.sampling import read_dense_patch, read_sparse_patch


def _grid(size_px: int, mpp: float, mpp_level0: float) -> Grid:
    return Grid(size_px, mpp, mpp_level0, np.zeros((0, 2), dtype=np.int64))


def _ramp(height: int, width: int) -> NDArray[np.float32]:
    """Channel 0 is the x, channel 1 the y index of each pixel."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y], axis=-1).astype(np.float32)


def test_native_patch_is_the_slide_bit_for_bit() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    slide = ArraySlide(rgb, downsamples=(1, 2, 4))
    patch = read_sparse_patch(slide, _grid(64, 0.5, 0.5), np.array([37, 101]))
    np.testing.assert_array_equal(patch, rgb[101:165, 37:101])
    assert slide.reads == [(0, (64, 64))]


def test_patch_at_the_mpp_of_a_level_is_that_level_bit_for_bit() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    slide = ArraySlide(rgb, downsamples=(1, 4))
    patch = read_sparse_patch(slide, _grid(32, 2.0, 0.5), np.array([128, 64]))
    np.testing.assert_array_equal(patch, slide.levels[1][16:48, 32:64])


@pytest.mark.parametrize("mpp", [0.61, 1.0, 1.37, 2.9])
def test_resampled_patch_shows_each_pixel_at_its_um(mpp: float) -> None:
    """On a linear ramp any symmetric filter returns the ramp at the pixel's centre: the frame decides, not the blur."""
    height, width = 400, 500
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(width)[None, :] // 2
    ramp[..., 1] = np.arange(height)[:, None] // 2
    slide = ArraySlide(ramp, downsamples=(1, 2))
    corner = np.array([96, 48])
    patch = read_sparse_patch(slide, _grid(40, mpp, 0.5), corner).astype(float)
    beyond = (np.arange(40) + 0.5) * mpp / 0.5 - 0.5
    np.testing.assert_allclose(patch[20, :, 0], (corner[0] + beyond) / 2 - 0.25, atol=0.9)
    np.testing.assert_allclose(patch[:, 20, 1], (corner[1] + beyond) / 2 - 0.25, atol=0.9)
    assert abs(np.mean(patch[20, :, 0] - ((corner[0] + beyond) / 2 - 0.25))) < 0.15


@pytest.mark.parametrize(
    ("mpp", "corner", "level"), [(0.994, (37, 101), 0), (0.7, (0, 5), 0), (1.3, (36, 102), 1), (1.3, (37, 101), 1)]
)
def test_resampled_patch_is_the_smoothed_level_between_its_pixels(
    mpp: float, corner: tuple[int, int], level: int
) -> None:
    """Against floating point, also where the corner lies between two pixels of the level."""
    rgb = np.random.default_rng(2).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    slide = ArraySlide(rgb, downsamples=(1, 2))
    patch = read_sparse_patch(slide, _grid(48, mpp, 0.5), np.array(corner)).astype(np.float64)
    downsample = slide.header.levels[level].downsample
    step = mpp / 0.5 / downsample
    smooth = slide.levels[level].astype(np.float64)
    smooth = np.stack([gaussian_filter(smooth[..., i], np.sqrt((step**2 - 1) / 12)) for i in range(3)], axis=-1)
    x, y = (side / downsample + (np.arange(48) + 0.5) * step - 0.5 for side in corner)
    where = np.meshgrid(y, x, indexing="ij")
    expected = np.stack([map_coordinates(smooth[..., i], where, order=1) for i in range(3)], axis=-1)
    # Each of its two steps rounds, and the weights of the first have 8 bits.
    assert np.abs(patch - expected).max() < 2.5
    assert np.abs(patch - expected).mean() < 0.5


@given(
    angle=st.floats(-3.1, 3.1),
    scale=st.sampled_from([-1.0, 1.0]),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    mpp=st.sampled_from([0.5, 0.8, 1.5]),
)
@settings(max_examples=40, deadline=None)
def test_dense_patch_is_the_dense_slide_at_the_mapped_points(
    angle: float, scale: float, shift: tuple[float, float], mpp: float
) -> None:
    """The dense slide is a ramp of its own coordinates, so each value of the patch says where it was taken."""
    dense_mpp = 0.65
    slide = ArraySlide(_ramp(700, 700), mpp=dense_mpp, downsamples=(1, 2), channels=("x", "y"))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([scale, 1.0])
    centre_um = np.array([225.0, 225.0])
    to_dense = Transform(np.column_stack([matrix, centre_um + shift - matrix @ [100.0, 100.0]]))
    grid = _grid(48, mpp, 0.5)
    corner = np.array([150, 170])
    found = read_dense_patch(slide, dense_mpp, grid, corner, to_dense)
    assert found.inside == 1.0
    j = ((np.arange(48) + 0.5) * mpp / 0.5 - 0.5) * 0.5
    points = np.stack(np.meshgrid(corner[0] * 0.5 + j, corner[1] * 0.5 + j), axis=-1).reshape(-1, 2)
    expected = (to_dense.to_dense(points) / dense_mpp).T.reshape(2, 48, 48)
    # cv2 interpolates on a 1/32-pixel grid.
    np.testing.assert_allclose(found.pixels, expected, atol=0.1)


def test_dense_patch_beyond_the_slide_is_empty_and_says_so() -> None:
    slide = ArraySlide(np.full((100, 100, 2), 7, dtype=np.uint16), mpp=1.0, channels=("a", "b"))
    grid = _grid(32, 1.0, 1.0)
    outside = read_dense_patch(slide, 1.0, grid, np.array([500, 500]), Transform.identity())
    assert outside.inside == 0
    assert outside.pixels.shape == (2, 32, 32)
    assert not outside.pixels.any()
    half = read_dense_patch(slide, 1.0, grid, np.array([84, 0]), Transform.identity())
    assert half.inside == pytest.approx(0.5)
    assert half.pixels.dtype == np.uint16
    assert (half.pixels[:, :, :15] == 7).all()
    assert not half.pixels[:, :, 17:].any()


def test_dense_patch_reads_only_the_window_it_needs() -> None:
    slide = ArraySlide(_ramp(2000, 2000), mpp=0.5, downsamples=(1, 2, 4), channels=("x", "y"))
    read_dense_patch(slide, 0.5, _grid(64, 2.0, 0.5), np.array([400, 400]), Transform.identity())
    ((level, (width, height)),) = slide.reads
    assert level == 2
    assert max(width, height) <= 64 + 12


def test_whole_lattice_at_native_mpp_reassembles_the_slide() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    slide = ArraySlide(rgb)
    grid = lattice((256, 192), size_px=64, mpp=0.5, mpp_level0=0.5)
    rebuilt = np.zeros_like(rgb)
    for corner in grid.position_px:
        x, y = corner
        rebuilt[y : y + 64, x : x + 64] = read_sparse_patch(slide, grid, corner)
    np.testing.assert_array_equal(rebuilt, rgb)
