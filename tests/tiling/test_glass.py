"""Glass that is dark, tinted or shaded is told from tissue; a slide on ordinary glass is taken as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from slide_files import pyramid, write_rgb

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.opening import open_slide
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tissue.artefacts import pen_mask
from pipeline.tissue.fill import with_white_fill
from pipeline.tissue.glass import stained, with_white_glass
from pipeline.tissue.mask import Overview, read_overview, tissue_mask

SIDE = 300
TINTS = [(205, 205, 205), (232, 224, 190), (195, 192, 190), (200, 210, 225), (225, 205, 215), (240, 225, 200)]


def _slide(glass: tuple[int, int, int], seed: int = 0) -> tuple[Overview, NDArray[np.bool_]]:
    """Tissue of two colours, uneven as nuclei make it, that lets through a share of the glass's light."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(truth, (160, 140), (90, 60), 20, 0, 360, 1, -1)
    through = (
        np.array([0.88, 0.62, 0.78]) - cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)), (0, 0), 1.5)[..., None] * 0.2
    )
    image = np.asarray(glass) * np.where(truth[..., None] > 0, through, 1.0)
    image += rng.normal(0, 0.7, image.shape)
    return Overview(np.clip(image, 0, 255).astype(np.uint8), 8.0), truth > 0


def _overlap(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("glass", TINTS)
def test_tissue_is_found_on_glass_of_any_tint(glass: tuple[int, int, int]) -> None:
    overview, truth = _slide(glass)
    assert _overlap(tissue_mask(with_white_glass(overview)), truth) > 0.93


@pytest.mark.parametrize("glass", [(243, 242, 244), *TINTS])
def test_tissue_is_found_where_the_light_falls_off_towards_the_edges(glass: tuple[int, int, int]) -> None:
    overview, truth = _slide(glass)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    shaded = overview.rgb * (1 - 0.4 * (x * x + y * y))[..., None]
    mask = tissue_mask(with_white_glass(Overview(shaded.astype(np.uint8), 8.0)))
    assert _overlap(mask, truth) > 0.93


@pytest.mark.parametrize("glass", TINTS)
def test_tissue_is_found_on_tinted_glass_within_white_padding(glass: tuple[int, int, int]) -> None:
    overview, truth = _slide(glass)
    padded = cv2.copyMakeBorder(overview.rgb, 80, 80, 80, 80, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    mask = tissue_mask(with_white_glass(Overview(padded, 8.0)))
    assert _overlap(mask, np.pad(truth, 80)) > 0.93


@pytest.mark.parametrize("glass", [(255, 255, 255), (243, 242, 244), (236, 234, 230)])
def test_a_slide_on_ordinary_glass_is_taken_as_it_is(glass: tuple[int, int, int]) -> None:
    overview, _ = _slide(glass)
    assert with_white_glass(overview) is overview


def test_pale_tissue_that_fills_the_slide_is_no_glass() -> None:
    rng = np.random.default_rng(2)
    rgb = np.clip(np.array([225, 185, 210]) + rng.normal(0, 1, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    assert with_white_glass(Overview(rgb, 8.0)).rgb is rgb


def test_grey_fill_beside_white_glass_is_not_its_colour() -> None:
    overview, truth = _slide((243, 242, 244))
    filled = np.full((SIDE, 2 * SIDE, 3), 128, np.uint8)
    filled[:, SIDE:] = overview.rgb
    mask = tissue_mask(with_white_glass(Overview(filled, 8.0)))
    assert _overlap(mask[:, SIDE + 10 :], truth[:, 10:]) > 0.93


@pytest.mark.parametrize("fill", [0, 40, 128, 200])
@pytest.mark.parametrize("glass", [(243, 242, 244), *TINTS[:2]])
def test_what_was_filled_in_around_the_scan_is_no_tissue(fill: int, glass: tuple[int, int, int]) -> None:
    overview, truth = _slide(glass)
    # The scan begins within a pixel of the overview, which is part fill then.
    rgb = overview.rgb.copy()
    rgb[:70] = rgb[:, :90] = fill
    rgb[70] = rgb[70] // 2 + fill // 2
    scanned = truth.copy()
    scanned[:70] = scanned[:, :90] = False
    filled = with_white_fill(Overview(rgb, overview.mpp))
    mask = tissue_mask(with_white_glass(filled))
    assert not mask[:69].any()
    assert not mask[:, :88].any()
    assert _overlap(mask, scanned) > 0.9
    assert not pen_mask(filled).any()


def test_tissue_of_one_drawn_colour_and_a_slide_without_fill_stay() -> None:
    flat = Overview(np.full((100, 100, 3), (200, 130, 180), np.uint8), 8.0)
    assert with_white_fill(flat) is flat
    overview, _ = _slide((243, 242, 244))
    assert with_white_fill(overview) is overview


@pytest.mark.parametrize("glass", [(243, 242, 244), *TINTS])
def test_pale_tissue_is_stained_and_glass_is_not(glass: tuple[int, int, int]) -> None:
    rgb = np.full((100, 100, 3), glass, np.float64)
    rgb[30:70, 30:70] *= (0.97, 0.93, 0.96)
    rgb += np.random.default_rng(1).normal(0, 0.7, rgb.shape)
    found = stained(Overview(np.clip(rgb, 0, 255).astype(np.uint8), 8.0))
    assert found[35:65, 35:65].all()
    assert not found[:25].any()


def _write_record(folder: Path, image: NDArray[np.uint8]) -> Path:
    write_rgb(folder / "s.tif", pyramid(image, 2), mpp=2.0)
    record = inspect_slide(SheetRow("s", "p", str(folder / "s.tif")), InspectSettings())
    write_json(folder / "r.json", to_mapping(record))
    return folder / "r.json"


def _tile(record: Path, folder: Path) -> int:
    argv = ["tile", "--record", str(record), "--out", str(folder / "s.zarr")]
    return main([*argv, "--settings", '{"size_px": 64, "mpp": 2.0}'])


def test_squares_of_grey_glass_are_dropped(tmp_path: Path) -> None:
    overview, truth = _slide((205, 205, 205))
    image = np.repeat(np.repeat(overview.rgb, 4, axis=0), 4, axis=1)
    assert _tile(_write_record(tmp_path, image), tmp_path) == 0
    counts = PatchStore.open(tmp_path / "s.zarr").attributes.counts
    squares = truth[: SIDE // 16 * 16, : SIDE // 16 * 16].reshape(SIDE // 16, 16, SIDE // 16, 16).mean((1, 3))
    assert abs(counts["kept"] - (squares >= 0.5).sum()) <= 4


def test_tissue_all_over_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    image = np.clip(np.array([200, 130, 180]) + rng.normal(0, 20, (512, 512, 3)), 0, 255).astype(np.uint8)
    assert _tile(_write_record(tmp_path, image), tmp_path) == 0
    assert "slide s, file" in (told := capsys.readouterr().err)
    assert "100.0% of the slide taken for tissue" in told


@pytest.mark.filterwarnings("error")
def test_a_slide_that_is_ink_all_over_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.full((512, 512, 3), (30, 60, 160), np.uint8)
    assert _tile(_write_record(tmp_path, image), tmp_path) == 1
    told = capsys.readouterr().err
    assert "(64 pen), 0.0% of the slide is tissue: ink all over, or no H&E on bright glass" in told
    assert len(told.strip().splitlines()) == 1


@pytest.mark.realdata
def test_real_slides_on_white_glass_are_taken_as_they_are(real_data: Path) -> None:
    files: list[Any] = [real_data / "orion_crc01/west_he.tif", real_data / "orion_crc01/centre_he.tif"]
    files += [real_data / "formats" / name for name in ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs")]
    files += [real_data / "formats/OS-1-detail.ome.tif", real_data / "her2st_few/he/C2.tif"]
    for file in files:
        with open_slide(file, slide="s") as slide:
            overview = read_overview(slide, slide.header.mpp or 0.5)
        assert with_white_glass(overview) is overview, file


@pytest.mark.realdata
def test_a_real_slide_on_tinted_glass_is_not_tissue_all_over(real_data: Path) -> None:
    with open_slide(real_data / "her2st_few/he/B4.tif", slide="s") as slide:
        overview = read_overview(slide, slide.header.mpp or 0.5)
    mask = tissue_mask(with_white_glass(overview))
    # The section leaves the upper right corner and the lower edge of the image free.
    height, width = mask.shape
    assert not mask[: height // 3, width * 3 // 4 :].any()
    assert 0.35 < mask.mean() < 0.55
