"""Files that hold several images, and images that lie in several files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slide_files import Image, channels_image, halved, smooth_rgb, write_ome_set, write_svs

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow, read_sheet
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.record import read_record
from pipeline.slides.stage import inspect_slide

UM = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def write_images(path: Path, images: list[tuple[str, Image, dict[str, Any]]]) -> Path:
    """Write an OME-TIFF of several Images of RGB."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, image, said in images:
            metadata = {"axes": "YXS", "Name": name, **said}
            writer.write(image, tile=(64, 64), photometric="rgb", compression="zlib", metadata=metadata)
    return path


@pytest.mark.parametrize("size_xy", [(128, 96), (230, 150)])
def test_images_of_one_um_per_pixel_are_named_until_the_sheet_chooses(tmp_path: Path, size_xy: tuple[int, int]) -> None:
    """Half as large in both directions as well: then the second would pass for a level of the first."""
    one, two = smooth_rgb(256, 192), smooth_rgb(*size_xy)[::-1].copy()
    path = write_images(tmp_path / "s.ome.tif", [("ROI 1", one, UM), ("ROI 2", two, UM)])
    with pytest.raises(StatedError, match=r"sparse_image, dense_image\), found 2 images: 0 \(ROI 1\): 256 x 192"):
        inspect_slide(SheetRow("s", "p", str(path)), InspectSettings())
    for wanted, image in (("ROI 1", one), ("ROI 2", two), ("0", one), ("1", two)):
        out = tmp_path / "s.json"
        arguments = ["--slide", "s", "--patient", "p", "--sparse", str(path), "--sparse-image", wanted]
        assert main(["inspect", *arguments, "--out", str(out)]) == 0
        side = read_record(out).sparse
        assert (side.image, side.mpp, len(side.levels)) == (wanted, 0.5, 1)
        with open_side(side) as slide:
            np.testing.assert_array_equal(slide.read_region(0, (0, 0), slide.header.size_xy), image)
    with pytest.raises(StatedError, match="one image named or numbered ROI 3, found 0"):
        open_slide(path, image="ROI 3")


def test_a_dense_image_is_chosen_as_well(tmp_path: Path) -> None:
    planes = [channels_image(3, 128, 96), channels_image(2, 64, 48)]
    path = tmp_path / "d.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, image in zip("ab", planes, strict=True):
            metadata = {"axes": "CYX", "Name": name, "Channel": {"Name": ["DAPI", "CD3", "CD8"][: len(image)]}, **UM}
            writer.write(image, photometric="minisblack", metadata=metadata)
    sparse = write_svs(tmp_path / "s.svs", [smooth_rgb(128, 96)])
    row = SheetRow("s", "p", str(sparse), str(path), dense_image="b")
    record = inspect_slide(row, InspectSettings())
    assert record.dense is not None
    assert (record.dense.channels, record.dense.size_xy) == (("DAPI", "CD3"), (64, 48))
    with open_side(record.dense) as slide:
        np.testing.assert_array_equal(np.moveaxis(slide.read_region(0, (0, 0), (64, 48)), -1, 0), planes[1])


@pytest.mark.parametrize("compression", ["zlib", "jpeg", None])
def test_pages_of_colour_are_images_and_not_dropped(tmp_path: Path, compression: str | None) -> None:
    images = [smooth_rgb(200, 150), smooth_rgb(200, 150)[::-1].copy()]
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, np.stack(images), photometric="rgb", tile=(64, 64), compression=compression, **options)
    with pytest.raises(StatedError, match="found 2 images: 0: 200 x 150 px; 1: 200 x 150 px"):
        open_slide(path)
    with tifffile.TiffFile(path) as tif:
        stored = [page.asarray() for page in tif.pages]
    for index, reader in enumerate(("openslide", "tifffile")):
        record = inspect_slide(SheetRow("s", "p", str(path), sparse_image=str(index)), InspectSettings())
        assert (record.sparse.reader, record.sparse.mpp) == (reader, 0.5)
        with open_side(record.sparse) as slide:
            seen = slide.read_region(0, (0, 0), (200, 150)).astype(int)
            assert np.abs(seen - stored[index]).max() <= (2 if compression == "jpeg" else 0)


def test_a_slide_behind_a_smaller_first_page_is_the_slide(tmp_path: Path) -> None:
    image = smooth_rgb(400, 300)
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in (np.full((64, 64, 3), 200, np.uint8), image):
            writer.write(page, photometric="rgb", tile=(64, 64), metadata=None)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, (0, 0), (400, 300)), image)
        assert slide.header.notes == ("leaves out image 0: 64 x 64 px, which is not a level of image 1: 400 x 300 px",)


@pytest.mark.parametrize("name", ["label image", "Macro", "thumbnail", "overview_image"])
def test_pictures_of_the_glass_are_left_aside_by_their_names(tmp_path: Path, name: str) -> None:
    images = [("slide", smooth_rgb(256, 192), UM), (name, smooth_rgb(128, 96)[::-1].copy(), {})]
    with open_slide(write_images(tmp_path / "s.ome.tif", images)) as slide:
        assert len(slide.header.levels) == 1
        assert slide.header.notes == ()


def test_an_ome_tiff_of_several_files_is_one_image_whichever_is_named(tmp_path: Path) -> None:
    image = channels_image(4, 300, 200)
    files = write_ome_set(tmp_path / "set", image, ["DAPI", "CD3", "CD8", "PanCK"])
    for file in (files[0], files[2]):
        with open_slide(file) as slide:
            assert slide.header.channels == ("DAPI", "CD3", "CD8", "PanCK")
            assert [level.downsample for level in slide.header.levels] == [1, 2]
            whole = slide.read_region(0, (0, 0), (300, 200))
            np.testing.assert_array_equal(np.moveaxis(whole, -1, 0), image)
            small = slide.read_region(1, (0, 0), (150, 100), [3, 1])
            np.testing.assert_array_equal(np.moveaxis(small, -1, 0), [halved(image[3]), halved(image[1])])


def test_files_that_an_ome_tiff_misses_are_named(tmp_path: Path) -> None:
    files = write_ome_set(tmp_path / "set", channels_image(3, 90, 70), ["DAPI", "CD3", "CD8"])
    alone = tmp_path / "alone" / files[1].name
    alone.parent.mkdir()
    shutil.copy(files[1], alone)
    with pytest.raises(StatedError, match=r"all 3 files .*, found 1; missing: focus_0\.ome\.tif, focus_2\.ome\.tif"):
        open_slide(alone)
    cut = files[2].read_bytes()
    files[2].write_bytes(cut[: len(cut) - 5000])
    with pytest.raises(StatedError, match=r"focus_2\.ome\.tif: expected a whole TIFF file"):
        open_slide(files[0])


def test_focal_planes_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.svs"
    with tifffile.TiffWriter(path) as writer:
        for height in (0.0, 0.9):
            description = f"Aperio Image Library v12.0.15|AppMag = 40|MPP = 0.2500|OffsetZ = {height:.3f}"
            options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "description": description}
            writer.write(smooth_rgb(300, 200), tile=(64, 64), **options)
    with pytest.raises(StatedError, match=r"one focal plane, found 2 \(OffsetZ 0\.000, 0\.900\)"):
        open_slide(path)
    assert capfd.readouterr() == ("", "")


def test_a_vendors_file_has_one_image(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "s.svs", [smooth_rgb(128, 96)])
    with open_slide(path, image="0") as slide:
        assert slide.header.size_xy == (128, 96)
    with pytest.raises(StatedError, match="OpenSlide shows one of this file, found ROI 1"):
        open_slide(path, image="ROI 1")


def test_the_sheet_names_images(tmp_path: Path) -> None:
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("slide\tpatient\tsparse\tdense\tsparse_image\tdense_image\ns\tp\ta.tif\tb.tif\tROI 1\t2\n")
    (row,) = read_sheet(sheet)
    assert (row.sparse_image, row.dense_image) == ("ROI 1", "2")
    sheet.write_text("slide\tpatient\tsparse\tdense_image\ns\tp\ta.tif\t2\n")
    with pytest.raises(StatedError, match="dense_image is given without a dense slide"):
        read_sheet(sheet)


def test_parts_of_slides_say_what_else_they_need(tmp_path: Path) -> None:
    for name, told in (("a.mrxs", "the folder a beside the MRXS file"), ("a.ndpis", "found a list of NDPI files")):
        path = tmp_path / name
        path.write_bytes(b"[NanoZoomer Digital Pathology Image Set]")
        with pytest.raises(StatedError, match=told):
            open_slide(path)
