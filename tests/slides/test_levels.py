"""Which images of a file are levels, at which downsample: padded sizes, copied tags, label pictures."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from slide_files import Image, channels_image, halved, pyramid, smooth_rgb, write_dicom, write_ome

from pipeline.frame import pixel_to_um
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.base import Level
from pipeline.slides.jpeg_tiles import JpegTiles
from pipeline.slides.opening import open_side, open_slide
from pipeline.slides.pyramid import StoredLevel, kept_levels, possible_downsamples, recorded_levels
from pipeline.slides.stage import inspect_slide, source_digest
from pipeline.tissue.mask import read_overview

TILE = 64
SIZE = (500, 900)


def padded_size(size_xy: tuple[int, int], factor: int, tile: int) -> tuple[int, int]:
    width, height = (math.ceil(math.ceil(side / factor) / tile) * tile for side in size_xy)
    return width, height


def padded(image: Image) -> Image:
    """White up to whole tiles, as some writers store levels."""
    height, width = (-(-side // TILE) * TILE for side in image.shape[:2])
    out = np.full((height, width, *image.shape[2:]), 255, image.dtype)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def textured_rgb(width: int, height: int) -> Image:
    """Dark squares of 16 px at random, which every level shows."""
    cells = np.random.default_rng(0).integers(0, 150, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return cells.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]


def rounded_up(image: Image) -> Image:
    """Half the size, rounded up, so that no level loses its last row."""
    odd = [(0, side % 2) for side in image.shape[:2]]
    return halved(np.pad(image, [*odd, (0, 0)], mode="edge"))


def padded_pyramid(image: Image, count: int) -> list[Image]:
    levels = [image]
    while len(levels) < count:
        levels.append(rounded_up(levels[-1]))
    return [image, *(padded(level) for level in levels[1:])]


def write_padded(path: Path, levels: list[Image], *, tags: str = "own", compression: str = "zlib") -> Path:
    """Write a plain TIFF whose levels state their own resolution, that of level 0, or none; or an OME-TIFF."""
    options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "compression": compression}
    if path.name.endswith(".ome.tif"):
        size = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        with tifffile.TiffWriter(path, ome=True) as writer:
            writer.write(levels[0], subifds=len(levels) - 1, metadata=size, **options)
            for level in levels[1:]:
                writer.write(level, subfiletype=1, metadata=None, **options)
        return path
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            factor = 2**index if tags == "own" else 1
            stated = {"resolution": (1e4 / 0.5 / factor,) * 2, "resolutionunit": "CENTIMETER"}
            resolution = {} if tags == "none" else stated
            writer.write(level, subfiletype=int(index > 0), metadata=None, **options, **resolution)
    return path


@pytest.mark.parametrize(
    ("name", "tags"), [("s.tif", "own"), ("s.tif", "copied"), ("s.tif", "none"), ("s.ome.tif", "none")]
)
@pytest.mark.parametrize("size_xy", [SIZE, (600, 600), (523, 411)])
def test_levels_padded_to_whole_tiles_show_every_place_where_it_is(
    tmp_path: Path, name: str, tags: str, size_xy: tuple[int, int]
) -> None:
    """A bright square, found by its centroid at each level; sizes alone would place it up to a quarter off."""
    width, height = size_xy
    image = textured_rgb(width, height)
    x, y = width - 128, height - 128
    image[y : y + 64, x : x + 64] = 255
    path = write_padded(tmp_path / name, padded_pyramid(image, 4), tags=tags)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2, 4, 8]
        assert slide.header.levels[3].size_xy == (math.ceil(width / 8), math.ceil(height / 8))
        for index, level in enumerate(slide.header.levels):
            region = slide.read_region(index, (0, 0), level.size_xy)[..., 0].astype(float)
            bright = np.argwhere(region > 200)
            seen = pixel_to_um(bright[:, ::-1].mean(axis=0), downsample=level.downsample, mpp=0.5)
            assert seen == pytest.approx(((x + 31.5) * 0.5, (y + 31.5) * 0.5), abs=0.5 * level.downsample)
            beyond = slide.read_region(index, (level.size_xy[0], 0), (5, 5))
            assert (beyond == 255).all()


def test_the_overview_of_padded_levels_has_the_true_um_per_pixel(tmp_path: Path) -> None:
    path = write_padded(tmp_path / "s.tif", padded_pyramid(smooth_rgb(*SIZE), 5))
    with open_slide(path) as slide:
        overview = read_overview(slide, 0.5)
        assert overview.mpp == 8.0
        assert overview.rgb.shape[:2] == (-(-SIZE[1] // 16), -(-SIZE[0] // 16))


def test_the_jpeg_tiles_of_a_padded_level_are_found_by_the_size_of_its_field(tmp_path: Path) -> None:
    levels = padded_pyramid(smooth_rgb(*SIZE), 3)
    path = write_padded(tmp_path / "s.tif", levels, compression="jpeg")
    with open_slide(path) as slide:
        level = slide.header.levels[2]
        assert level == Level((125, 225), 4.0)
        assert slide.jpeg_transform(2) is not None
        with JpegTiles.open(path, level.size_xy) as tiles:  # type: ignore[union-attr]
            assert tiles.across == levels[2].shape[1] // TILE
        with tifffile.TiffFile(path) as tif:
            np.testing.assert_array_equal(slide.read_region(2, (0, 0), (125, 225)), tif.pages[2].asarray()[:225, :125])


@pytest.mark.parametrize("tags", ["copied", "none"])
def test_a_label_picture_of_a_fitting_size_is_no_level(tmp_path: Path, tags: str) -> None:
    image = smooth_rgb(1024, 1024)
    label = np.full((256, 256, 3), 255, np.uint8)
    label[40:90:8, 30:200] = 0
    path = write_padded(tmp_path / "s.tif", [image, halved(image), label], tags=tags)
    row = SheetRow("s", "p", str(path), sparse_mpp=0.5)
    told: list[str] = []
    record = inspect_slide(row, InspectSettings(), tell=told.append)
    assert [level.downsample for level in record.sparse.levels] == [1, 2]
    assert any("leaves out image 2: 256 x 256 px, which is not a level" in line for line in told)
    with open_side(record.sparse) as slide:
        assert slide.header.levels == record.sparse.levels


def test_a_picture_of_half_the_size_whose_tags_name_no_unit_is_no_level(tmp_path: Path) -> None:
    # One pixel per nothing, as writers say that know nothing, is no scale beside 0.5 um: the pixels must decide.
    path, other = tmp_path / "s.tif", np.ascontiguousarray(textured_rgb(512, 512)[::-1])
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None}
        writer.write(textured_rgb(1024, 1024), resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **options)
        writer.write(other, subfiletype=1, **options)
    with open_slide(path) as slide:
        assert slide.header.levels == (Level((1024, 1024), 1.0),)
        assert any("512 x 512 px, which is not a level" in note for note in slide.header.notes)


def test_a_tiled_picture_of_other_shape_in_an_svs_is_no_level(tmp_path: Path) -> None:
    path, text = tmp_path / "s.svs", "Aperio Image Library v12.0\r\n1024x768|AppMag = 20|MPP = 0.5"
    image = textured_rgb(1024, 768)
    with tifffile.TiffWriter(path) as writer:
        for level in (image, halved(halved(image)), textured_rgb(192, 128)):
            writer.write(level, tile=(TILE, TILE), photometric="rgb", description=text, metadata=None, software=False)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 4]
        assert any("192 x 128 px" in note for note in slide.header.notes)


def test_levels_of_a_plain_tiff_without_own_tags_stay(tmp_path: Path) -> None:
    path = write_padded(tmp_path / "s.tif", pyramid(smooth_rgb(400, 300), 3), tags="copied")
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2, 4]
        assert slide.header.notes == ()


def _some_tiles(image: Image) -> Iterator[Image | None]:
    """Each tile of an image but every fifth, which lie elsewhere on each level."""
    for y in range(0, image.shape[0], TILE):
        for x in range(0, image.shape[1], TILE):
            whole = np.zeros((TILE, TILE, 3), np.uint8)
            part = image[y : y + TILE, x : x + TILE]
            whole[: part.shape[0], : part.shape[1]] = part
            yield None if (x // TILE + y // TILE) % 5 == 4 else whole


@pytest.mark.parametrize("compression", [None, "jpeg", "deflate"])
def test_a_level_stays_where_the_file_leaves_out_other_tiles_than_at_the_finer_one(
    tmp_path: Path, compression: str | None
) -> None:
    path = tmp_path / "s.tif"
    whole = np.full((1024, 1024, 3), 255, np.uint8)
    whole[320:704, 320:704] = textured_rgb(384, 384)
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate(pyramid(whole, 2)):
            writer.write(
                _some_tiles(image),
                shape=image.shape,
                dtype=image.dtype,
                tile=(TILE, TILE),
                photometric="rgb",
                compression=compression,
                subfiletype=1 if index else 0,
                metadata=None,
                resolution=(2e4, 2e4),
                resolutionunit="CENTIMETER",
            )
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2]
        assert slide.header.notes == ()


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_levels_of_a_plain_tiff_in_subifds_are_read(tmp_path: Path, compression: str) -> None:
    levels = pyramid(smooth_rgb(403, 302), 3)
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": compression, "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        for index, image in enumerate(levels):
            more = {"subfiletype": 1} if index else {"subifds": 2}
            writer.write(image, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **more, **options)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2, 4]
        assert slide.header.notes == ()
        for index, image in enumerate(levels):
            found = slide.read_region(index, (0, 0), (image.shape[1], image.shape[0]))
            assert np.abs(found.astype(int) - image).mean() < (3 if compression == "jpeg" else 1e-9)


def test_structureless_levels_stay_where_their_size_is_certain(tmp_path: Path) -> None:
    blank = np.full((512, 512, 3), 240, np.uint8)
    path = write_padded(tmp_path / "s.tif", [blank, blank[::2, ::2], blank[::4, ::4]], tags="none")
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2, 4]


def test_fluorescence_levels_that_are_images_of_their_own_are_compared(tmp_path: Path) -> None:
    image = channels_image(2, 256, 192)
    small = np.stack([halved(plane) for plane in image])
    other = channels_image(2, 64, 48) // 2
    path = tmp_path / "s.tif"
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64), "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        for plane in (*image, *small, *other):
            writer.write(plane, **options)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2]
        assert slide.header.notes == ("leaves out image 2: 64 x 48 px, which is not a level of image 0: 256 x 192 px",)


@settings(deadline=None)
@given(st.integers(300, 5000), st.integers(300, 5000), st.sampled_from([2, 4, 8]), st.sampled_from([64, 240, 256]))
def test_a_levels_own_tag_decides_wherever_it_fits_the_sizes(width: int, height: int, factor: int, tile: int) -> None:
    size = padded_size((width, height), factor, tile)
    level = StoredLevel(size, (tile, tile), 0.5 * factor)
    fits = all(small <= side for small, side in zip(size, (width, height), strict=True))
    found = possible_downsamples(StoredLevel((width, height), (tile, tile), 0.5), level)
    assert found == ((float(factor),) if fits else ())


@settings(deadline=None)
@given(st.integers(600, 5000), st.integers(600, 5000), st.sampled_from([2, 4, 8]), st.sampled_from([32, 64]))
@example(768, 768, 8, 64)  # 96 px in tiles of 64 are 128, a sixth of 768
def test_without_tags_the_true_factor_is_among_the_possible_ones(
    width: int, height: int, factor: int, tile: int
) -> None:
    size = padded_size((width, height), factor, tile)
    found = possible_downsamples(StoredLevel((width, height)), StoredLevel(size, (tile, tile)))
    assert float(factor) in found


def test_a_downsample_that_nothing_tells_is_left_out() -> None:
    """512 px in tiles of 256 may be 257 to 512 px of the slide: factors 8 and 16 both fit, and pixels are blank."""
    stored = [StoredLevel((4100, 4100), (256, 256)), StoredLevel((512, 512), (256, 256))]
    assert possible_downsamples(*stored) == (8.0, 16.0)
    assert len(kept_levels(stored, lambda *_: None)) == 1
    chosen = kept_levels(stored, lambda _level, _finer, downsample, _last: float(downsample == 16.0))
    assert [level for _, level in chosen] == [Level((4100, 4100), 1.0), Level((257, 257), 16.0)]


def test_levels_of_a_record_are_those_of_the_file_again() -> None:
    stored = [StoredLevel((1000, 600), (256, 256), 0.5), StoredLevel((512, 512), (256, 256), 1.0)]
    kept = kept_levels(stored, lambda *_: None)
    assert recorded_levels(stored, [level for _, level in kept]) == kept
    assert recorded_levels(stored[:1], [level for _, level in kept]) is None


def test_a_dicom_level_has_the_downsample_of_its_pixel_spacing(tmp_path: Path) -> None:
    from openslide import OpenSlide

    from pipeline.slides.openslide_levels import stored_levels

    class Shown(OpenSlide):
        """A slide of the sizes that the header states, for no small DICOM file is at hand."""

        def __init__(self) -> None:
            pass

        level_dimensions = ((3000, 2500), (1536, 1280))

        def close(self) -> None:
            pass

    path = write_dicom(tmp_path / "1.dcm", "1.2.3")
    write_dicom(tmp_path / "other.dcm", "1.2.4")
    base, level = stored_levels(Shown(), path, "dicom")
    assert (level.tile_xy, level.um) == ((512, 256), pytest.approx(0.5))
    whole = StoredLevel(base.size_xy, (512, 256), 0.25)
    assert possible_downsamples(whole, level) == (2.0,)


def test_ome_images_without_um_that_fit_are_levels_of_older_writers(tmp_path: Path) -> None:
    image = channels_image(2, 256, 192)
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for planes in (image, np.stack([halved(plane) for plane in image])):
            writer.write(planes, photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.header.levels] == [1, 2]
    plain = write_ome(tmp_path / "one.ome.tif", [image], None)
    with open_slide(plain) as slide:
        assert len(slide.header.levels) == 1


@pytest.mark.realdata
def test_a_padded_level_of_a_dicom_slide_goes_by_its_pixel_spacing(real_data: Path, tmp_path: Path) -> None:
    """The real slide, its colours named as its frames have them, with a copy that claims to be its padded half."""
    for file in (real_data / "formats" / "CMU-1-Small-Region-dicom").iterdir():
        content = file.read_bytes().replace(b"CS\x08\x00YBR_FULL", b"CS\x04\x00RGB ", 1)
        (tmp_path / file.name).write_bytes(content)
        if b"VOLUME\\NONE" not in content[:2000]:
            continue
        for tag, whole, half in ((6, 2220, 1200), (7, 2967, 1680)):
            begin = struct.pack("<HH", 0x0048, tag) + b"UL\x04\x00"
            content = content.replace(begin + struct.pack("<I", whole), begin + struct.pack("<I", half))
        name = file.stem.encode()
        content = content.replace(b"0.000499", b"0.000998").replace(name, name[:-1] + b"9")
        # Files of the series are found whatever their endings.
        (tmp_path / "half").write_bytes(content)
    write_dicom(tmp_path / "another.dcm", "1.2.3")
    with open_slide(tmp_path / "half") as slide:
        assert slide.header.reader == "openslide"
        assert slide.header.levels == (Level((2220, 2967), 1.0), Level((1110, 1484), 2.0))
        assert (slide.read_region(1, (1110, 0), (90, 40)) == 255).all()
    digests = {source_digest(file) for file in tmp_path.iterdir() if file.name != "another.dcm"}
    assert len(digests) == 1
