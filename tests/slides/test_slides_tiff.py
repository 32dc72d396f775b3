"""The TIFF reader against independent reads: all axes, codecs and pyramid layouts, windows inside and outside."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import channels_image, pyramid, window_of, write_ome

from pipeline.errors import StatedError
from pipeline.slides import tiff_segments
from pipeline.slides.base import Slide
from pipeline.slides.opening import open_slide
from pipeline.slides.stated_mpp import unit_um
from pipeline.slides.tiff_plane import Plane

WINDOWS = [
    ((0, 0), (40, 30)),
    ((50, 60), (90, 70)),
    ((-20, -10), (64, 64)),
    ((180, 120), (100, 90)),
    ((900, 0), (8, 8)),
]


def cyx_pyramid(
    channels: int, width: int, height: int, levels: int, dtype: str = "uint16"
) -> list[np.ndarray[Any, Any]]:
    full = np.moveaxis(channels_image(channels, width, height, dtype), 0, -1)
    return [np.ascontiguousarray(np.moveaxis(level, -1, 0)) for level in pyramid(full, levels)]


def assert_equals(slide: Slide, levels_yxc: list[np.ndarray[Any, Any]], fill: int) -> None:
    assert [level.size_xy for level in slide.header.levels] == [image.shape[1::-1] for image in levels_yxc]
    for index, image in enumerate(levels_yxc):
        for corner, size in WINDOWS:
            region = slide.read_region(index, corner, size)
            assert region.dtype == image.dtype
            assert region.dtype.isnative
            np.testing.assert_array_equal(region, window_of(image, corner, size, fill))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("options", [{}, {"compression": None}, {"bigtiff": True}, {"byteorder": ">"}])
def test_ome_pyramids_in_subifds_are_read_at_every_level(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    levels = cyx_pyramid(3, 203, 151, 3, dtype)
    options = dict(options)
    path = tmp_path / "s.ome.tif"
    if "byteorder" in options:
        path.write_bytes(b"")
        with tifffile.TiffWriter(path, ome=True, byteorder=">") as writer:
            common: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
            metadata = {
                "axes": "CYX",
                "Channel": {"Name": ["a", "b", "c"]},
                "PhysicalSizeX": 0.65,
                "PhysicalSizeY": 0.65,
            }
            writer.write(levels[0], subifds=2, metadata=metadata, **common)
            for image in levels[1:]:
                writer.write(image, subfiletype=1, metadata=None, **common)
    else:
        write_ome(path, levels, ["a", "b", "c"], **options)
    with open_slide(path) as slide:
        assert (slide.header.reader, slide.header.mpp, slide.header.dtype) == ("tifffile", 0.65, dtype)
        assert slide.header.channels == ("a", "b", "c")
        assert [level.downsample for level in slide.header.levels] == [1.0, 2.0, 4.0]
        assert_equals(slide, [np.moveaxis(level, 0, -1) for level in levels], fill=0)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib", "rowsperstrip": 7},
        {"compression": "lzw", "predictor": True, "rowsperstrip": 16},
        {"compression": "zstd"},
        {"rowsperstrip": 10},
        {},
        {"tile": (32, 48)},
        {"tile": (32, 48), "compression": "jpeg2000", "compressionargs": {"reversible": True}},
    ],
)
def test_strips_and_tiles_of_all_codecs(tmp_path: Path, options: dict[str, Any]) -> None:
    image = channels_image(2, 203, 151)
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata={"axes": "CYX"}, **options)
    with open_slide(path) as slide:
        assert slide.header.channels == ("C0", "C1")
        assert slide.header.mpp is None
        assert_equals(slide, [np.moveaxis(image, 0, -1)], fill=0)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2)])
def test_levels_of_planes_in_another_order_than_their_pages_are_read(tmp_path: Path, order: tuple[int, ...]) -> None:
    levels = cyx_pyramid(4, 203, 151, 2)
    whole = write_ome(tmp_path / "whole.ome.tif", [levels[0]], ["a", "b", "c", "d"])
    with tifffile.TiffFile(whole) as tif:
        text = str(tif.ome_metadata)
    planes = "".join(f'<TiffData IFD="{page}" FirstC="{c}" PlaneCount="1"/>' for page, c in enumerate(order))
    text = re.sub(r"<TiffData.*?/>|<TiffData.*?</TiffData>", planes, text, count=1, flags=re.S)
    options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", "metadata": None}
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for page, c in enumerate(order):
            writer.write(levels[0][c], subifds=1, description=None if page else text.encode(), **options)
            writer.write(levels[1][c], subfiletype=1, **options)
    with open_slide(path) as slide:
        assert slide.header.channels == ("a", "b", "c", "d")
        assert_equals(slide, [np.moveaxis(level, 0, -1) for level in levels], 0)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_samples_in_one_page_contiguous_and_separate(
    tmp_path: Path, planar: str, tiled: bool, photometric: str
) -> None:
    image = channels_image(3, 203, 151, "uint8")
    stored = np.ascontiguousarray(np.moveaxis(image, 0, -1)) if planar == "contig" else image
    tiles: dict[str, Any] = {"tile": (64, 64)} if tiled else {"rowsperstrip": 9}
    path = tmp_path / "s.tif"
    tifffile.imwrite(
        path, stored, photometric=photometric, planarconfig=planar, compression="zlib", metadata=None, **tiles
    )
    with open_slide(path) as slide:
        assert slide.header.is_rgb == (photometric == "rgb")
        assert_equals(slide, [np.moveaxis(image, 0, -1)], fill=255 if photometric == "rgb" else 0)
        picked = slide.read_region(0, (10, 20), (30, 40), [2, 0])
        np.testing.assert_array_equal(picked, np.moveaxis(image, 0, -1)[20:60, 10:40][..., [2, 0]])


def test_channels_stored_as_colours_with_others_beside_them_end_in_darkness(tmp_path: Path) -> None:
    """Five samples are no RGB image, whatever the file calls the first three: white outside would be signal."""
    image, path = channels_image(5, 100, 80), tmp_path / "s.tif"
    options: dict[str, Any] = {"extrasamples": ["unspecified"] * 2, "tile": (64, 64), "metadata": None}
    tifffile.imwrite(path, np.ascontiguousarray(np.moveaxis(image, 0, -1)), photometric="rgb", **options)
    with open_slide(path) as slide:
        assert_equals(slide, [np.moveaxis(image, 0, -1)], fill=0)


def test_alpha_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((80, 96, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, :48, 3] = 255
    rgba[:40, 48:, 3] = 128
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(32, 32), metadata=None)
    with open_slide(path) as slide:
        region = slide.read_region(0, (0, 0), (100, 80))
    assert slide.header.is_rgb
    assert region[0, 0].tolist() == [200, 0, 0]
    assert region[0, 60].tolist() == [round((200 * 128 + 255 * 127) / 255), 127, 127]
    assert (region[41:, 48:] == 255).all()
    assert (region[:, 96:] == 255).all()


def test_imagej_stacks_give_labels_and_resolution(tmp_path: Path) -> None:
    image = channels_image(3, 101, 77)
    path = tmp_path / "s.tif"
    metadata = {"axes": "CYX", "unit": "um", "Labels": ["DAPI", "CD3", "CD8"]}
    tifffile.imwrite(path, image, imagej=True, resolution=(4, 4), metadata=metadata)
    with open_slide(path) as slide:
        assert slide.header.channels == ("DAPI", "CD3", "CD8")
        assert slide.header.mpp == pytest.approx(0.25)
        assert_equals(slide, [np.moveaxis(image, 0, -1)], fill=0)


def test_levels_stored_as_images_of_their_own_are_found(tmp_path: Path) -> None:
    levels = cyx_pyramid(2, 203, 151, 3)
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for image in levels:
            writer.write(image, photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    with open_slide(path) as slide:
        assert_equals(slide, [np.moveaxis(level, 0, -1) for level in levels], fill=0)


def test_plain_pages_are_channels(tmp_path: Path) -> None:
    image = channels_image(4, 90, 70)
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in image:
            writer.write(plane, photometric="minisblack", compression="zlib", contiguous=False, metadata=None)
    with open_slide(path) as slide:
        assert_equals(slide, [np.moveaxis(image, 0, -1)], fill=0)


def qpi_description(name: str, biomarker: str = "") -> str:
    marker = f"<Biomarker>{biomarker}</Biomarker>" if biomarker else ""
    return (
        '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription><ImageType>FullResolution</ImageType>'
        f"<Name>{name}</Name>{marker}<Objective>20x</Objective></PerkinElmer-QPI-ImageDescription>"
    )


def test_qptiff_pyramids_with_names_from_each_page(tmp_path: Path) -> None:
    levels = cyx_pyramid(2, 640, 512, 2, "uint8")
    path = tmp_path / "s.qptiff"
    common: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "contiguous": False, "compression": "lzw"}
    common |= {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "software": "PerkinElmer-QPI"}
    with tifffile.TiffWriter(path) as writer:
        for plane, text in zip(levels[0], [qpi_description("DAPI"), qpi_description("Opal 520", "CD8")], strict=True):
            writer.write(plane, description=text, tile=(64, 64), **common)
        writer.write(np.zeros((64, 80, 3), np.uint8), photometric="rgb", metadata=None, software="PerkinElmer-QPI")
        for plane in levels[1]:
            writer.write(plane, tile=(64, 64), subfiletype=1, **common)
    with open_slide(path) as slide:
        assert slide.header.channels == ("DAPI", "CD8")
        assert slide.header.mpp == pytest.approx(0.5)
        assert_equals(slide, [np.moveaxis(level, 0, -1) for level in levels], fill=0)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    levels = cyx_pyramid(3, 203, 151, 2)
    path = write_ome(tmp_path_factory.mktemp("noise") / "s.ome.tif", levels, ["a", "b", "c"])
    return path, np.moveaxis(levels[1], 0, -1)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(-80, 150), st.integers(-80, 150)),
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_any_window_and_any_channels(
    noise: tuple[Path, np.ndarray[Any, Any]], corner: tuple[int, int], size: tuple[int, int], channels: list[int]
) -> None:
    path, image = noise
    with open_slide(path) as slide:
        region = slide.read_region(1, corner, size, channels)
    np.testing.assert_array_equal(region, window_of(image, corner, size, 0)[..., channels])


def test_threads_read_the_same(noise: tuple[Path, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, image = noise
    monkeypatch.setattr(tiff_segments, "CACHE_BYTES", 3 * 64 * 64 * 2)
    corners = [(x, y) for x in range(-30, 100, 13) for y in range(-30, 70, 17)] * 4
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        regions = list(pool.map(lambda corner: slide.read_region(1, corner, (50, 40)), corners))
    for corner, region in zip(corners, regions, strict=True):
        np.testing.assert_array_equal(region, window_of(image, corner, (50, 40), 0))


def test_only_the_touched_tiles_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = channels_image(2, 1024, 1024)
    path = write_ome(tmp_path / "s.ome.tif", [image], None)
    decoded: list[int] = []
    original = tiff_segments.SegmentReader._decode

    def counted(self: tiff_segments.SegmentReader, plane: Plane, index: int) -> Any:
        decoded.append(index)
        return original(self, plane, index)

    monkeypatch.setattr(tiff_segments.SegmentReader, "_decode", counted)
    with open_slide(path) as slide:
        slide.read_region(0, (100, 100), (50, 20), [1])
        assert len(decoded) == 2
        slide.read_region(0, (100, 100), (50, 20), [1])
        assert len(decoded) == 2


@pytest.mark.parametrize(
    ("unit", "value", "mpp"),
    [
        ("µm", 0.5, 0.5),
        ("nm", 500, 0.5),
        ("mm", 0.0005, 0.5),
        ("Å", 5000, 0.5),
        ("dm", 5e-6, 0.5),
        ("thou", 0.5 / 25.4, 0.5),
        ("nanometer", 500, 0.5),
        ("pixel", 1, None),
        ("reference frame", 1, None),
    ],
)
def test_units_of_the_physical_size(tmp_path: Path, unit: str, value: float, mpp: float | None) -> None:
    size = {"PhysicalSizeX": value, "PhysicalSizeXUnit": unit, "PhysicalSizeY": value, "PhysicalSizeYUnit": unit}
    path = write_ome(tmp_path / "s.ome.tif", [channels_image(2, 80, 70)], None, metadata=size)
    with open_slide(path) as slide:
        assert slide.header.mpp == pytest.approx(mpp)


@pytest.mark.parametrize(
    ("per_unit", "unit", "mpp"),
    [(20000, "CENTIMETER", 0.5), (50800, "INCH", 0.5), (72, "INCH", None), (300, "INCH", None), (1, "NONE", None)],
)
def test_resolution_tags_count_only_where_a_microscope_could_have_them(
    tmp_path: Path, per_unit: float, unit: str, mpp: float | None
) -> None:
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"resolution": (per_unit, per_unit), "resolutionunit": unit, "metadata": None}
    tifffile.imwrite(path, channels_image(1, 90, 70)[0], photometric="minisblack", **options)
    with open_slide(path) as slide:
        assert slide.header.mpp == pytest.approx(mpp)


def test_pixels_that_are_not_square_state_no_mpp(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "s.ome.tif", [channels_image(2, 80, 70)], None, metadata={"PhysicalSizeY": 0.7})
    with open_slide(path) as slide:
        assert slide.header.mpp is None
        assert slide.header.mpp_remark == "pixels that are not square within 5%: 0.65 x 0.7 um/px in the file"


@pytest.mark.parametrize("dpi", [72, 96, 300, 1200])
def test_a_printing_resolution_counts_as_not_stated_in_ome_xml_and_imagej_text(tmp_path: Path, dpi: int) -> None:
    um = 25400 / dpi
    size = {"PhysicalSizeX": um, "PhysicalSizeY": um}
    ome = write_ome(tmp_path / "s.ome.tif", [channels_image(2, 80, 70)], None, metadata=size)
    imagej = tmp_path / "s.tif"
    image = channels_image(2, 80, 70)
    tifffile.imwrite(imagej, image, imagej=True, resolution=(dpi, dpi), metadata={"axes": "CYX", "unit": "inch"})
    for path in (ome, imagej):
        with open_slide(path) as slide:
            assert slide.header.mpp is None
            assert f"{dpi} dpi" in slide.header.mpp_remark


def test_imagej_text_without_a_unit_leaves_the_resolution_to_the_tags(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, channels_image(1, 90, 70)[0], description="ImageJ=\n", software=False, **options)
    with open_slide(path) as slide:
        assert slide.header.mpp == pytest.approx(0.5)


@pytest.mark.parametrize("sign", ["\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}"])
@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_micro_sign_that_was_decoded_wrongly_is_one(sign: str, times: int) -> None:
    text = f"{sign}m"
    for _ in range(times):
        text = text.encode("utf-8").decode("latin-1")
    assert unit_um(text) == 1.0


@pytest.mark.parametrize("text", ["pixel", "", "Âm", "reference frame"])
def test_what_is_no_length_has_no_um(text: str) -> None:
    assert unit_um(text) is None


@pytest.mark.parametrize(
    ("image", "options", "told"),
    [
        (np.zeros((2, 3, 64, 64), np.uint16), {"axes": "ZCYX"}, "one plane"),
        (np.zeros((5, 64, 64), np.uint16), {"axes": "ZYX"}, "one plane"),
        (np.zeros((2, 64, 64), np.uint32), {"axes": "CYX"}, "pixels of type.*again as uint16 or float32, found uint32"),
        (np.zeros((2, 64, 64), np.float64), {"axes": "CYX"}, "pixels of type"),
    ],
)
def test_images_of_other_kinds_are_refused(
    tmp_path: Path, image: np.ndarray[Any, Any], options: dict[str, Any], told: str
) -> None:
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", metadata=options)
    with pytest.raises(StatedError, match=told):
        open_slide(path, slide="x")


def test_white_is_zero_is_refused_rather_than_shown_inverted(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="miniswhite", metadata=None)
    with pytest.raises(StatedError, match="photometric"):
        open_slide(path)


@pytest.mark.parametrize(
    "declaration",
    ['<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>', '<!DOCTYPE x SYSTEM "file:///etc/hostname">'],
)
def test_xml_that_declares_entities_is_refused(tmp_path: Path, declaration: str) -> None:
    text = f'<?xml version="1.0"?>{declaration}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"></OME>'
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, channels_image(1, 64, 64)[0], photometric="minisblack", description=text, metadata=None)
    with pytest.raises(StatedError, match="document type"):
        open_slide(path)


@pytest.mark.parametrize("channels", [(2, 2), (2, 3)])
def test_two_images_of_one_size_are_ambiguous(tmp_path: Path, channels: tuple[int, int]) -> None:
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for count in channels:
            writer.write(channels_image(count, 90, 70), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(StatedError, match="one image"):
        open_slide(path)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "mpp", "channels", "dtype", "sizes"),
    [
        ("formats/pathml_small_vectra.qptiff", 0.49653, ("DAPI", "FITC", "Cy3"), "uint8", [(1920, 1440)]),
        (
            "formats/FIHC4__0929309_HP_IM3_2_component_data.tif",
            0.49715,
            ("Alexa 594", "Cy3", "Cy5", "DAPI", "FITC"),
            "float32",
            [(348, 260)],
        ),
        ("formats/OS-1-detail.ome.tif", 0.2271, ("R", "G", "B"), "uint8", [(1101, 1101)]),
        (
            "orion_crc01/centre_mif_moved.ome.tif",
            1.3,
            ("Hoechst", "Autofluorescence", "CD31"),
            "uint8",
            [(4096 >> k, 4096 >> k) for k in range(4)],
        ),
        (
            "orion_crc01/west_mif.ome.tif",
            1.3,
            ("Hoechst", "Autofluorescence", "CD31"),
            "uint8",
            [(8192 >> k, 6144 >> k) for k in range(4)],
        ),
    ],
)
def test_real_files(
    real_data: Path, name: str, mpp: float, channels: tuple[str, ...], dtype: str, sizes: list[tuple[int, int]]
) -> None:
    with open_slide(real_data / name) as slide, tifffile.TiffFile(real_data / name) as tif:
        header = slide.header
        assert (header.reader, header.dtype) == ("tifffile", dtype)
        assert header.mpp == pytest.approx(mpp, abs=1e-4)
        assert header.channels[: len(channels)] == channels
        assert [level.size_xy for level in header.levels] == sizes
        coarsest = len(sizes) - 1
        image = tif.series[0].levels[coarsest].asarray()
        image = image if tif.series[0].axes == "YXS" else np.moveaxis(image, 0, -1)
        np.testing.assert_array_equal(slide.read_region(coarsest, (0, 0), sizes[coarsest]), image)
        first = tif.pages[0].asarray()
        corner = (sizes[0][0] // 3, sizes[0][1] // 3)
        region = slide.read_region(0, corner, (150, 100), [0])[..., 0]
        expected = first if first.ndim == 2 else first[..., 0]
        np.testing.assert_array_equal(region, expected[corner[1] :, corner[0] :][:100, :150])
