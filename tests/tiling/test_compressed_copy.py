"""Patches that are the scanner's own JPEG bytes: the same pixels as OpenSlide's, and nothing encoded anew."""

from __future__ import annotations

import json
import struct
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from cohort import REPOSITORY
from imagecodecs import jpeg8_decode, jpeg8_encode
from numpy.typing import NDArray
from openslide import OpenSlide
from slide_files import smooth_rgb, write_rgb
from zarr.registry import get_codec_class

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.jpeg_tiles import RGB, YCBCR, JpegTiles, joined
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.jpeg_codec import JpegCodec
from pipeline.store.patch_store import PatchStore

SIDE = 64


def _noisy(width: int, height: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(7).normal(0, 12, (height, width, 3))
    return np.clip(smooth_rgb(width, height) * 0.6 + 40 + noise, 0, 255).astype(np.uint8)


def _split(stream: bytes) -> tuple[bytes, bytes]:
    """The tables of a stream, as a TIFF's JPEGTables hold them, and the stream without them or any other marker."""
    tables, rest, position = b"\xff\xd8", b"\xff\xd8", 2
    while stream[position + 1] != 0xDA:
        end = position + 2 + struct.unpack(">H", stream[position + 2 : position + 4])[0]
        if stream[position + 1] in (0xDB, 0xC4):
            tables += stream[position:end]
        elif stream[position + 1] not in (0xE0, 0xEE):
            rest += stream[position:end]
        position = end
    return tables + b"\xff\xd9", rest + stream[position:]


def _write(
    path: Path,
    *,
    subsampling: str,
    photometric: str,
    left_out: tuple[int, ...] = (),
    size_xy: tuple[int, int] = (448, 330),
) -> Path:
    """A slide with abbreviated JPEG tiles as scanners write them: tables once, colours told by the page alone."""
    width, height = size_xy
    image = _noisy(-(-width // SIDE) * SIDE, -(-height // SIDE) * SIDE)
    space = {"colorspace": "RGB", "outcolorspace": "RGB" if photometric == "rgb" else "YCBCR"}
    cut, tables = [], b""
    for y in range(0, image.shape[0], SIDE):
        for x in range(0, image.shape[1], SIDE):
            tile = np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE])
            tables, rest = _split(jpeg8_encode(tile, level=90, subsampling=subsampling, **space))
            cut.append(b"" if len(cut) in left_out else rest)
    horizontal, vertical = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[subsampling]
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter(cut),
            shape=(height, width, 3),
            dtype="uint8",
            photometric=photometric,
            subsampling=(horizontal, vertical) if photometric == "ycbcr" else None,
            compression="jpeg",
            tile=(SIDE, SIDE),
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
            metadata=None,
            jpegtables=tables,
        )
    if photometric == "rgb":
        # The writer tags every JPEG as YCbCr.
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.pages.first.tags[262].overwrite(2)
    return path


def _tile(folder: Path, slide: Path, dense: bool = False, **settings: Any) -> PatchStore:
    folder.mkdir(parents=True, exist_ok=True)
    row = SheetRow("s1", "p1", str(slide), str(slide) if dense else "")
    write_json(folder / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    argv = ["tile", "--record", str(folder / "record.json"), "--out", str(folder / "s1.zarr"), "--threads", "2"]
    if dense:
        write_transform(folder / "transform.zarr", Transform.identity(), {})
        write_json(folder / "qc.json", {"verdict": "pass", "channel": "hematoxylin"})
        argv += ["--transform", str(folder / "transform.zarr"), "--qc", str(folder / "qc.json")]
    options = {"size_px": SIDE, "min_tissue": 0.0} | settings
    assert main([*argv, "--settings", json.dumps(options)]) == 0
    return PatchStore.open(folder / "s1.zarr")


def _assert_pixels_of(store: PatchStore, slide: Path, pixels: NDArray[np.uint8]) -> None:
    side = store.attributes.size_px
    with OpenSlide(slide) as reference:
        for position, patch in zip(store.table.position_px.tolist(), pixels, strict=True):
            expected = np.asarray(reference.read_region(tuple(position), 0, (side, side)).convert("RGB"))
            np.testing.assert_array_equal(patch, expected)


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_copied_patches_are_openslides_pixels_to_the_last_bit(
    tmp_path: Path, subsampling: str, photometric: str
) -> None:
    slide = _write(tmp_path / "he.tif", subsampling=subsampling, photometric=photometric)
    store = _tile(tmp_path, slide)
    assert store.attributes.recipe["codec"] == "jpeg-copied"
    assert store.attributes.recipe["grid"] == "lattice"
    assert len(store) == 7 * 5
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))
    stock = zarr.open_group(tmp_path / "s1.zarr", mode="r")["sparse"]
    np.testing.assert_array_equal(stock[...], store.read_sparse(slice(None)))


def test_the_scan_is_the_scanners_byte_for_byte(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="ycbcr")
    _tile(tmp_path, slide)
    shard = (tmp_path / "s1.zarr" / "sparse" / "c" / "0" / "0" / "0" / "0").read_bytes()
    with tifffile.TiffFile(slide) as tif:
        page, data = tif.pages.first, slide.read_bytes()
        for offset, count in list(zip(page.dataoffsets, page.databytecounts, strict=True))[:35]:
            tile = data[offset : offset + count]
            assert tile[tile.index(b"\xff\xda") :] in shard


def test_copying_decoding_and_another_grid_agree_in_rows_and_pixels(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="422", photometric="ycbcr")
    copied = _tile(tmp_path / "copied", slide)
    for name, options in (("zstd", {"codec": "zstd"}), ("exact", {"grid": "exact"})):
        other = _tile(tmp_path / name, slide, **options)
        assert other.attributes.recipe["codec"] == "blosc-zstd"
        assert other.attributes.recipe["grid"] == ("exact" if name == "exact" else "lattice")
        np.testing.assert_array_equal(other.table.position_px, copied.table.position_px)
        np.testing.assert_array_equal(other.table.tissue, copied.table.tissue)
        np.testing.assert_array_equal(other.read_sparse(slice(None)), copied.read_sparse(slice(None)))


def test_codec_jpeg_encodes_again_with_the_rows_of_the_others_and_a_small_loss(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="422", photometric="ycbcr")
    exact = _tile(tmp_path / "zstd", slide, codec="zstd")
    wrong = {}
    for quality in (60, 95):
        store = _tile(tmp_path / f"q{quality}", slide, codec="jpeg", jpeg_quality=quality)
        assert store.attributes.recipe["codec"] == "jpeg"
        np.testing.assert_array_equal(store.table.position_px, exact.table.position_px)
        difference = store.read_sparse(slice(None)).astype(int) - exact.read_sparse(slice(None))
        wrong[quality] = np.abs(difference).mean()
    assert 0 < wrong[95] < wrong[60]
    assert wrong[95] < 3


def test_pairs_are_the_same_whether_the_sparse_side_is_copied_or_decoded(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="rgb")
    copied, decoded = (_tile(tmp_path / codec, slide, dense=True, codec=codec) for codec in ("auto", "zstd"))
    assert copied.attributes.recipe["codec"] == "jpeg-copied"
    for name, column in vars(copied.table).items():
        np.testing.assert_array_equal(column, vars(decoded.table)[name], err_msg=name)
    rows = slice(3, 30)
    np.testing.assert_array_equal(copied.read_dense(rows), decoded.read_dense(rows))
    np.testing.assert_array_equal(copied.read_sparse(rows), decoded.read_sparse(rows))


def test_a_tile_that_the_scanner_left_out_counts_as_no_tissue(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="ycbcr", left_out=(8, 9))
    store = _tile(tmp_path, slide)
    assert len(store) == 33
    assert store.attributes.counts["no_tissue"] == 2
    assert [64, 64] not in store.table.position_px.tolist()
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))


def test_patches_of_several_tiles_lie_on_the_lattice_and_are_decoded(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="ycbcr")
    store = _tile(tmp_path, slide, size_px=2 * SIDE)
    assert (store.attributes.recipe["grid"], store.attributes.recipe["codec"]) == ("lattice", "blosc-zstd")
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))


def test_a_coarser_level_is_copied_where_it_has_the_resolution_asked_for(tmp_path: Path) -> None:
    image = _noisy(512, 384)
    half = image.reshape(192, 2, 256, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    slide = write_rgb(tmp_path / "he.tif", [image, half], mpp=0.5)
    store = _tile(tmp_path, slide, mpp=1.0)
    assert store.attributes.recipe["codec"] == "jpeg-copied"
    with OpenSlide(slide) as reference:
        for position, patch in zip(store.table.position_px.tolist(), store.read_sparse(slice(None)), strict=True):
            expected = np.asarray(reference.read_region(tuple(position), 1, (SIDE, SIDE)).convert("RGB"))
            np.testing.assert_array_equal(patch, expected)


@pytest.mark.parametrize("options", [{"size_px": 48}, {"mpp": 0.7}])
def test_what_does_not_fit_the_tiles_is_decoded_or_refused(
    tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="ycbcr")
    store = _tile(tmp_path, slide, **options)
    assert (store.attributes.recipe["grid"], store.attributes.recipe["codec"]) == ("exact", "blosc-zstd")
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "other.zarr")]
    assert main([*argv, "--settings", json.dumps({"size_px": SIDE, "grid": "lattice"} | options)]) == 1
    assert "whole JPEG tiles" in capsys.readouterr().err
    assert not (tmp_path / "other.zarr").exists()


def test_a_slide_without_jpeg_tiles_is_decoded(tmp_path: Path) -> None:
    slide = write_rgb(tmp_path / "he.tif", [_noisy(320, 256)], compression="lzw")
    store = _tile(tmp_path, slide)
    assert (store.attributes.recipe["grid"], store.attributes.recipe["codec"]) == ("exact", "blosc-zstd")


def test_a_stream_says_its_colours_itself_and_no_other_marker_contradicts(tmp_path: Path) -> None:
    image = _noisy(SIDE, SIDE)
    slide = write_rgb(tmp_path / "he.tif", [np.tile(image, (2, 2, 1))])
    with JpegTiles.open(slide, (2 * SIDE, 2 * SIDE)) as tiles:
        for transform in (RGB, YCBCR):
            stream = joined(tiles.streams(np.array([2]), transform)[0])
            assert stream.count(b"Adobe") == 1
            assert stream[stream.index(b"Adobe") + 11] == transform
            assert b"JFIF" not in stream[:200]


def test_the_codec_is_spelled_as_imagecodecs_zarr_spells_it(tmp_path: Path) -> None:
    slide = _write(tmp_path / "he.tif", subsampling="420", photometric="ycbcr")
    _tile(tmp_path, slide)
    metadata = json.loads((tmp_path / "s1.zarr" / "sparse" / "zarr.json").read_text())
    inner = metadata["codecs"][0]["configuration"]["codecs"]
    assert inner == [{"name": "imagecodecs_jpeg"}, {"name": "crc32c"}]
    assert JpegCodec.from_dict({"name": "imagecodecs_jpeg", "configuration": {"level": 80}}).level == 80
    with pytest.raises(ValueError, match="tables"):
        JpegCodec.from_dict({"name": "imagecodecs_jpeg", "configuration": {"tables": "AA=="}})


def test_the_entry_point_names_the_codec() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["zarr.codecs"]["imagecodecs_jpeg"].split(":")
    assert getattr(import_module(module), name) is JpegCodec
    assert get_codec_class("imagecodecs_jpeg").__name__ in ("JpegCodec", "Jpeg")


def test_zarr_itself_can_write_through_the_codec(tmp_path: Path) -> None:
    image = smooth_rgb(SIDE, SIDE)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(2, SIDE, SIDE, 3),
        chunks=(1, SIDE, SIDE, 3),
        dtype="uint8",
        serializer=JpegCodec(95),
    )
    array[1] = image
    expected = jpeg8_decode(jpeg8_encode(image, level=95))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr", mode="r")[1], expected)


@pytest.mark.realdata
def test_patches_of_four_tiles_of_an_aperio_slide_are_openslides_pixels(tmp_path: Path, real_data: Path) -> None:
    slide = real_data / "formats" / "CMU-1-Small-Region.svs"
    store = _tile(tmp_path, slide, size_px=480)
    assert (store.attributes.recipe["grid"], store.attributes.recipe["codec"]) == ("lattice", "blosc-zstd")
    assert len(store) > 12
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))


@pytest.mark.realdata
def test_an_aperio_slide_is_copied_as_openslide_shows_it(tmp_path: Path, real_data: Path) -> None:
    slide = real_data / "formats" / "CMU-1-Small-Region.svs"
    store = _tile(tmp_path, slide, size_px=240)
    assert store.attributes.recipe["codec"] == "jpeg-copied"
    assert len(store) > 50
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))


@pytest.mark.realdata
def test_a_field_of_the_orion_slide_is_copied(tmp_path: Path, real_data: Path) -> None:
    slide = real_data / "orion_crc01" / "centre_he.tif"
    store = _tile(tmp_path, slide, size_px=256, min_tissue=0.3)
    assert store.attributes.recipe["codec"] == "jpeg-copied"
    _assert_pixels_of(store, slide, store.read_sparse(slice(None)))
