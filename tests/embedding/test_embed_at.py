"""The verb embed-at: the squares that TRIDENT or CLAM chose, cut from the slide and embedded."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import torch
from drawn_training import draw_pairs, train_tiny

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder

PLACES = np.array([[0, 0], [64, 32], [100, 40], [7, 130]])
TRIDENT = {"patch_size": 32, "patch_size_level0": 32, "overlap": 16, "name": "case 1", "level0_width": 192}
TRIDENT |= {"level0_height": 176, "target_magnification": 10, "level0_magnification": 10, "savetodir": "x"}
CLAM = {"patch_size": 16, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (96, 88), "name": "case 1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of 32-px patches at 1 um/px, and a slide of that resolution whose pixels are known."""
    place = tmp_path_factory.mktemp("at")
    train_tiny(place)
    tiles = draw_pairs(30, 1, 5)[0].reshape(5, 6, 32, 32, 3)
    pixels = np.zeros((176, 192, 3), np.uint8)
    pixels[:160] = tiles.transpose(0, 2, 1, 3, 4).reshape(160, 192, 3)
    resolution = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(place / "slide.tif", pixels, tile=(64, 64), photometric="rgb", **resolution)
    np.save(place / "pixels.npy", pixels)
    return place


def _coordinates(path: Path, attributes: dict[str, object], places: np.ndarray = PLACES) -> Path:
    with h5py.File(path, "w") as file:
        file["coords"] = places
        file["coords"].attrs.update(attributes)
    return path


def _embed_at(folder: Path, coords: Path, out: Path, *more: str) -> int:
    argv = ["embed-at", "--slide", str(folder / "slide.tif"), "--coords", str(coords), "--out", str(out)]
    settings = json.dumps({"precision": "fp32", "batch_size": 3})
    return main([*argv, "--encoder", str(folder / "run" / "encoder"), "--settings", settings, *more])


@pytest.mark.parametrize(("attributes", "overlap"), [(TRIDENT, 16), (CLAM, 0)])
def test_the_squares_of_either_tool_are_embedded(
    folder: Path, tmp_path: Path, attributes: dict[str, object], overlap: int
) -> None:
    assert (
        _embed_at(
            folder,
            _coordinates(tmp_path / "c.h5", attributes),
            tmp_path / "f.h5",
            "--patient",
            "anna",
            "--threads",
            "1",
        )
        == 0
    )
    pixels = np.load(folder / "pixels.npy")
    squares = np.stack([pixels[y : y + 32, x : x + 32] for x, y in PLACES])
    expected = Encoder.load(folder / "run" / "encoder", torch.device("cpu")).embed(squares)
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_allclose(file["features"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(file["coords"], PLACES)
        found = dict(file["coords"].attrs)
    assert (found["name"], found["patient"], found["overlap"]) == ("case 1", "anna", overlap)
    assert (found["patch_size"], found["patch_size_level0"], found["mpp"]) == (32, 32, 1.0)
    vectors = ["embed-slides", "--features", str(tmp_path), "--slides", "f", "--out", str(tmp_path / "s.parquet")]
    assert main(vectors) == 0
    convert = ["convert", "--features", str(tmp_path / "f.h5"), "--to", "stamp", "--out", str(tmp_path / "stamp.h5")]
    assert main(convert) == 0


@pytest.mark.parametrize(
    ("attributes", "places", "more", "message"),
    [
        (TRIDENT | {"patch_size_level0": 64}, PLACES, (), "expected patches of 32 px at 1 um/px"),
        (TRIDENT, PLACES, ("--mpp", "0.5"), "expected patches of 32 px at 1 um/px"),
        (TRIDENT, PLACES, ("--mpp", "0"), "expected um per level-0 pixel, found 0"),
        (TRIDENT, PLACES, ("--mpp", "nan"), "expected um per level-0 pixel, found nan"),
        (TRIDENT | {"level0_width": 500}, PLACES, (), "(500, 176) px, found (192, 176) px"),
        (CLAM, PLACES + 170, (), "expected coordinates within (192, 176)"),
        (CLAM, PLACES[:0], (), "found no patch"),
        ({"patch_size": 16}, PLACES, (), "neither patch_size_level0 (TRIDENT) nor downsample (CLAM)"),
    ],
)
def test_squares_that_do_not_fit_slide_or_encoder_are_refused(
    folder: Path,
    tmp_path: Path,
    attributes: dict[str, object],
    places: np.ndarray,
    more: tuple[str, ...],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    coords = _coordinates(tmp_path / "c.h5", attributes, places)
    assert _embed_at(folder, coords, tmp_path / "f.h5", *more) == 1
    assert message in capfd.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["c.h5"]
    assert _embed_at(folder, coords, coords) == 1, "the coordinates are never overwritten"
