"""Area of a dense slide that was never imaged is found, told from dark tissue, and makes no pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from slide_files import write_rgb

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.imaged import LARGEST_SPECKS, void_of
from pipeline.slides.inspecting import inspect_slide
from pipeline.slides.record import to_mapping
from pipeline.tiling.store import PatchStore

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


@pytest.mark.parametrize("gap", ["zeros", "absent", "white"])
def test_area_that_was_never_imaged_makes_no_pairs_and_is_counted(tmp_path: Path, gap: str) -> None:
    _he(tmp_path)
    if gap == "white":
        _ihc(tmp_path)
    else:
        _multiplex(tmp_path, gap)
    dense = tmp_path / ("dense.tif" if gap == "white" else "dense.ome.tif")
    row = SheetRow("s", "p", str(tmp_path / "he.tif"), str(dense), transform="identity")
    write_json(tmp_path / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    write_transform(tmp_path / "transform.zarr", Transform.identity(), {"verdict": "pass"})
    write_json(tmp_path / "qc.json", {"verdict": "pass", "channel": "hematoxylin" if gap == "white" else "DAPI"})
    words = ["tile", "--record", str(tmp_path / "record.json"), "--transform", str(tmp_path / "transform.zarr")]
    words += ["--qc", str(tmp_path / "qc.json"), "--out", str(tmp_path / "s.zarr")]
    assert main([*words, "--settings", '{"size_px": 64, "min_tissue": 0.1}']) == 0
    store = PatchStore.open(tmp_path / "s.zarr")
    column, line = (store.table.position_px // FIELD).T
    imaged = TAKEN[line, column]
    assert (store.table.pair_quality[~imaged] == 0).all()
    assert (store.table.pair_quality[imaged] > 0).mean() > 0.9
    assert store.attributes.counts["pair_not_imaged"] == (~imaged).sum() == 36
