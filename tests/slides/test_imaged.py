"""Area of a dense slide that was never imaged is found, told from dark tissue, and makes no pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from array_slide import ArraySlide
from numpy.typing import NDArray
from slide_files import write_rgb

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.registration.images import NuclearSource
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.imaged import LARGEST_SPECKS, void_of
from pipeline.slides.opening import open_slide
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore

SIDE, FIELD = 512, 128
TAKEN = np.zeros((4, 4), dtype=np.bool_)
TAKEN[1:3, :3] = TAKEN[0, 0] = True


def _noise(channels: int, dtype: str = "uint16") -> NDArray[Any]:
    rng = np.random.default_rng(3)
    return rng.integers(1, 250, (200, 200, channels)).astype(dtype)


def _dark_tissue(channels: int) -> NDArray[np.uint8]:
    """Smooth signal of 8 bits, cut off at 0, as contrast windows leave it."""
    rng = np.random.default_rng(4)
    smooth = [cv2.GaussianBlur(rng.normal(0, 1, (400, 400)), (0, 0), 9) for _ in range(channels)]
    return np.clip(np.stack(smooth, axis=-1) * 1500 - 20, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_field_of_one_value_is_void_to_its_very_edge(dtype: str, value: int, channels: int) -> None:
    pixels = _noise(channels, dtype)
    pixels[40:, 90:] = value
    found = void_of(pixels, is_rgb=False)
    assert found is not None
    expected = np.zeros((200, 200), dtype=np.bool_)
    expected[40:, 90:] = True
    assert (found.mask != expected).mean() < 0.001
    assert found.specks < LARGEST_SPECKS


def test_white_is_void_in_colours_and_a_value_of_one_channel_is_not() -> None:
    pixels = _noise(3, "uint8")
    pixels[:50, :50] = 255
    pixels[100:180, 100:180, 1] = 0
    found = void_of(pixels, is_rgb=True)
    assert found is not None
    assert found.mask.sum() == 50 * 50
    assert void_of(pixels[60:], is_rgb=True) is None


def test_a_rotated_field_is_void() -> None:
    shown = np.zeros((200, 200), dtype=np.uint8)
    cv2.fillConvexPoly(shown, np.array([[100, 10], [190, 100], [100, 190], [10, 100]]), 1)
    pixels = _noise(2) * shown[..., None]
    found = void_of(pixels, is_rgb=False)
    assert found is not None
    assert (found.mask != (shown == 0)).mean() < 0.01
    assert found.specks < LARGEST_SPECKS


def test_small_runs_tell_dark_tissue_cut_off_at_0() -> None:
    found = void_of(_dark_tissue(2), is_rgb=False)
    assert found is not None
    assert found.specks > 5 * LARGEST_SPECKS


def _he(folder: Path) -> None:
    rng = np.random.default_rng(1)
    he = np.tile(np.array([225, 180, 210], dtype=np.uint8), (SIDE, SIDE, 1))
    for x, y in rng.uniform(0, SIDE, (900, 2)):
        cv2.circle(he, (int(x), int(y)), 5, (90, 50, 130), -1)
    write_rgb(folder / "he.tif", [he], mpp=0.5)


def _multiplex(folder: Path, gap: str) -> None:
    """Fields of 128 px of which nine were never taken."""
    he = tifffile.imread(folder / "he.tif")
    rng = np.random.default_rng(2)
    signal = np.where(he[..., 0] < 150, 3000, 120) + rng.normal(0, 15, he.shape[:2])
    planes = np.stack([signal, 400 + rng.normal(0, 15, he.shape[:2])]).clip(1).astype(np.uint16)

    def tiles() -> Any:
        for plane in planes:
            for row, column in np.ndindex(TAKEN.shape):
                tile = plane[row * FIELD : (row + 1) * FIELD, column * FIELD : (column + 1) * FIELD]
                yield np.ascontiguousarray(tile) if TAKEN[row, column] else None if gap == "absent" else tile * 0

    tifffile.imwrite(
        folder / "dense.ome.tif",
        tiles(),
        shape=planes.shape,
        dtype=planes.dtype,
        tile=(FIELD, FIELD),
        photometric="minisblack",
        compression="deflate",
        ome=True,
        metadata={
            "axes": "CYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeY": 0.5,
            "Channel": {"Name": ["DAPI", "CD3"]},
        },
    )


def _ihc(folder: Path) -> None:
    he = tifffile.imread(folder / "he.tif")
    shown = np.repeat(np.repeat(TAKEN, FIELD, axis=0), FIELD, axis=1)
    write_rgb(folder / "dense.tif", [np.where(shown[..., None], he, 255).astype(np.uint8)], mpp=0.5)


def _tiled(folder: Path, dense: Path, channel: str) -> PatchStore:
    row = SheetRow("s", "p", str(folder / "he.tif"), str(dense), transform="identity")
    write_json(folder / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    write_transform(folder / "transform.zarr", Transform.identity(), {"verdict": "pass"})
    write_json(folder / "qc.json", {"verdict": "pass", "channel": channel})
    argv = ["tile", "--record", str(folder / "record.json"), "--transform", str(folder / "transform.zarr")]
    argv += ["--qc", str(folder / "qc.json"), "--out", str(folder / "s.zarr")]
    assert main([*argv, "--settings", '{"size_px": 64, "min_tissue": 0.1}']) == 0
    return PatchStore.open(folder / "s.zarr")


@pytest.mark.parametrize("gap", ["zeros", "absent", "white"])
def test_area_that_was_never_imaged_makes_no_pairs_and_is_counted(tmp_path: Path, gap: str) -> None:
    _he(tmp_path)
    if gap == "white":
        _ihc(tmp_path)
    else:
        _multiplex(tmp_path, gap)
    dense = tmp_path / ("dense.tif" if gap == "white" else "dense.ome.tif")
    store = _tiled(tmp_path, dense, "hematoxylin" if gap == "white" else "DAPI")
    column, line = (store.table.position_px // FIELD).T
    imaged = TAKEN[line, column]
    assert (store.table.pair_quality[~imaged] == 0).all()
    assert (store.table.pair_quality[imaged] > 0).mean() > 0.9
    assert store.attributes.counts["pair_not_imaged"] == (~imaged).sum() == 36


def _source(pixels: NDArray[Any], channels: tuple[str, ...], channel: int | None) -> NuclearSource:
    return NuclearSource(ArraySlide(pixels, downsamples=(1, 2), channels=channels), 0.5, channel)


@pytest.mark.parametrize("value", [0, 900])
def test_registration_sees_no_inside_where_nothing_was_imaged(value: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 4000, (1024, 1024, 2)).astype(np.uint16)
    pixels[:, 600:] = value
    source = _source(pixels, ("DAPI", "CD3"), 0).without_void(2.0)
    for mpp in (0.5, 1.0, 4.0):
        image = source.read(mpp)
        edge = 600 * 0.5 / image.mpp
        assert image.inside[:, : int(edge - 4 / image.mpp)].all()
        assert not image.inside[:, int(edge + 4 / image.mpp) + 1 :].any()
    part = source.read(0.5, np.array([[250.0, 100.0], [350.0, 150.0]]))
    assert part.inside[:, :90].all()
    assert not part.inside[:, 110:].any()


def test_registration_sees_no_inside_in_white_fields_of_a_stained_slide() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(100, 255, (1024, 1024, 3)).astype(np.uint8)
    pixels[:400] = 255
    image = _source(pixels, ("R", "G", "B"), None).without_void(2.0).read(1.0)
    assert not image.inside[:195].any()
    assert image.inside[205:].all()


def test_registration_takes_dark_tissue_and_whole_slides_as_they_are() -> None:
    rng = np.random.default_rng(0)
    whole = _source(rng.integers(1, 4000, (512, 512, 1)).astype(np.uint16), ("DAPI",), 0)
    assert whole.without_void(1.0) is whole
    rng = np.random.default_rng(4)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (1024, 1024)), (0, 0), 25)
    dark = _source(np.clip(smooth * 4000 - 20, 0, 255).astype(np.uint8)[..., None], ("DAPI",), 0)
    assert dark.without_void(2.0) is dark


@pytest.mark.realdata
def test_tissue_of_a_real_slide_with_its_background_cut_off_is_imaged(real_data: Path) -> None:
    with open_slide(real_data / "orion_crc01/west_mif.ome.tif", slide="s") as slide:
        source = NuclearSource(slide, 1.3, 0)
        assert source.without_void(5.2) is source
        found = void_of(slide.read_region(0, (2000, 2000), (1024, 1024)), is_rgb=False)
    assert found is None or found.specks > 5 * LARGEST_SPECKS


def test_a_dense_slide_that_was_imaged_elsewhere_only_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _he(tmp_path)
    planes = np.zeros((2, SIDE, SIDE), np.uint16)
    planes[:, :16, :16] = 50
    tifffile.imwrite(
        tmp_path / "dense.ome.tif",
        planes,
        photometric="minisblack",
        ome=True,
        metadata={"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "CD3"]}},
    )
    _tiled(tmp_path, tmp_path / "dense.ome.tif", "DAPI")
    assert "slide s: none of 64 patches is a pair (64 pair_not_imaged)" in capsys.readouterr().err
