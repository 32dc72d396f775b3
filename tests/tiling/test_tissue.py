"""The tissue mask on drawn and on real slides."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from pipeline.tissue.mask import Overview, read_overview, tissue_mask


def _painted(seed: int, background: int = 242) -> tuple[Overview, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.zeros((300, 400), dtype=np.uint8)
    cv2.ellipse(truth, (150, 150), (100, 80), 20, 0, 360, 1, -1)
    cv2.ellipse(truth, (320, 200), (50, 60), 0, 0, 360, 1, -1)
    rgb = np.full((300, 400, 3), background, dtype=np.float64)
    rgb[truth > 0] = (214, 160, 196)
    rgb += rng.normal(0, 4, rgb.shape)
    return Overview(np.clip(rgb, 0, 255).astype(np.uint8), 8.0), truth > 0


@pytest.mark.parametrize("background", [255, 242, 225])
def test_mask_agrees_with_painted_tissue(background: int) -> None:
    overview, truth = _painted(3, background)
    mask = tissue_mask(overview)
    overlap = (mask & truth).sum() / (mask | truth).sum()
    assert overlap > 0.95


def test_glass_alone_is_no_tissue() -> None:
    rng = np.random.default_rng(0)
    rgb = np.clip(rng.normal(240, 5, (300, 300, 3)), 0, 255).astype(np.uint8)
    assert not tissue_mask(Overview(rgb, 8.0)).any()
    assert not tissue_mask(Overview(np.full((50, 50, 3), 255, dtype=np.uint8), 8.0)).any()


def test_tissue_that_fills_the_slide_is_not_split_by_otsu() -> None:
    rng = np.random.default_rng(1)
    rgb = np.empty((200, 200, 3))
    rgb[:, :100] = (150, 90, 160)
    rgb[:, 100:] = (225, 190, 215)
    mask = tissue_mask(Overview(np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8), 8.0))
    assert mask.mean() > 0.98


def _reference(overview: Overview) -> np.ndarray:
    """The mask as its docstring defines it, by scikit-image in floating point."""
    smooth = gaussian(np.minimum(1 - overview.rgb.min(axis=2) / 255, 80 / 255), sigma=10 / overview.mpp)
    smallest = int(150**2 / overview.mpp**2)
    mask = smooth > np.clip(threshold_otsu(smooth), 25 / 255, 45 / 255)
    return remove_small_holes(remove_small_objects(mask, max_size=smallest), max_size=smallest)


@pytest.mark.parametrize("seed", range(4))
def test_mask_agrees_with_scikit_image_on_ragged_tissue_with_holes_and_specks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse, fine = (cv2.GaussianBlur(rng.normal(size=(500, 600)), (0, 0), sigma) * sigma for sigma in (30, 3))
    amount = np.where((coarse > 0.1) ^ (fine > 0.9), np.clip(0.6 + 0.4 * fine, 0.2, 1), 0)[..., None]
    rgb = 243 * np.array([0.55, 0.30, 0.62]) ** amount + rng.normal(0, 3, (500, 600, 3))
    overview = Overview(np.clip(rgb, 0, 255).astype(np.uint8), 8.0)
    mask, expected = tissue_mask(overview), _reference(overview)
    assert 0.1 < expected.mean() < 0.9
    assert (mask & expected).sum() >= 0.95 * (mask | expected).sum()


def test_a_slide_smaller_than_the_smallest_piece_can_still_be_tissue() -> None:
    assert tissue_mask(Overview(np.full((16, 16, 3), (200, 130, 180), dtype=np.uint8), 8.0)).all()
    assert not tissue_mask(Overview(np.full((16, 16, 3), 243, dtype=np.uint8), 8.0)).any()


def test_specks_go_and_small_holes_close_with_what_is_in_them() -> None:
    rgb = np.full((400, 400, 3), 240, dtype=np.uint8)
    rgb[50:200, 50:200] = (200, 130, 180)
    rgb[100:112, 100:112] = 240  # 96 um
    rgb[105:107, 105:107] = (200, 130, 180)
    rgb[150:180, 150:180] = 240  # 240 um
    rgb[300:310, 300:310] = (200, 130, 180)  # 80 um
    mask = tissue_mask(Overview(rgb, 8.0))
    assert mask[98:114, 98:114].all()
    assert not mask[155:175, 155:175].any()
    assert not mask[290:320, 290:320].any()


def test_overview_is_the_mean_of_squares_that_start_at_the_origin() -> None:
    rgb = np.random.default_rng(2).integers(0, 256, (1000, 1300, 3), dtype=np.uint8)
    overview = read_overview(ArraySlide(rgb, mpp=0.5, downsamples=(1, 4)), 0.5)
    assert overview.mpp == 8.0
    assert overview.rgb.shape == (63, 82, 3)
    expected = rgb[160:176, 320:336].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(overview.rgb[10, 20], expected, atol=1.5)


def test_overview_of_a_slide_without_pyramid_is_read_in_strips() -> None:
    slide = ArraySlide(np.full((9000, 600, 3), 200, dtype=np.uint8), mpp=0.5)
    overview = read_overview(slide, 0.5)
    assert overview.rgb.shape == (563, 38, 3)
    assert max(height for _, (_, height) in slide.reads) <= 2048


@pytest.mark.realdata
def test_mask_of_real_slides_covers_the_tissue(real_data: Path) -> None:
    from pipeline.slides.opening import open_slide

    for name, low, high in (
        ("orion_crc01/west_he.tif", 0.55, 0.95),
        ("orion_crc01/centre_he.tif", 0.90, 1.0),
        ("formats/CMU-1-Small-Region.svs", 0.35, 0.9),
    ):
        with open_slide(real_data / name) as slide:
            mpp = slide.header.mpp
            assert mpp is not None
            mask = tissue_mask(read_overview(slide, mpp))
        assert low <= mask.mean() <= high, (name, mask.mean())
