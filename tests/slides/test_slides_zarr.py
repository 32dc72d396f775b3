"""OME-Zarr: pixels, levels, names and resolution of both versions, and folders that are wrong in every way."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import Image, channels_image, halved, pyramid, smooth_rgb, window_of, write_ome
from zarr_files import change, write_zarr

from pipeline.errors import StatedError
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides import zarr_chunks
from pipeline.slides.base import CorruptTileError
from pipeline.slides.companions import slide_files_of
from pipeline.slides.imaged import void_of
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.stage import inspect_slide, source_digest

LAYOUTS = {
    "0.4": {"version": "0.4"},
    "0.5": {"version": "0.5"},
    "0.5 sharded": {"version": "0.5", "shard": 128},
    "0.4 fortran": {"version": "0.4", "order": "F"},
    "0.4 nested": {"version": "0.4", "chunk_key_encoding": {"name": "v2", "separator": "/"}},
}


def levels_of(image: Image, count: int) -> list[Image]:
    """Levels (C, H, W), each the average of 2 x 2 pixels of the one before."""
    return [np.moveaxis(level, -1, 0) for level in pyramid(np.moveaxis(image, 0, -1), count)]


def described(path: Path, **columns: Any) -> tuple[Any, list[str]]:
    """What inspect records of a dense side, and what it tells."""
    told: list[str] = []
    sparse = write_zarr(path.parent / "he.zarr", [np.moveaxis(smooth_rgb(200, 150), -1, 0)], mpp=0.5)
    record = inspect_slide(SheetRow("s", "p", str(sparse), str(path), **columns), InspectSettings(), tell=told.append)
    return record.dense, told


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_windows_show_the_pixels_that_were_written(tmp_path: Path, layout: str, dtype: str) -> None:
    image = channels_image(3, 301, 203, dtype)
    levels = levels_of(image, 2)
    path = write_zarr(tmp_path / "s.zarr", levels, ["DAPI", "CD3", "CD8"], **LAYOUTS[layout])
    with open_slide(path) as slide:
        header = slide.header
        assert (header.reader, header.mpp, header.dtype, header.notes) == ("zarr", 0.65, dtype, ())
        assert header.channels == ("DAPI", "CD3", "CD8")
        assert [(x.size_xy, x.downsample) for x in header.levels] == [((301, 203), 1.0), ((150, 101), 2.0)]
        for index, level in enumerate(levels):
            for corner, size in [
                ((0, 0), (301, 203)),
                ((-7, -9), (400, 300)),
                ((60, 50), (70, 90)),
                ((500, 3), (4, 5)),
            ]:
                shown = slide.read_region(index, corner, size)
                assert shown.dtype == dtype
                np.testing.assert_array_equal(shown, window_of(np.moveaxis(level, 0, -1), corner, size, 0))
        np.testing.assert_array_equal(
            slide.read_region(0, (10, 20), (30, 40), [2, 0]), np.moveaxis(image[[2, 0], 20:60, 10:40], 0, -1)
        )


@pytest.mark.parametrize("axes", ["".join(order) for order in permutations("cyx")] + ["tczyx", "czyx", "zyxc", "yx"])
def test_axes_may_come_in_any_order(tmp_path: Path, axes: str) -> None:
    image = channels_image(2, 90, 70)
    with open_slide(write_zarr(tmp_path / "s.zarr", [image], axes=axes, chunk=32)) as slide:
        wanted = image if "c" in axes else image[:1]
        assert slide.header.size_xy == (90, 70)
        np.testing.assert_array_equal(slide.read_region(0, (0, 0), (90, 70)), np.moveaxis(wanted, 0, -1))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Image]:
    """Five channels, of which two share a chunk."""
    image = channels_image(5, 240, 130)
    path = tmp_path_factory.mktemp("wide") / "s.zarr"
    write_zarr(path, [image])
    group = zarr.open_group(path)
    del group["0"]
    group.create_array("0", shape=image.shape, dtype=image.dtype, chunks=(2, 32, 48))[...] = image
    return path, image


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_sequence_of_windows_shows_the_right_pixels_whatever_is_kept(
    wide: tuple[Path, Image], data: st.DataObject
) -> None:
    path, image = wide
    with pytest.MonkeyPatch.context() as patch:
        # A few chunks only, so that some are forgotten and some requests are parted.
        patch.setattr(zarr_chunks, "CACHE_BYTES", 40_000)
        patch.setattr(zarr_chunks, "_BLOCK_BYTES", 15_000)
        with open_slide(path) as slide:
            for _ in range(6):
                corner = data.draw(st.tuples(st.integers(-60, 260), st.integers(-60, 160)))
                size = data.draw(st.tuples(st.integers(1, 200), st.integers(1, 150)))
                channels = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
                shown = slide.read_region(0, corner, size, channels)
                np.testing.assert_array_equal(
                    shown, window_of(np.moveaxis(image, 0, -1), corner, size, 0)[..., channels]
                )
            kept = slide._chunks._blocks
            assert sum(block.pixels.nbytes for block in kept) == slide._chunks._cached_bytes <= 40_000


def test_a_chunk_is_decoded_once_for_windows_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 256, 256)])
    with open_slide(path) as slide:
        slide.read_region(0, (10, 10), (40, 40))
        shutil.rmtree(path / "0")
        slide.read_region(0, (20, 0), (40, 60))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("names", "outcome"),
    [(None, "RGB"), (["Channel 0", "Channel 1", "Channel 2"], "RGB"), (["r", "g", "b"], "RGB"), (["A", "B", "C"], "")],
)
def test_three_channels_of_a_brightfield_side_are_its_colours(
    tmp_path: Path, version: str, names: list[str] | None, outcome: str
) -> None:
    rgb = smooth_rgb(150, 120)
    path = write_zarr(tmp_path / "he.zarr", [np.moveaxis(rgb, -1, 0)], names, version=version, mpp=0.5)
    row = SheetRow("s", "p", str(path))
    if not outcome:
        with pytest.raises(StatedError, match=r"slide s, file .*he\.zarr: expected an RGB image .*\(A, B, C\)"):
            inspect_slide(row, InspectSettings())
        return
    record = inspect_slide(row, InspectSettings())
    assert (record.sparse.channels, record.sparse.kind) == (("R", "G", "B"), "brightfield")
    with open_side(record.sparse) as slide:
        np.testing.assert_array_equal(slide.read_region(0, (-5, 0), (60, 50)), window_of(rgb, (-5, 0), (60, 50), 255))


def test_a_bright_dense_side_of_three_channels_is_asked_about_and_taken_as_the_sheet_says(tmp_path: Path) -> None:
    bright = np.moveaxis(smooth_rgb(200, 150) // 4 + 190, -1, 0)
    path = write_zarr(tmp_path / "ihc.zarr", [bright])
    with pytest.raises(StatedError, match=r"dense_kind in the sheet .*, found three bright channels without markers"):
        described(path)
    assert described(path, dense_kind="brightfield")[0].channels == ("R", "G", "B")
    assert described(path, dense_kind="fluorescence")[0].channels == ("C0", "C1", "C2")


@pytest.mark.parametrize(
    ("unit", "per_um"),
    [("micrometer", 1.0), ("nanometer", 1e3), ("millimeter", 1e-3), ("meter", 1e-6), ("angstrom", 1e4), ("µm", 1.0)],
)
def test_the_um_per_pixel_is_scale_times_unit(tmp_path: Path, unit: str, per_um: float) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)], unit=unit, mpp=0.65 * per_um)
    with open_slide(path) as slide:
        assert slide.header.mpp == pytest.approx(0.65)


@pytest.mark.parametrize(("unit", "said"), [(None, "no unit"), ("pixel", "the unit 'pixel'")])
def test_a_scale_without_a_unit_of_length_is_no_um_per_pixel(tmp_path: Path, unit: str | None, said: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 90, 70)], ["DAPI", "CD3"], unit=unit)
    expected = f"um per pixel in the file or as dense_mpp in the sheet, found a scale of 0.65 with {said}"
    with pytest.raises(StatedError, match=expected):
        described(path)
    dense, told = described(path, dense_mpp=0.65)
    assert (dense.mpp, dense.mpp_source) == (0.65, "sheet")
    assert any(said in line and "takes dense_mpp 0.65" in line for line in told)


def test_scales_of_a_level_and_of_all_levels_multiply(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", levels_of(channels_image(1, 128, 96), 2), mpp=1.0, translated=True)
    all_levels = [{"type": "scale", "scale": [1, 0.25, 0.25]}, {"type": "translation", "translation": [0, 40.0, 7.0]}]
    change(path, lambda own: own["multiscales"][0].update(coordinateTransformations=all_levels))
    with open_slide(path) as slide:
        assert slide.header.mpp == 0.25
        assert [level.downsample for level in slide.header.levels] == [1.0, 2.0]


@pytest.mark.parametrize("translated", [False, True])
def test_levels_of_any_factor_are_placed_by_scale_and_translation(tmp_path: Path, translated: bool) -> None:
    image = channels_image(1, 300, 210)
    third = image.reshape(1, 70, 3, 100, 3).mean(axis=(2, 4)).astype("uint16")
    path = write_zarr(tmp_path / "s.zarr", [image, third], downsamples=[1, 3], translated=translated)
    with open_slide(path) as slide:
        assert [(x.size_xy, x.downsample) for x in slide.header.levels] == [((300, 210), 1.0), ((100, 70), 3.0)]
        assert slide.header.notes == ()


def test_a_level_that_lies_elsewhere_by_its_translation_is_left_out_and_told(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", levels_of(channels_image(1, 256, 192), 3), translated=True, mpp=1.0)

    def move(own: dict[str, Any]) -> None:
        # Level 1 begins 10 um further right than averaging makes it.
        own["multiscales"][0]["datasets"][1]["coordinateTransformations"][1]["translation"] = [0, 0.5, 10.5]

    change(path, move)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1.0, 4.0]
        (note,) = slide.header.notes
        assert note.startswith("leaves out level 1, whose translation puts its pixels 5, 0 of them (x, y) from where ")
        levels = slide.header.levels
    with open_slide(path, levels=levels) as again:
        assert again.header.levels == levels
        np.testing.assert_array_equal(again.read_region(1, (0, 0), (64, 48))[..., 0], zarr.open(path)["2"][0])


def test_scales_that_contradict_the_sizes_are_told(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", levels_of(channels_image(1, 256, 192), 2), downsamples=[1, 1])
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1.0, 2.0]
        assert slide.header.notes == ("level of 128 x 96 px: 1 times level 0 by its scale, takes 2 by its size",)


@pytest.mark.parametrize("shard", [None, 128])
def test_chunks_that_are_not_stored_show_the_fill_value_are_told_and_count_as_never_imaged(
    tmp_path: Path, shard: int | None
) -> None:
    image = channels_image(2, 256, 256) | np.uint16(1)
    path = write_zarr(tmp_path / "s.zarr", [image], ["DAPI", "CD3"], shard=shard)
    side = shard or 64
    for channel in (0, 1):
        (path / "0" / "c" / str(channel) / "0" / "1").unlink()
    with open_slide(path) as slide:
        chunks = 2 * (256 // side) ** 2
        line = f"chunks that are not stored show 0, as the format says: 2 of {chunks} in level 0"
        assert slide.header.notes == (line,)
        shown = slide.read_region(0, (0, 0), (256, 256))
    wanted = np.moveaxis(image, 0, -1).copy()
    wanted[:side, side : 2 * side] = 0
    np.testing.assert_array_equal(shown, wanted)
    void = void_of(shown, is_rgb=False)
    assert void is not None
    np.testing.assert_array_equal(void.mask, (wanted == 0).all(axis=-1))


@pytest.mark.parametrize("compressors", ["zstd", "gzip", "blosc", None])
@pytest.mark.parametrize("shard", [None, 128])
def test_a_chunk_that_was_cut_off_is_named_and_the_others_are_read(
    tmp_path: Path, compressors: str | None, shard: int | None
) -> None:
    codecs = {
        "zstd": zarr.codecs.ZstdCodec(), "gzip": zarr.codecs.GzipCodec(), "blosc": zarr.codecs.BloscCodec(), None: None,
    }  # fmt: skip
    image = channels_image(2, 256, 128)
    path = write_zarr(tmp_path / "s.zarr", [image], shard=shard, compressors=codecs[compressors])
    file = path / "0" / "c" / "1" / "0" / "1"
    file.write_bytes(file.read_bytes()[:100])
    with open_slide(path, slide="s1") as slide:
        with pytest.raises(CorruptTileError) as error:
            slide.read_region(0, (0, 0), (256, 128))
        place = r"c 1, y 0, x 2" if shard else r"c 1, y 0, x 1"
        assert (error.value.slide, error.value.file) == ("s1", path)
        assert error.value.expected == f"readable pixels in chunk {place} of level 0"
        np.testing.assert_array_equal(slide.read_region(0, (0, 0), (64, 64))[..., 1], image[1, :64, :64])


@pytest.mark.parametrize("cut", [0, 3, 100, 0.9])
def test_blosc_of_zarr_v2_that_was_cut_off_anywhere_is_named(tmp_path: Path, cut: float) -> None:
    image = channels_image(1, 64, 64)
    path = write_zarr(tmp_path / "s.zarr", [image], version="0.4", compressors=numcodecs.Blosc(cname="lz4"))
    file = path / "0" / "0.0.0"
    stored = file.read_bytes()
    file.write_bytes(stored[: int(cut * len(stored)) if cut == 0.9 else int(cut)])
    with open_slide(path) as slide, pytest.raises(CorruptTileError, match=r"c 0, y 0, x 0 of level 0, found .* bytes"):
        slide.read_region(0, (0, 0), (64, 64))


def _no_multiscales(own: dict[str, Any]) -> None:
    del own["multiscales"]


def _swapped(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"].reverse()


def _no_scale(own: dict[str, Any]) -> None:
    del own["multiscales"][0]["datasets"][1]["coordinateTransformations"]


def _short_scale(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, 0.65]


def _text_scale(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, "a", 0.65]


def _no_length(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [1, 0, 0]


def _old_axes(own: dict[str, Any]) -> None:
    own["multiscales"][0].update(axes=["c", "y", "x"], version="0.3")


def _other_axis(own: dict[str, Any]) -> None:
    own["multiscales"][0]["axes"][0] = {"name": "lambda"}


def _absent_level(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"][1]["path"] = "7"


def _outside(own: dict[str, Any]) -> None:
    own["multiscales"][0]["datasets"][1]["path"] = "../../other"


def _two_axes(own: dict[str, Any]) -> None:
    own["multiscales"][0]["axes"].pop(0)
    for dataset in own["multiscales"][0]["datasets"]:
        dataset["coordinateTransformations"][0]["scale"].pop(0)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (_no_multiscales, r"a group with multiscales \(OME-Zarr\), found a group with "),
        (lambda own: own.update(multiscales=[]), r"multiscales, a list of images, found \[\]"),
        (_swapped, "levels from the finest to the coarsest, found 1 of 45 x 35 px with scale 1.3 before 0 of 90 x 70"),
        (_no_scale, r"a scale of dataset 1 \(NGFF 0.4 or 0.5\), found none"),
        (_short_scale, r"3 numbers as scale of dataset 0, found \[1, 0.65\]"),
        (_text_scale, r"3 numbers as scale of dataset 0, found \[1, 'a', 0.65\]"),
        (_no_length, r"a scale above 0 of dataset 0, found 0, 0"),
        (_old_axes, r"axes with names \(NGFF 0.4 or 0.5\), found \['c', 'y', 'x'\] in version 0.3"),
        (_other_axis, "axes y and x, and of c, t and z each once, found lambda, y, x"),
        (_absent_level, "an array 7, found none"),
        (_outside, r"\.\./\.\./other"),
        (_two_axes, "2 dimensions, for the axes y, x, found 3 in 0"),
    ],
)
def test_metadata_that_are_wrong_are_told_in_one_line(
    tmp_path: Path, version: str, edit: Callable[[dict[str, Any]], None], line: str
) -> None:
    path = write_zarr(tmp_path / "s.zarr", levels_of(channels_image(2, 90, 70), 2), version=version)
    change(path, edit)
    with pytest.raises(StatedError, match=line) as error:
        open_slide(path, slide="s1")
    assert error.value.slide == "s1"
    assert str(path) in str(error.value.file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("axes", "shape", "found"),
    [("tcyx", (4, 2, 70, 90), "t of length 4"), ("czyx", (2, 5, 70, 90), "z of length 5")],
)
def test_a_time_series_and_a_z_stack_are_named(tmp_path: Path, axes: str, shape: tuple[int, ...], found: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 90, 70)], axes=axes)
    group = zarr.open_group(path)
    del group["0"]
    group.create_array("0", shape=shape, dtype="uint16", chunks=shape)
    with pytest.raises(StatedError, match=f"an image of one plane .*, found {found}"):
        open_slide(path)


@pytest.mark.parametrize("dtype", ["complex64", "int64", "float64", "S4"])
def test_pixels_that_cannot_be_kept_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)], version="0.4")
    group = zarr.open_group(path)
    del group["0"]
    group.create_array("0", shape=(1, 70, 90), dtype=dtype, chunks=(1, 64, 64))
    with pytest.raises(StatedError, match=r"pixels of type uint8, .*: write it again as uint16 or float32, found "):
        open_slide(path)


@pytest.mark.parametrize("kind", ["plate", "well", "labels"])
def test_plates_wells_and_groups_of_labels_are_refused(tmp_path: Path, kind: str) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    group.attrs["ome"] = {"version": "0.5", kind: {} if kind != "labels" else ["cells"]}
    with pytest.raises(
        StatedError, match=f"expected one image: name the folder of one within .*, found a .*{kind[:4]}"
    ):
        open_slide(tmp_path / "s.zarr")


@pytest.mark.parametrize("damage", ["no json", "a list", "no shape"])
def test_broken_metadata_files_are_told(tmp_path: Path, damage: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)])
    file = path / ("zarr.json" if damage != "no shape" else "0/zarr.json")
    text = {"no json": "{", "a list": "[]", "no shape": '{"zarr_format": 3, "node_type": "array"}'}[damage]
    file.write_text(text)
    with pytest.raises(StatedError) as error:
        open_slide(path, slide="s")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_folder_without_metadata_is_no_slide(tmp_path: Path) -> None:
    with pytest.raises(StatedError, match=r"a slide file or an OME-Zarr folder .*, found a folder"):
        open_slide(tmp_path)


def test_labels_beside_the_image_are_left_out_and_one_of_them_is_a_mask(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 90, 70)], ["DAPI", "CD3"])
    label = np.random.default_rng(0).integers(0, 3, (1, 70, 90)).astype("uint8")
    zarr.open_group(path / "labels", mode="w").attrs["ome"] = {"version": "0.5", "labels": ["cells"]}
    write_zarr(path / "labels" / "cells", [label], axes="yx")
    with open_slide(path) as slide:
        assert slide.header.notes == ("leaves out the label images cells; each can be named as a mask",)
    with open_slide(path / "labels" / "cells") as mask:
        assert (mask.header.channels, mask.header.dtype) == (("C0",), "uint8")
        np.testing.assert_array_equal(mask.read_region(0, (0, 0), (90, 70))[..., 0], label[0])


def bioformats2raw(folder: Path, images: list[tuple[Image, str | None]], version: str = "0.4") -> Path:
    """The layout of bioformats2raw: a group for each image, in a group that is none."""
    root = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    root.attrs.update({"bioformats2raw.layout": 3})
    for index, (image, unit) in enumerate(images):
        write_zarr(folder / str(index), [image], version=version, unit=unit, axes="tczyx")
    (folder / "OME").mkdir()
    (folder / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    return folder


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_folder_of_bioformats2raw_and_its_child_0_are_the_same_slide(tmp_path: Path, version: str) -> None:
    image, label = channels_image(2, 300, 200), channels_image(3, 60, 50, "uint8")
    path = bioformats2raw(tmp_path / "s.zarr", [(image, "micrometer"), (label, None)], version)
    for folder in (path, path / "0"):
        with open_slide(folder) as slide:
            np.testing.assert_array_equal(slide.read_region(0, (0, 0), (300, 200)), np.moveaxis(image, 0, -1))
    with open_slide(path) as slide:
        assert slide.header.notes == (
            "leaves out image 1 (image): 60 x 50 px, which is not image 0 (image): 300 x 200 px",
        )
    with open_slide(path, image="1") as slide:
        assert slide.header.size_xy == (60, 50)


def test_of_several_images_that_may_be_meant_the_sheet_has_to_choose(tmp_path: Path) -> None:
    images = [(channels_image(2, 300, 200), "micrometer"), (channels_image(2, 250, 190), "micrometer")]
    path = bioformats2raw(tmp_path / "s.zarr", images)
    expected = r"one image, or its name or number in the sheet .*, found 2 images: 0 \(image\): 300 x 200 px; 1 \(im"
    with pytest.raises(StatedError, match=expected):
        open_slide(path)
    with pytest.raises(StatedError, match="one image named or numbered 5"):
        open_slide(path, image="5")
    with open_slide(path, image="1") as slide:
        assert slide.header.size_xy == (250, 190)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_workflow_looks_at_metadata_files_and_the_hash_at_chunks_too(tmp_path: Path, version: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 300, 200)], version=version)
    names = {"0.4": [".zattrs", ".zgroup", "0/.zattrs", "0/.zarray"], "0.5": ["zarr.json", "0/zarr.json"]}[version]
    files = slide_files_of(path)
    assert sorted(str(file.relative_to(path)) for file in files) == sorted(n for n in names if (path / n).exists())
    digests = [source_digest(path)]
    chunk = sorted(file for file in (path / "0").rglob("*") if file.is_file() and file not in files)[-1]
    stored = chunk.read_bytes()
    chunk.write_bytes(stored + b"\0")
    digests.append(source_digest(path))
    chunk.unlink()
    digests.append(source_digest(path))
    chunk.write_bytes(stored)
    change(path, lambda own: own.update(omero={"channels": [{"label": "A"}, {"label": "B"}]}))
    digests.append(source_digest(path))
    assert len(set(digests)) == 4
    shutil.copytree(path, tmp_path / "copy.zarr")
    os.utime(tmp_path / "copy.zarr", (1, 1))
    assert source_digest(tmp_path / "copy.zarr") == digests[-1]


def test_the_files_of_bioformats2raw_are_those_of_all_its_images(tmp_path: Path) -> None:
    path = bioformats2raw(tmp_path / "s.zarr", [(channels_image(1, 90, 70), "micrometer")])
    found = {str(file.relative_to(path)) for file in slide_files_of(path)}
    assert {".zattrs", ".zgroup", "0/.zattrs", "0/.zgroup", "0/0/.zarray"} <= found
    assert not any(Path(name).name.isdecimal() for name in found)


def test_images_without_compression_of_one_size_have_different_hashes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 60000, (1, 200, 300)).astype("uint16") for _ in range(2)]
    one, two = (write_zarr(tmp_path / f"{i}.zarr", [x], compressors=None) for i, x in enumerate(images))
    assert source_digest(one) != source_digest(two)


def test_pixels_equal_those_of_an_ome_tiff_and_the_record_says_what_reads_them(tmp_path: Path) -> None:
    image = channels_image(3, 300, 200)
    folder = write_zarr(tmp_path / "d.zarr", [image, np.stack([halved(x) for x in image])], ["DAPI", "CD3", "CD8"])
    tiff = write_ome(tmp_path / "d.ome.tif", [image, np.stack([halved(x) for x in image])], ["DAPI", "CD3", "CD8"])
    (one, _), (other, _) = described(folder), described(tiff)
    assert (one.reader, one.mpp, one.kind) == ("zarr", 0.65, "fluorescence")
    assert (one.levels, one.channels, one.dtype) == (other.levels, other.channels, other.dtype)
    with open_side(one) as a, open_side(other) as b:
        for level in (0, 1):
            np.testing.assert_array_equal(
                a.read_region(level, (-3, 9), (120, 140)), b.read_region(level, (-3, 9), (120, 140))
            )


def test_the_same_folder_and_a_copy_are_found_by_the_doctor(tmp_path: Path) -> None:
    from pipeline.settings import Settings
    from pipeline.tools.doctor.shared_images import shared_images

    one = write_zarr(tmp_path / "1.zarr", [channels_image(3, 90, 70, "uint8")])
    other = write_zarr(tmp_path / "2.zarr", [channels_image(3, 91, 70, "uint8")])
    shutil.copytree(one, tmp_path / "copy.zarr")
    rows = [SheetRow(name, name, str(path)) for name, path in (("a", one), ("b", other), ("c", tmp_path / "copy.zarr"))]
    found = [str(finding) for finding in shared_images(rows, Settings())]
    assert len(found) == 1
    assert "slide c" in found[0]
    assert "the same bytes as slide a of another patient" in found[0]


def test_a_names_list_of_another_length_is_told(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(2, 90, 70)], ["DAPI"])
    with open_slide(path) as slide:
        assert slide.header.channels == ("C0", "C1")
        assert slide.header.notes == ("1 names in the file for 2 channels, so that none is used",)


def test_metadata_of_any_kind_of_json_are_refused_without_a_traceback(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", levels_of(channels_image(1, 90, 70), 2))
    whole = json.loads((path / "zarr.json").read_text())
    own = whole["attributes"]["ome"]
    for key in ("axes", "datasets"):
        for value in (None, 3, "text", 10**400, {}, [None], [3], [{}], [{"name": 3}], [{"path": 3}], [{"path": "0"}]):
            own_changed = {**own, "multiscales": [{**own["multiscales"][0], key: value}]}
            (path / "zarr.json").write_text(json.dumps({**whole, "attributes": {"ome": own_changed}}))
            with pytest.raises(StatedError):
                open_slide(path)


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), True, None, "1", [1]])
@pytest.mark.parametrize("kind", ["scale", "translation"])
def test_a_transformation_of_anything_but_numbers_is_refused(tmp_path: Path, kind: str, value: object) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)], translated=True)
    steps = [{"type": "scale", "scale": [1, 0.5, 0.5]}, {"type": "translation", "translation": [0, 0, 0]}]
    next(step for step in steps if step["type"] == kind)[kind] = [0, 1, value]
    change(path, lambda own: own["multiscales"][0]["datasets"][0].update(coordinateTransformations=steps))
    with pytest.raises(StatedError, match=f"3 numbers as {kind} of dataset 0"):
        open_slide(path)


@pytest.mark.parametrize(
    ("shape", "chunks", "line"),
    [
        ((1, 999_999, 999_999), (1, 1, 1), "at most 16777216 chunks in a channel, found 999998000001 of 1 x 1 px in 0"),
        ((1, 99_999, 99_999), (1, 99_999, 99_999), "chunks below 2 GiB"),
        ((1, 64, 2_000_000), (1, 64, 64), "sides of at most 1000000 px, found 2000000 x 64 px"),
        ((20_000, 4, 4), (1, 4, 4), "pixels in 1 to 16384 channels"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_read(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], line: str
) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)])
    group = zarr.open_group(path)
    del group["0"]
    group.create_array("0", shape=shape, dtype="uint16", chunks=chunks)
    with pytest.raises(StatedError, match=line):
        open_slide(path)


def test_where_zarr_is_not_installed_the_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zarr(tmp_path / "s.zarr", [channels_image(1, 90, 70)])
    for name in [name for name in sys.modules if name.startswith("pipeline.slides.zarr_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(StatedError, match="the package zarr, which the environment of register"):
        open_slide(path)
