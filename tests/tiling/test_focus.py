"""What is out of focus is found, drawn and real, and nothing that is sharp."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from array_slide import ArraySlide
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.slides.opening import open_slide
from pipeline.tiling.regions import BLUR, TISSUE, find_regions
from pipeline.tissue import focus
from pipeline.tissue.focus import blur_mask
from pipeline.tissue.mask import read_overview, tissue_mask

SIDE_PX = 1024


def _nuclei(seed: int = 0) -> NDArray[np.uint8]:
    """Sharp dark discs of 6 to 12 px on pink, with a scanner's noise."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE_PX, SIDE_PX, 3), (215, 150, 200), dtype=np.uint8)
    for x, y, radius in zip(*rng.integers(0, SIDE_PX, (2, 2500)), rng.integers(3, 7, 2500), strict=True):
        cv2.circle(image, (int(x), int(y)), int(radius), (95, 65, 140), -1, cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _blurred_right_half(image: NDArray[np.uint8], sigma_px: float, jpeg_quality: int = 80) -> NDArray[np.uint8]:
    """The image out of focus in its right half, as a scanner stores it."""
    half = image.shape[1] // 2
    seen = np.concatenate([image[:, :half], cv2.GaussianBlur(image, (0, 0), sigma_px)[:, half:]], axis=1)
    return cv2.imdecode(cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1], cv2.IMREAD_COLOR)


def _judged(slide: ArraySlide, mpp: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    overview = read_overview(slide, mpp)
    tissue = tissue_mask(overview)
    return blur_mask(slide, mpp, overview, tissue), tissue


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_the_half_that_is_out_of_focus_is_found(mpp: float) -> None:
    slide = ArraySlide(_blurred_right_half(_nuclei(), 3.0 / mpp), mpp=mpp, downsamples=(1, 4))
    found, tissue = _judged(slide, mpp)
    middle = found.shape[1] // 2
    edge = round(64 / 8)
    assert found[:, middle + edge :].mean() >= 0.98
    assert not found[:, : middle - edge].any()
    assert not (found & ~tissue).any()


def test_sharp_tissue_and_flat_colour_are_not_called_blurred() -> None:
    for image in (_nuclei(), np.full((SIDE_PX, SIDE_PX, 3), (215, 150, 200), np.uint8)):
        found, _ = _judged(ArraySlide(image, mpp=0.5, downsamples=(1, 4)), 0.5)
        assert not found.any()


def test_blocks_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    slide = ArraySlide(_blurred_right_half(_nuclei(), 6.0), mpp=0.5, downsamples=(1, 4))
    whole, _ = _judged(slide, 0.5)
    monkeypatch.setattr(focus, "_BLOCK_PX", 13)
    blocks, _ = _judged(slide, 0.5)
    assert whole.any()
    assert (whole != blocks).mean() <= 0.002


def test_glass_is_not_read() -> None:
    image = np.full((2048, 2560, 3), 245, np.uint8)
    image[:500, :500] = _nuclei()[:500, :500]
    slide = ArraySlide(image, mpp=0.5, downsamples=(1, 8))
    overview = read_overview(slide, 0.5)
    slide.reads.clear()
    blur_mask(slide, 0.5, overview, tissue_mask(overview))
    assert len(slide.reads) == 1


def test_focus_cannot_be_judged_on_a_coarse_slide() -> None:
    slide = ArraySlide(_nuclei(), mpp=2.0)
    overview = read_overview(slide, 2.0)
    with pytest.raises(StatedError, match=r"expected 1\.4 um/px or finer.*found 2 um/px"):
        blur_mask(slide, 2.0, overview, tissue_mask(overview))


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "mpp"), [("formats/CMU-1-Small-Region.svs", 0.499), ("orion_crc01/centre_he.tif", 1.3)]
)
def test_real_tissue_is_sharp_until_it_is_blurred(real_data: Path, name: str, mpp: float) -> None:
    with open_slide(real_data / name) as slide:
        width, height = (min(side, 2048) for side in slide.header.size_xy)
        corner = tuple((side - part) // 2 for side, part in zip(slide.header.size_xy, (width, height), strict=True))
        pixels = slide.read_region(0, (corner[0], corner[1]), (width, height))
    for sigma_um, least, most in ((0.0, 0.0, 0.01), (2.5, 0.98, 1.0)):
        seen = cv2.GaussianBlur(pixels, (0, 0), sigma_um / mpp) if sigma_um else pixels
        slide_seen = ArraySlide(seen, mpp=mpp, downsamples=(1, 4))
        overview = read_overview(slide_seen, mpp)
        found, tissue = _judged(slide_seen, mpp)
        assert least <= found[tissue].mean() <= most
        regions = find_regions(overview, (), found)
        assert (regions == BLUR).sum() == found.sum()
        assert (regions == TISSUE).sum() == (tissue & ~found).sum()
