"""Ink, folds and tissue, drawn and real: each called what it is, and no stained tissue lost."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.report.slide_views import painted
from pipeline.tiling.grid import lattice
from pipeline.tiling.regions import (
    BLUR,
    EXCLUDED,
    FOLD,
    GLASS,
    PEN,
    REASONS,
    TISSUE,
    drop_reasons,
    dropped,
    find_regions,
)
from pipeline.tissue.artefacts import fold_mask, pen_mask
from pipeline.tissue.mask import Overview, read_overview, tissue_mask

MPP = 8.0
INKS = {"blue": (35, 60, 165), "black": (38, 36, 42), "green": (30, 120, 75), "red": (205, 30, 45)}
# Colours that H&E and blood take at 8 um: none of them is ink.
STAINS = {
    "stroma": (225, 190, 215),
    "epithelium": (170, 110, 170),
    "lymphocytes": (95, 65, 130),
    "eosin": (205, 90, 140),
    "blood": (165, 60, 70),
    "grey mucin": (200, 195, 205),
    "brown pigment": (120, 85, 60),
}


def _tissue(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Patches of every stain in an ellipse on glass, and where they are."""
    rng = np.random.default_rng(seed)
    height, width = 500, 600
    inside = np.zeros((height, width), np.uint8)
    cv2.ellipse(inside, (300, 250), (250, 200), 10, 0, 360, 1, -1)
    fields = [cv2.GaussianBlur(rng.normal(size=(height, width)), (0, 0), 12) for _ in STAINS]
    stains = np.array(list(STAINS.values()), dtype=np.float64)[np.argmax(fields, axis=0)]
    image = np.where(inside[..., None] > 0, stains, 243.0) + rng.normal(0, 4, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), inside > 0


def _stroke(shape: tuple[int, int], width_um: float) -> NDArray[np.uint8]:
    """Share of ink in 0 to 255 along a bent stroke from glass over tissue to glass."""
    share = np.zeros(shape, np.uint8)
    height, width = shape
    points = np.array([[0.02, 0.1], [0.5, 0.5], [0.95, 0.3], [0.97, 0.95]]) * [width, height]
    cv2.polylines(share, [points.astype(np.int32)], False, 255, round(width_um / MPP), cv2.LINE_AA)
    return cv2.GaussianBlur(share, (0, 0), 1.2)


def _through(rgb: NDArray[np.uint8], colour: tuple[int, int, int], share: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image seen through ink: transmissions multiply."""
    passed = (np.array(colour) / 245) ** (share[..., None] / 255)
    return np.clip(rgb * passed, 0, 255).astype(np.uint8)


def _overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_], within: NDArray[np.bool_]) -> float:
    return float((found & truth & within).sum() / ((found | truth) & within).sum())


@pytest.mark.parametrize("ink", INKS)
def test_strokes_are_found_on_glass_and_on_tissue(ink: str) -> None:
    rgb, tissue = _tissue()
    share = _stroke(tissue.shape, 500)
    found = pen_mask(Overview(_through(rgb, INKS[ink], share), MPP))
    assert _overlap(found, share > 127, ~tissue) >= 0.85
    assert _overlap(found, share > 127, tissue) >= 0.85


def test_stained_tissue_and_blood_are_no_ink_and_no_fold() -> None:
    rgb, _ = _tissue(1)
    overview = Overview(rgb, MPP)
    tissue = tissue_mask(overview)
    assert (pen_mask(overview) & tissue).sum() <= 0.01 * tissue.sum()
    assert (fold_mask(overview, tissue) & tissue).sum() <= 0.01 * tissue.sum()


def _folded(colour: tuple[int, int, int], width_um: float) -> tuple[Overview, NDArray[np.bool_]]:
    rng = np.random.default_rng(2)
    band = np.zeros((400, 400), np.uint8)
    cv2.line(band, (100, 80), (300, 320), 255, round(width_um / MPP))
    single = np.array(colour) / 243
    clear = 243 * single ** (1 + (band > 0)[..., None])
    return Overview(np.clip(clear + rng.normal(0, 4, (400, 400, 3)), 0, 255).astype(np.uint8), MPP), band > 0


def test_a_band_twice_as_dense_is_a_fold_unless_it_is_broad_or_pale() -> None:
    overview, band = _folded((150, 95, 165), 100)
    everywhere = np.ones_like(band)
    assert _overlap(fold_mask(overview, everywhere), band, everywhere) >= 0.7
    for colour, width_um in (((150, 95, 165), 700), ((225, 200, 220), 100)):
        overview, _ = _folded(colour, width_um)
        assert not fold_mask(overview, everywhere).any()


def test_a_band_of_another_stain_is_no_fold() -> None:
    overview, band = _folded((150, 95, 165), 100)
    rgb = overview.rgb.copy()
    rgb[band] = (70, 60, 130)  # nuclei: red absorbed four times as much, green hardly twice
    assert not fold_mask(Overview(rgb, MPP), np.ones_like(band)).any()


def test_only_what_is_asked_for_is_told_from_tissue() -> None:
    rgb, tissue = _tissue()
    overview = Overview(_through(rgb, INKS["black"], _stroke(tissue.shape, 500)), MPP)
    both, neither = find_regions(overview, ("pen", "fold")), find_regions(overview, ())
    assert (both == PEN).any()
    assert set(np.unique(neither)) == {GLASS, TISSUE}
    np.testing.assert_array_equal(neither == TISSUE, tissue_mask(overview))


def test_every_square_is_dropped_for_the_one_step_at_which_it_falls_short() -> None:
    # Squares of 10 by 10 overview pixels, side by side; each column of pixels is one region.
    columns = [
        [TISSUE] * 10,
        [GLASS] * 6 + [TISSUE] * 4,
        [GLASS] * 6 + [PEN] * 4,
        [TISSUE] * 4 + [EXCLUDED] * 6,
        [TISSUE] * 4 + [PEN] * 6,
        [TISSUE] * 4 + [FOLD] * 6,
        [TISSUE] * 4 + [BLUR] * 6,
        [TISSUE] * 3 + [EXCLUDED] * 4 + [PEN] * 3,
        [TISSUE] * 3 + [FOLD] * 3 + [PEN] * 4,
        [TISSUE] * 6 + [PEN] * 4,
    ]
    regions = np.tile(np.array(columns, np.uint8).reshape(-1), (10, 1))
    grid = lattice((1600, 160), size_px=160, mpp=0.5, mpp_level0=0.5)
    reason, share = drop_reasons(grid, regions, 8.0, 0.5)
    expected = [TISSUE, GLASS, GLASS, EXCLUDED, PEN, FOLD, BLUR, PEN, FOLD, TISSUE]
    assert reason.tolist() == expected
    np.testing.assert_allclose(share, [1, 0.4, 0, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.6], atol=1e-6)
    counts = dropped(reason)
    assert list(counts) == list(REASONS.values()) == ["no_tissue", "excluded", "pen", "fold", "blur"]
    assert counts == {"no_tissue": 2, "excluded": 1, "pen": 2, "fold": 2, "blur": 1}


def test_the_reports_picture_keeps_tissue_pales_glass_and_gives_each_reason_its_own_colour() -> None:
    regions = np.array([[GLASS, TISSUE, BLUR, FOLD, PEN, EXCLUDED]], np.uint8)
    overview = np.full((1, 6, 3), (200, 130, 180), np.uint8)
    shown = painted(overview, regions)[0]
    assert shown[1].tolist() == [200, 130, 180]
    assert (shown[0] > overview[0, 0]).all()
    assert len(np.unique(shown, axis=0)) == 6


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "orion_crc01/west_he.tif",
        "orion_crc01/centre_he.tif",
        "formats/CMU-1-Small-Region.svs",
        "formats/TCGA-CR-7395-01A-01-TS1.svs",
        "formats/OS-1-detail.ome.tif",
    ],
)
def test_real_slides_without_ink_lose_no_tissue_and_strokes_drawn_on_them_are_found(real_data: Path, name: str) -> None:
    from pipeline.slides.opening import open_slide

    with open_slide(real_data / name) as slide:
        overview = read_overview(slide, slide.header.mpp or 0.5)
    tissue = tissue_mask(overview)
    regions = find_regions(overview, ("pen", "fold"))
    assert (tissue & (regions != TISSUE)).sum() <= 0.01 * tissue.sum()
    if min(tissue.shape) > 400:
        for ink in INKS:
            share = _stroke(tissue.shape, 500)
            found = pen_mask(Overview(_through(overview.rgb, INKS[ink], share), overview.mpp))
            assert _overlap(found, share > 127, np.ones_like(tissue)) >= 0.85, ink


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["Izd2-29-041-w35_HE", "Rat-Kidney_HE"])
def test_real_sections_of_other_laboratories_lose_no_tissue(real_data: Path, name: str) -> None:
    bgr = cv2.imread(str(real_data / "landmarks" / f"{name}.jpg"))
    overview = Overview(np.ascontiguousarray(bgr[..., ::-1]), MPP)
    tissue = tissue_mask(overview)
    assert (tissue & (find_regions(overview, ("pen", "fold")) != TISSUE)).sum() <= 0.01 * tissue.sum()
