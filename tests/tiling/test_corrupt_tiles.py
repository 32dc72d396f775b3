"""A broken tile costs its own patch, which is counted; many cost the job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from slide_files import channels_image, halved, smooth_rgb, write_ome, write_rgb

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides import jpeg_level
from pipeline.slides.base import CorruptTileError
from pipeline.slides.jpeg_tiles import JpegTiles, decode_strictly
from pipeline.slides.opening import open_slide
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.sparse_side import SparseSide

SIDE = 64
BROKEN = 9  # column 1 of row 1, of 8 tiles across
BROKEN_XY = [SIDE, SIDE]


def _slide(path: Path, compression: str = "jpeg") -> Path:
    noise = np.random.default_rng(3).normal(0, 12, (384, 512, 3))
    image = np.clip(smooth_rgb(512, 384) * 0.6 + 40 + noise, 0, 255).astype(np.uint8)
    return write_rgb(path, [image, halved(image)], compression=compression)


def _damage(path: Path, kind: str, number: int = BROKEN, page: int = 0) -> None:
    with tifffile.TiffFile(path) as tif:
        found = tif.pages[page]
        start, count = found.dataoffsets[number], found.databytecounts[number]
    data = bytearray(path.read_bytes())
    middle = start + count // 2
    if kind == "blank":
        data[middle : middle + 200] = bytes(200)
    elif kind == "end":
        data[middle : start + count] = bytes([0x5A]) * (start + count - middle)
    elif kind == "begin":
        data[start : start + 8] = b"no image"
    elif kind == "noise":
        rng = np.random.default_rng(1)
        data[middle : middle + 300] = rng.integers(0, 255, 300, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))


def _job(folder: Path, slide: Path, dense: Path | None = None, **settings: Any) -> int:
    row = SheetRow("s1", "p1", str(slide), str(dense) if dense else "")
    write_json(folder / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    argv = ["tile", "--record", str(folder / "record.json"), "--out", str(folder / "s1.zarr"), "--threads", "2"]
    if dense:
        write_transform(folder / "transform.zarr", Transform.identity(), {})
        write_json(folder / "qc.json", {"verdict": "pass", "channel": "DAPI"})
        argv += ["--transform", str(folder / "transform.zarr"), "--qc", str(folder / "qc.json")]
    return main([*argv, "--settings", json.dumps({"size_px": SIDE, "min_tissue": 0.0, "max_corrupt": 0.05} | settings)])


@pytest.mark.parametrize("kind", ["blank", "end", "begin"])
@pytest.mark.parametrize("options", [{}, {"codec": "zstd"}, {"grid": "exact"}], ids=str)
def test_a_broken_tile_costs_its_patch_and_is_counted(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    whole = _slide(tmp_path / "whole.tif")
    assert _job(tmp_path, whole, **options) == 0
    expected = PatchStore.open(tmp_path / "s1.zarr")
    kept = (expected.table.position_px != BROKEN_XY).any(axis=1)
    pixels = expected.read_sparse(slice(None))[kept]
    slide = _slide(tmp_path / "he.tif")
    _damage(slide, kind)
    assert _job(tmp_path, slide, **options) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    assert store.attributes.counts["corrupt"] == 1
    assert store.attributes.counts["kept"] == len(store) == kept.sum()
    np.testing.assert_array_equal(store.table.position_px, expected.table.position_px[kept])
    np.testing.assert_array_equal(store.read_sparse(slice(None)), pixels)


def test_a_slide_that_breaks_further_while_it_is_tiled_gives_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = _slide(tmp_path / "he.tif")
    _damage(slide, "begin")
    without = SparseSide.without

    def then_broken(side: SparseSide, corrupt: NDArray[np.bool_]) -> SparseSide:
        _damage(slide, "begin", number=20)
        return without(side, corrupt)

    monkeypatch.setattr(SparseSide, "without", then_broken)
    assert _job(tmp_path, slide) == 1
    assert "expected a slide that stays as it is while it is tiled" in capsys.readouterr().err
    assert not (tmp_path / "s1.zarr").exists()


def test_damage_that_looks_like_a_scan_is_found_where_tiles_are_decoded(tmp_path: Path) -> None:
    slide = _slide(tmp_path / "he.tif")
    _damage(slide, "noise")
    found = {}
    for name, options in (("copied", {}), ("verified", {"verify": True}), ("decoded", {"codec": "zstd"})):
        assert _job(tmp_path, slide, **options) == 0
        found[name] = PatchStore.open(tmp_path / "s1.zarr").attributes.counts["corrupt"]
    assert found == {"copied": 0, "verified": 1, "decoded": 1}


def test_patches_that_touch_a_broken_tile_are_lost_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiles are decoded over those that were read before, the broken one among them.
    monkeypatch.setattr(jpeg_level, "CACHE_BYTES", 2 * SIDE * SIDE * 3)
    slide = _slide(tmp_path / "he.tif")
    _damage(slide, "blank")
    assert _job(tmp_path, slide, size_px=48, mpp=0.5, max_corrupt=0.2) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    assert store.attributes.counts["corrupt"] == 4
    x, y = store.table.position_px.T
    assert not ((x < 128) & (x + 48 > 64) & (y < 128) & (y + 48 > 64)).any()


def test_a_tile_of_another_codec_is_counted_too(tmp_path: Path) -> None:
    image = smooth_rgb(512, 320)
    slide = tmp_path / "he.ome.tif"
    with tifffile.TiffWriter(slide, ome=True) as writer:
        options: dict[str, Any] = {"tile": (SIDE, SIDE), "compression": "zlib", "photometric": "rgb"}
        physical = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
        writer.write(image, subifds=1, metadata={"axes": "YXS", **physical}, **options)
        writer.write(halved(image), subfiletype=1, metadata=None, **options)
    _damage(slide, "begin")
    assert _job(tmp_path, slide) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    assert (store.attributes.counts["corrupt"], len(store)) == (1, 39)
    assert BROKEN_XY not in store.table.position_px.tolist()


def test_a_tile_that_openslide_cannot_read_costs_its_patch_only(tmp_path: Path) -> None:
    """After an error OpenSlide reads nothing more of the slide by the same handle."""
    slide = _slide(tmp_path / "he.tif", compression="deflate")
    assert _job(tmp_path, slide) == 0
    expected = PatchStore.open(tmp_path / "s1.zarr")
    kept = (expected.table.position_px != BROKEN_XY).any(axis=1)
    pixels = expected.read_sparse(slice(None))[kept]
    _damage(slide, "begin")
    assert _job(tmp_path, slide) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    assert (store.attributes.counts["corrupt"], len(store)) == (1, kept.sum())
    np.testing.assert_array_equal(store.read_sparse(slice(None)), pixels)


@pytest.mark.realdata
def test_a_broken_restart_interval_of_ndpi_costs_only_what_it_shows(real_data: Path, tmp_path: Path) -> None:
    whole = real_data / "formats" / "fluorescence-DAPI.ndpi"
    broken = tmp_path / "broken.ndpi"
    shutil.copyfile(whole, broken)
    with tifffile.TiffFile(whole) as tif:
        start = tif.pages.first.dataoffsets[300]
    with broken.open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(5000))
    with open_slide(whole) as one, open_slide(broken) as other:
        for y in (1000, 2300, 1000, 2600):
            window = (0, (512, y), (256, 256))
            if y == 2300:
                with pytest.raises(CorruptTileError, match="Restart marker"):
                    other.read_region(*window)
            else:
                np.testing.assert_array_equal(other.read_region(*window), one.read_region(*window))


def test_a_broken_tile_of_the_dense_side_costs_the_pair(tmp_path: Path) -> None:
    slide = _slide(tmp_path / "he.tif")
    dense = channels_image(2, 512, 384)
    write_ome(tmp_path / "if.ome.tif", [dense], ["DAPI", "CD3"], metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    _damage(tmp_path / "if.ome.tif", "begin")
    assert _job(tmp_path, slide, tmp_path / "if.ome.tif", max_corrupt=0.2) == 0
    store = PatchStore.open(tmp_path / "s1.zarr")
    # The margin of a patch reaches into the tiles beside it.
    assert 1 <= store.attributes.counts["corrupt"] <= 9
    assert store.attributes.counts["kept"] + store.attributes.counts["corrupt"] == 48
    assert store.read_dense(slice(None)).shape[:2] == (len(store), 2)
    assert BROKEN_XY not in store.table.position_px.tolist()


@pytest.mark.parametrize("options", [{}, {"grid": "exact"}], ids=str)
def test_more_broken_tiles_than_allowed_end_the_job(
    tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    slide = _slide(tmp_path / "he.tif")
    for number in (10, 20, 30):
        _damage(slide, "end", number)
    assert _job(tmp_path, slide, **options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "expected at most 5.00% of the patches corrupt (tile.max_corrupt), found 3 of 48" in error
    assert "slide s1" in error
    assert not (tmp_path / "s1.zarr").exists()


def test_a_tile_that_claims_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A few bytes could ask for 12 GB of pixels."""
    slide = _slide(tmp_path / "he.tif")
    data = slide.read_bytes()
    with tifffile.TiffFile(slide) as tif:
        frame = data.index(b"\xff\xc0", tif.pages.first.dataoffsets[BROKEN])
    slide.write_bytes(data[: frame + 5] + (65500).to_bytes(2, "big") * 2 + data[frame + 9 :])
    with (
        JpegTiles.open(slide, (512, 384)) as tiles,
        pytest.raises(CorruptTileError, match="65500 x 65500 px"),
    ):
        tiles.stream(BROKEN, 0)
    for options in ({}, {"grid": "exact"}):
        assert _job(tmp_path, slide, **options) == 0
        assert PatchStore.open(tmp_path / "s1.zarr").attributes.counts["corrupt"] == 1


def test_a_broken_overview_does_not_stop_the_slide(tmp_path: Path) -> None:
    slide = _slide(tmp_path / "he.tif")
    _damage(slide, "begin", number=0, page=1)
    assert _job(tmp_path, slide) == 0
    assert PatchStore.open(tmp_path / "s1.zarr").attributes.counts["corrupt"] == 0


def test_a_blank_tile_that_holds_zeros_by_right_is_kept(tmp_path: Path) -> None:
    """Optimised Huffman tables write a plain area as zero bits: it looks damaged, and the decoder says it is not."""
    image = np.full((384, 512, 3), 150, dtype=np.uint8)
    slide = tmp_path / "he.tif"
    with tifffile.TiffWriter(slide) as writer:
        writer.write(
            image,
            tile=(128, 128),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"optimize": True},
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    with tifffile.TiffFile(slide) as tif:
        start, count = tif.pages.first.dataoffsets[0], tif.pages.first.databytecounts[0]
    assert bytes(64) in slide.read_bytes()[start : start + count]
    with JpegTiles.open(slide, (512, 384)) as tiles:
        streams = tiles.streams(np.arange(12), 0)
    assert all(stream is not None for stream in streams)


def test_a_stream_without_its_end_marker_gets_one(tmp_path: Path) -> None:
    slide = _slide(tmp_path / "he.tif")
    with tifffile.TiffFile(slide) as tif:
        tag, page = tif.pages.first.tags["TileByteCounts"], tif.pages.first
        counts = list(page.databytecounts)
    with JpegTiles.open(slide, (512, 384)) as tiles:
        whole = decode_strictly(tiles.stream(5, 0))
    counts[5] -= 2
    with tifffile.TiffFile(slide, mode="r+") as tif:
        tif.pages.first.tags[tag.code].overwrite(counts)
    with JpegTiles.open(slide, (512, 384)) as tiles:
        (stream,) = tiles.streams(np.array([5]), 0)
        np.testing.assert_array_equal(decode_strictly(stream[0] + stream[1].tobytes()), whole)
        np.testing.assert_array_equal(decode_strictly(tiles.stream(5, 0)), whole)
