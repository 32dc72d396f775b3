"""The OpenSlide reader: pixels of every level, the frame, and what vendors do differently."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from slide_files import pyramid, smooth_rgb, window_of, write_ome, write_rgb, write_svs

from pipeline.errors import StatedError
from pipeline.frame import pixel_to_um
from pipeline.slides import jpeg_level
from pipeline.slides.opening import open_slide
from pipeline.slides.openslide_reader import OpenSlideSlide
from pipeline.slides.pyramid import StoredLevel, kept_levels, true_downsample

WINDOWS = [
    ((0, 0), (40, 30)),
    ((61, 33), (90, 70)),
    ((-20, -10), (64, 64)),
    ((101, 60), (100, 90)),
    ((2000, 0), (8, 8)),
]
ODD = (1001, 777)


def stored_levels(path: Path) -> list[np.ndarray[Any, Any]]:
    """Every level as tifffile decodes it whole."""
    with tifffile.TiffFile(path) as tif:
        return [level.asarray() for level in tif.series[0].levels]


@pytest.fixture(scope="module")
def odd_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rgb(tmp_path_factory.mktemp("odd") / "odd.tif", pyramid(smooth_rgb(*ODD), 4))


@pytest.mark.parametrize("size", [(512, 384), ODD, (640, 333), (70, 65)])
@pytest.mark.parametrize("kind", ["generic", "aperio"])
def test_every_level_is_read_as_stored(tmp_path: Path, size: tuple[int, int], kind: str) -> None:
    levels = pyramid(smooth_rgb(*size), 3)
    path = write_rgb(tmp_path / "s.tif", levels) if kind == "generic" else write_svs(tmp_path / "s.svs", levels)
    with open_slide(path) as slide:
        assert slide.header.reader == "openslide"
        assert slide.header.is_rgb
        assert slide.header.mpp == pytest.approx(0.5)
        assert [x.size_xy for x in slide.header.levels] == [x.shape[1::-1] for x in levels]
        assert [x.downsample for x in slide.header.levels] == [1.0, 2.0, 4.0]
        for index, image in enumerate(stored_levels(path)):
            for corner, window in WINDOWS:
                region = slide.read_region(index, corner, window)
                assert region.shape == (window[1], window[0], 3)
                assert region.dtype == np.uint8
                np.testing.assert_array_equal(region, window_of(image, corner, window, 255))


def test_every_level_of_jpeg_2000_in_ycbcr_has_the_colours_of_the_first(tmp_path: Path) -> None:
    """OpenSlide knows by the tag that the samples are no RGB; levels of rounded size must not be read past it."""
    levels = pyramid(smooth_rgb(*ODD), 2)
    ycbcr = [np.asarray(Image.fromarray(level).convert("YCbCr")) for level in levels]
    with open_slide(write_svs(tmp_path / "s.svs", ycbcr, compression=33003)) as slide:
        for index, image in enumerate(levels):
            region = slide.read_region(index, (100, 50), (200, 150)).astype(int)
            np.testing.assert_allclose(region, image[50:200, 100:300], atol=6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.tuples(st.integers(-90, 600), st.integers(-90, 500)),
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
)
def test_any_window(odd_slide: Path, level: int, corner: tuple[int, int], size: tuple[int, int]) -> None:
    image = stored_levels(odd_slide)[level]
    with open_slide(odd_slide) as slide:
        region = slide.read_region(level, corner, size, [2, 0])
    np.testing.assert_array_equal(region, window_of(image, corner, size, 255)[..., [2, 0]])


@pytest.mark.parametrize("kept_tiles", [0, 1, 5])
def test_a_small_cache_changes_no_pixel_in_any_thread(
    odd_slide: Path, monkeypatch: pytest.MonkeyPatch, kept_tiles: int
) -> None:
    monkeypatch.setattr(jpeg_level, "CACHE_BYTES", kept_tiles * 64 * 64 * 3)
    image = stored_levels(odd_slide)[0]
    corners = np.random.default_rng(0).integers(0, 700, (60, 2)).tolist()
    with open_slide(odd_slide) as slide, ThreadPoolExecutor(3) as pool:
        regions = pool.map(lambda corner: slide.read_region(0, tuple(corner), (150, 130)), corners)
        for corner, region in zip(corners, regions, strict=True):
            np.testing.assert_array_equal(region, window_of(image, tuple(corner), (150, 130), 255))


def test_the_same_place_in_um_shows_the_same_at_every_level(tmp_path: Path) -> None:
    """A bright square of 64 px, found by its centroid at each level.

    Far from the corner a ratio of rounded sizes (1001 / 125, not 8) would show, and so would a forgotten half pixel.
    """
    image = np.zeros((777, 1001, 3), np.uint8)
    image[640:704, 896:960] = 255
    path = write_rgb(tmp_path / "s.tif", pyramid(image, 4), compression="zlib")
    with open_slide(path) as slide:
        for index, level in enumerate(slide.header.levels):
            region = slide.read_region(index, (0, 0), level.size_xy)[..., 0].astype(float)
            row, column = (np.arange(n) for n in region.shape)
            x = (region.sum(axis=0) * pixel_to_um(column.astype(float), downsample=level.downsample, mpp=0.5)).sum()
            y = (region.sum(axis=1) * pixel_to_um(row.astype(float), downsample=level.downsample, mpp=0.5)).sum()
            assert x / region.sum() == pytest.approx((896 + 959) / 2 * 0.5, abs=1e-9)
            assert y / region.sum() == pytest.approx((640 + 703) / 2 * 0.5, abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(300, 200_000), st.integers(300, 200_000)),
    st.sampled_from([2, 4, 8, 16, 32]),
    st.sampled_from(["down", "up"]),
)
def test_powers_of_two_are_found_however_the_size_was_rounded(size: tuple[int, int], factor: int, how: str) -> None:
    level = tuple(n // factor if how == "down" else -(-n // factor) for n in size)
    assert true_downsample(size, (level[0], level[1])) == factor


def test_other_factors_and_other_fields() -> None:
    assert true_downsample((3001, 2000), (1000, 667)) == 3.0
    assert true_downsample((10000, 5000), (4000, 2000)) == 2.5
    assert true_downsample((10000, 5000), (1280, 431)) is None
    assert true_downsample((100, 100), (200, 200)) is None
    sizes = [(1000, 800), (1000, 800), (387, 463), (500, 400)]
    kept = kept_levels([StoredLevel(size) for size in sizes], lambda *_: None)
    assert [(index, level.downsample) for index, level in kept] == [(0, 1.0), (3, 2.0)]


def test_threads_read_the_same(odd_slide: Path) -> None:
    corners = [(x, y) for x in range(0, 400, 37) for y in range(0, 300, 41)]
    image = stored_levels(odd_slide)[1]
    with open_slide(odd_slide) as slide, ThreadPoolExecutor(4) as pool:
        regions = list(pool.map(lambda corner: slide.read_region(1, corner, (60, 50)), corners))
    for corner, region in zip(corners, regions, strict=True):
        np.testing.assert_array_equal(region, window_of(image, corner, (60, 50), 255))


def test_rgb_ome_tiff_gives_what_openslide_gives_for_the_same_pixels(tmp_path: Path) -> None:
    image = smooth_rgb(300, 200)
    plain = write_rgb(tmp_path / "plain.tif", [image], compression="zlib")
    ome = tmp_path / "s.ome.tif"
    tifffile.imwrite(ome, image, ome=True, photometric="rgb", tile=(64, 64), metadata={"PhysicalSizeX": 0.5})
    with open_slide(plain) as one, open_slide(ome) as other:
        assert (one.header.reader, other.header.reader) == ("openslide", "tifffile")
        assert one.header.mpp == pytest.approx(0.5)
        assert other.header.mpp == pytest.approx(0.5)
        for corner, size in WINDOWS:
            np.testing.assert_array_equal(one.read_region(0, corner, size), other.read_region(0, corner, size))


def test_multi_channel_tiff_is_not_left_to_openslide(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "s.ome.tif", [np.ones((3, 128, 128), np.uint8)], ["a", "b", "c"])
    assert openslide.OpenSlide.detect_format(path) == "generic-tiff"
    with open_slide(path) as slide:
        assert slide.header.channels == ("a", "b", "c")


@pytest.mark.parametrize(("per_inch", "mpp"), [(72, None), (50800, 0.5)])
def test_printing_resolutions_are_no_mpp(tmp_path: Path, per_inch: float, mpp: float | None) -> None:
    path = write_rgb(tmp_path / "s.tif", [smooth_rgb(200, 150)], mpp=25400 / per_inch)
    with open_slide(path) as slide:
        assert slide.header.reader == "openslide"
        assert slide.header.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(("y_um", "mpp"), [(0.52, 0.51), (0.55, None)])
def test_slightly_different_directions_give_their_mean(tmp_path: Path, y_um: float, mpp: float | None) -> None:
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"resolution": (20000, 1e4 / y_um), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, smooth_rgb(200, 150), photometric="rgb", tile=(64, 64), **options)
    with open_slide(path) as slide:
        assert slide.header.reader == "openslide"
        assert slide.header.mpp == pytest.approx(mpp)
        assert f"0.5 x {y_um:g} um/px" in slide.header.mpp_remark


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "mpp", "sizes"),
    [
        ("formats/CMU-1-Small-Region.svs", 0.499, [(2220, 2967)]),
        ("formats/TCGA-CR-7395-01A-01-TS1.svs", None, [(4443, 3567), (2221, 1783)]),
        ("orion_crc01/centre_he.tif", 1.3, [(4096 >> k, 4096 >> k) for k in range(5)]),
    ],
)
def test_real_brightfield(real_data: Path, name: str, mpp: float | None, sizes: list[tuple[int, int]]) -> None:
    with open_slide(real_data / name) as slide, tifffile.TiffFile(real_data / name) as tif:
        header = slide.header
        assert (header.reader, header.channels, header.dtype) == ("openslide", ("R", "G", "B"), "uint8")
        assert header.mpp == pytest.approx(mpp, abs=1e-6)
        assert [level.size_xy for level in header.levels] == sizes
        assert [level.downsample for level in header.levels] == [2.0**k for k in range(len(sizes))]
        for index, level in enumerate(tif.series[0].levels):
            image = level.asarray()
            for corner in ((0, 0), (sizes[index][0] - 100, sizes[index][1] - 50)):
                region = slide.read_region(index, corner, (150, 130))
                np.testing.assert_array_equal(region, window_of(image, corner, (150, 130), 255))


@pytest.mark.realdata
def test_fluorescence_ndpi_is_one_channel(real_data: Path) -> None:
    path = real_data / "formats" / "fluorescence-DAPI.ndpi"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tif:
        header = slide.header
        assert isinstance(slide, OpenSlideSlide)
        assert (header.channels, header.dtype, header.size_xy) == (("DAPI 2 (387)",), "uint8", (3968, 4864))
        assert header.mpp == pytest.approx(0.228175, abs=1e-6)
        assert [level.downsample for level in header.levels] == [2.0**k for k in range(7)]
        blue = tif.series[0].levels[2].asarray()[..., 2:]
        region = slide.read_region(2, (200, 300), (300, 200), [0])
        assert np.abs(region.astype(int) - blue[300:500, 200:500]).max() <= 1
        assert (slide.read_region(2, (-40, -40), (40, 40)) == 0).all()


@pytest.mark.realdata
def test_the_dicom_series_that_openslide_refuses(real_data: Path) -> None:
    path = sorted((real_data / "formats" / "CMU-1-Small-Region-dicom").glob("*.dcm"))[0]
    with pytest.raises(StatedError, match=r"slide d, file .*\.dcm: .*OpenSlide.*Unsupported photometric") as error:
        open_slide(path, slide="d")
    assert str(error.value).count(".dcm") == 1
