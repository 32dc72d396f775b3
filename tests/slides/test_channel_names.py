"""Where channels and their names come from: OME-XML, pages, labels of ImageJ, images of one channel each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slide_files import channels_image, halved, smooth_rgb

from pipeline.errors import StatedError
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.opening import open_slide
from pipeline.slides.stage import inspect_slide

NAMES = ("DAPI", "CD3", "CD8", "PanCK")
IMAGE = channels_image(4, 150, 110)
PLAIN: dict[str, Any] = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
GREY: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64), "compression": "deflate"}
SIZE = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def _assert_channels(path: Path, names: tuple[str, ...], remark: str = "") -> None:
    with open_slide(path) as slide:
        assert slide.header.channels == names
        assert slide.header.mpp == pytest.approx(0.5)
        np.testing.assert_array_equal(slide.read_region(0, (0, 0), (150, 110)), np.moveaxis(IMAGE, 0, -1))
        picked = slide.read_region(0, (20, 30), (50, 40), [3, 1])
        np.testing.assert_array_equal(picked, np.moveaxis(IMAGE[[3, 1], 30:70, 20:70], 0, -1))
        assert any(remark in line for line in slide.header.notes) or not remark
        assert bool(slide.header.notes) == bool(remark)


def _pages(path: Path, of_page: Callable[[str], dict[str, Any]]) -> None:
    with tifffile.TiffWriter(path) as writer:
        for name, plane in zip(NAMES, IMAGE, strict=True):
            writer.write(plane, metadata=None, **of_page(name), **PLAIN, **GREY)


def test_the_tag_page_name_names_channels(tmp_path: Path) -> None:
    _pages(tmp_path / "s.tif", lambda name: {"extratags": [(285, "s", 0, name, True)]})
    _assert_channels(tmp_path / "s.tif", NAMES)


def test_descriptions_of_pages_name_channels(tmp_path: Path) -> None:
    _pages(tmp_path / "s.tif", lambda name: {"description": f" {name}\n"})
    _assert_channels(tmp_path / "s.tif", NAMES)


@pytest.mark.parametrize(
    "describe",
    [
        lambda name: "the same for all",
        lambda name: "" if name == "CD3" else name,
        lambda name: f'{{"name": "{name}"}}',
        lambda name: f"<page>{name}</page>",
        lambda name: f"name={name}",
        lambda name: name + " and a long story" * 10,
    ],
)
def test_descriptions_that_are_no_names_name_nothing(tmp_path: Path, describe: Callable[[str], str]) -> None:
    _pages(tmp_path / "s.tif", lambda name: {"description": describe(name)})
    _assert_channels(tmp_path / "s.tif", ("C0", "C1", "C2", "C3"))


def test_labels_of_imagej_lose_their_place_in_the_stack(tmp_path: Path) -> None:
    labels = [f"c:{index + 1}/4 - {name}" for index, name in enumerate(NAMES)]
    metadata = {"axes": "CYX", "unit": "um", "Labels": labels}
    tifffile.imwrite(tmp_path / "s.tif", IMAGE, imagej=True, resolution=(2, 2), metadata=metadata)
    _assert_channels(tmp_path / "s.tif", NAMES)


def test_names_are_one_line_with_single_spaces(tmp_path: Path) -> None:
    names = ["DAPI ", "CD3\n(clone  SP7)", "CD8\t", "PanCK"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}, **SIZE}
    tifffile.imwrite(tmp_path / "s.ome.tif", IMAGE, ome=True, metadata=metadata, **GREY)
    with open_slide(tmp_path / "s.ome.tif") as slide:
        assert slide.header.channels == ("DAPI", "CD3 (clone SP7)", "CD8", "PanCK")


@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_names_than_channels_is_told(tmp_path: Path, count: int) -> None:
    written = tmp_path / "written.ome.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": list(NAMES)}, **SIZE}
    tifffile.imwrite(written, IMAGE, ome=True, metadata=metadata, **GREY)
    text = tifffile.TiffFile(written).ome_metadata or ""
    start = text.index('<Channel ID="Channel:0:3"')
    last = text[start : text.index("<", text.index(">", start))]
    if "/>" not in last:
        last = text[start : text.index("</Channel>", start) + len("</Channel>")]
    text = text.replace(last, "" if count == 3 else last + last.replace("PanCK", "CD20"))
    tifffile.imwrite(tmp_path / "s.ome.tif", IMAGE, description=text.encode(), metadata=None, **GREY)
    _assert_channels(tmp_path / "s.ome.tif", ("C0", "C1", "C2", "C3"), f"{count} names in the file for 4 channels")


def test_points_in_time_of_one_channel_are_channels_and_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "s.ome.tif", IMAGE, ome=True, metadata={"axes": "TYX", **SIZE}, **GREY)
    _assert_channels(tmp_path / "s.ome.tif", ("C0", "C1", "C2", "C3"), "4 points in time")


@pytest.mark.parametrize("axes", ["ZYX", "TCYX", "TZYX"])
def test_stacks_and_series_of_channels_are_refused(tmp_path: Path, axes: str) -> None:
    image = IMAGE if len(axes) == 3 else IMAGE.reshape(2, 2, 110, 150)
    tifffile.imwrite(tmp_path / "s.ome.tif", image, ome=True, metadata={"axes": axes, **SIZE}, **GREY)
    with pytest.raises(StatedError, match="one plane"):
        open_slide(tmp_path / "s.ome.tif")


def _apart(path: Path, of_image: Callable[[int], dict[str, Any]], levels: int = 1, **options: Any) -> Path:
    """Each channel written by a call of its own."""
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as writer:
        for index, plane in enumerate(IMAGE):
            more = GREY | PLAIN | options
            writer.write(plane, metadata={"axes": "YX", **SIZE, **of_image(index)}, subifds=levels - 1, **more)
            if levels > 1:
                writer.write(halved(plane), metadata=None, subfiletype=1, **more)
    return path


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize(
    "of_image",
    [
        lambda i: {"Name": NAMES[i]},
        lambda i: {"Channel": {"Name": NAMES[i]}},
        lambda i: {"Name": "slide 7", "Channel": {"Name": NAMES[i]}},
        lambda i: {"Name": NAMES[i], "Plane": {"PositionX": [10.0], "PositionY": [20.0]}},
    ],
)
def test_images_with_names_of_their_own_are_channels(
    tmp_path: Path, of_image: Callable[[int], dict[str, Any]], levels: int
) -> None:
    path = _apart(tmp_path / "s.ome.tif", of_image, levels)
    _assert_channels(path, NAMES, "4 images of one plane and one size taken as channels")
    with open_slide(path) as slide:
        assert len(slide.header.levels) == levels
        small = slide.read_region(levels - 1, (0, 0), slide.header.levels[-1].size_xy)
    expected = [halved(plane) if levels > 1 else plane for plane in IMAGE]
    np.testing.assert_array_equal(small, np.moveaxis(np.stack(expected), 0, -1))


def test_images_that_tifffile_wrote_one_call_each_are_channels(tmp_path: Path) -> None:
    path = _apart(tmp_path / "s.tif", lambda _: {})
    _assert_channels(path, ("C0", "C1", "C2", "C3"), "4 images of one plane and one size taken as channels")


def test_a_thumbnail_beside_images_of_a_channel_each_is_no_channel(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(smooth_rgb(40, 30), photometric="rgb", metadata={"Name": "thumbnail"})
        for name, plane in zip(NAMES, IMAGE, strict=True):
            writer.write(plane, metadata={"axes": "YX", "Name": name, **SIZE}, **GREY)
    _assert_channels(path, NAMES, "taken as channels")


@pytest.mark.parametrize(
    "of_image",
    [
        lambda i: {},
        lambda i: {"Name": "DAPI"},
        lambda i: {"Name": f"ROI {i}"},
        lambda i: {"Name": f"scene_{i}"},
        lambda i: {"Name": NAMES[i], "Plane": {"PositionX": [10.0 * i], "PositionY": [20.0]}},
    ],
)
def test_images_that_may_be_regions_are_no_channels(tmp_path: Path, of_image: Callable[[int], dict[str, Any]]) -> None:
    path = _apart(tmp_path / "s.ome.tif", of_image)
    with pytest.raises(StatedError, match="one image, or its name or number"):
        open_slide(path)


def test_images_of_several_resolutions_are_no_channels(tmp_path: Path) -> None:
    path = _apart(
        tmp_path / "s.ome.tif", lambda i: {"Name": NAMES[i], "PhysicalSizeX": 0.5 + i, "PhysicalSizeY": 0.5 + i}
    )
    with open_slide(path) as slide:
        assert len(slide.header.channels) == 1
        assert any("leaves out image 1 (CD3)" in line for line in slide.header.notes)


def test_colour_images_of_one_size_are_no_channels(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name in NAMES:
            writer.write(smooth_rgb(150, 110), photometric="rgb", metadata={"Name": name})
    with pytest.raises(StatedError, match="one image, or its name or number"):
        open_slide(path)


def test_inspect_tells_how_channels_were_taken(tmp_path: Path) -> None:
    he = tmp_path / "he.tif"
    tifffile.imwrite(he, smooth_rgb(150, 110), photometric="rgb", tile=(64, 64), metadata=None, **PLAIN)
    dense = _apart(tmp_path / "s.ome.tif", lambda i: {"Name": NAMES[i]})
    told: list[str] = []
    record = inspect_slide(SheetRow("s", "p", str(he), str(dense)), InspectSettings(), tell=told.append)
    assert record.dense is not None
    assert record.dense.channels == NAMES
    assert [line for line in told if "slide s" in line and "taken as channels" in line]
