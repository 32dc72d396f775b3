"""What `convert` wrote, opened by AnnData, SpatialData and LazySlide themselves, which live in .venv-peers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from cohort import REPOSITORY

from pipeline.cli import main

ENCODER = "distilled-abababababab"
FEATURES = np.random.default_rng(1).normal(0, 100, (4, 3)).astype(np.float32)
CORNERS_PX = np.array([[0, 0], [64, 0], [3, 64], [512, 320]])
PIXELS = np.random.default_rng(2).integers(0, 256, (400, 600, 3), dtype=np.uint8)
ATTRIBUTES = {
    "patch_size": 32, "patch_size_level0": 64, "name": "s1", "overlap": 0, "level0_magnification": 20.0,
    "level0_width": 600, "level0_height": 400, "mpp": 1.0, "mpp_level0": 0.5, "patient": "p1", "encoder": "ab" * 32,
    "encoder_run": "distilled",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(peers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the readers found in the conversions of four patches of a slide, all in one process."""
    folder = tmp_path_factory.mktemp("peers")
    tifffile.imwrite(folder / "slide.tif", PIXELS, tile=(256, 256), photometric="rgb")
    with h5py.File(folder / "features.h5", "w") as file:
        file["features"], file["coords"] = FEATURES, CORNERS_PX
        file["coords"].attrs.update(ATTRIBUTES)
    paths = [folder / name for name in ("s1.h5ad", "s1.zarr", "slide.tif", "new.zarr")]
    for to, out in zip(("anndata", "spatialdata"), paths, strict=False):
        assert main(["convert", "--features", str(folder / "features.h5"), "--to", to, "--out", str(out)]) == 0
    script = REPOSITORY / "tests" / "open_with_peers.py"
    done = subprocess.run([peers_python, script, *paths], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


def test_anndata_opens_the_file(found: dict[str, Any]) -> None:
    opened = found["anndata"]
    np.testing.assert_array_equal(opened["X"], FEATURES)
    assert opened["names"] == ["s1_0", "s1_1", "s1_2", "s1_3"]
    assert opened["obs"]["slide"] == ["s1"] * 4
    for axis, name in enumerate("xy"):
        np.testing.assert_array_equal(opened["obs"][f"{name}_px"], CORNERS_PX[:, axis])
        np.testing.assert_allclose(opened["obs"][f"{name}_um"], CORNERS_PX[:, axis] * 0.5)
    np.testing.assert_array_equal(opened["spatial"], CORNERS_PX + 31.5)
    assert (opened["mpp_level0"], opened["encoder"]) == (0.5, ENCODER)


@pytest.mark.parametrize("what", ["spatialdata", "written by spatialdata"])
def test_spatialdata_opens_the_folder_and_writes_it_again(found: dict[str, Any], what: str) -> None:
    opened = found[what]
    np.testing.assert_array_equal(opened["X"], FEATURES)
    np.testing.assert_array_equal(opened["bounds"], np.hstack([CORNERS_PX, CORNERS_PX + 64]))
    assert opened["areas"] == [64.0**2] * 4
    np.testing.assert_array_equal(opened["spatial"], CORNERS_PX + 31.5)
    assert (opened["table"], opened["region"], opened["annotated"]) == (f"{ENCODER}_tiles", "tiles", 4)
    assert opened["slide_properties"] == {"mpp": 0.5, "shape": [400, 600]}


def test_lazyslide_finds_tiles_and_features_beside_the_slide(found: dict[str, Any]) -> None:
    opened = found["lazyslide"]
    np.testing.assert_array_equal(opened["X"], FEATURES)
    assert (opened["mpp"], opened["tile"]) == (0.5, [64, 32, 1.0])
    cut = [PIXELS[y : y + 64, x : x + 64] for x, y in CORNERS_PX]
    np.testing.assert_array_equal(opened["pixels"], cut)
