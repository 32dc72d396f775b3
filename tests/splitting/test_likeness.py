"""One slide written twice is known as one; other slides of the same outline, colours and texture are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from drawn_store import write_store
from numpy.typing import NDArray
from slide_files import halved, pyramid, write_rgb

from pipeline.cli import main
from pipeline.splitting.likeness import is_same
from pipeline.splitting.stage import read_slide_patches, with_exports
from pipeline.store.patch_store import PatchStore

SIDE = 1024


def _slide(seed: int) -> NDArray[np.uint8]:
    """An ellipse of one texture on glass; only the nuclei differ by the seed, as in sections of one block."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    inside = ((x / SIDE - 0.5) / 0.4) ** 2 + ((y / SIDE - 0.5) / 0.35) ** 2 < 1
    pink = np.stack([215 + 15 * np.sin(x / 37), 150 + 25 * np.sin(y / 41), 185 + 15 * np.cos((x + y) / 53)], -1)
    image = np.where(inside[..., None], pink, 243).astype(np.uint8)
    for cx, cy in rng.uniform(0.1 * SIDE, 0.9 * SIDE, (1500, 2)).astype(int):
        if inside[cy, cx]:
            cv2.circle(image, (int(cx), int(cy)), 5, (95, 60, 140), -1)
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _tile(folder: Path, name: str, image: NDArray[np.uint8], mpp: float = 1.0, **written: Any) -> None:
    """Inspect and tile a slide as a user does, without a dense side."""
    path = write_rgb(folder / f"{name}.tif", pyramid(image, 2), mpp=mpp, **written)
    record = folder / f"{name}.json"
    assert main(["inspect", "--slide", name, "--patient", name, "--sparse", str(path), "--out", str(record)]) == 0
    argv = ["tile", "--record", str(record), "--out", str(folder / f"{name}.zarr")]
    assert main([*argv, "--settings", json.dumps({"size_px": 96, "mpp": 2.0})]) == 0


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("likeness")
    image = _slide(0)
    poor = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    _tile(folder, "first", image)
    _tile(folder, "poor", np.asarray(poor, np.uint8), compression="deflate", tile=128)
    _tile(folder, "coarse", halved(image), mpp=2.0)
    _tile(folder, "other", _slide(1))
    return folder


def _split(folder: Path, *slides: str) -> int:
    out = ["--out", str(folder / "p.tsv"), "--out-summary", str(folder / "s.json"), "--settings", "{}"]
    return main(["split", "--stores", str(folder), "--slides", *slides, *out])


@pytest.mark.parametrize("again", ["poor", "coarse"])
def test_a_slide_written_twice_under_two_patients_is_refused(
    tiled: Path, capsys: pytest.CaptureFixture[str], again: str
) -> None:
    assert _split(tiled, "first", again, "other") == 1
    said = capsys.readouterr().err
    assert f"slide {again}: expected another H&E slide than slide first has" in said
    assert f"found the same nuclei at the same places, written twice, in both (patients first and {again})" in said


def test_slides_that_differ_by_their_nuclei_only_are_two(tiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Patches tell them apart even where the whole does not, as in drawn or nearly uniform tissue.
    first, other = (PatchStore.open(tiled / f"{name}.zarr") for name in ("first", "other"))
    assert is_same(first, other) is False
    assert _split(tiled, "first", "other") == 0
    assert "alike" not in capsys.readouterr().err
    assert json.loads((tiled / "s.json").read_text())["same_images"] == []


def test_a_slide_written_twice_of_one_patient_is_told(tiled: Path) -> None:
    stores = [tiled / f"{name}.zarr" for name in ("first", "poor", "coarse", "other")]
    found, doubts = with_exports([read_slide_patches(store) for store in stores], stores)
    assert [item.images.get("exported", "") for item in found] == ["first", "first", "first", ""]
    assert doubts == []


def test_slides_that_look_alike_and_cannot_be_compared_are_told(tiled: Path, tmp_path: Path) -> None:
    stores = [tiled / "first.zarr", tmp_path / "s2.zarr"]
    write_store(stores[1], sparse=np.zeros((4, 16, 16, 3), np.uint8), slide="s2", mpp=4.0)
    first, second = (read_slide_patches(store) for store in stores)
    assert second.structure is None
    same = type(second)(**{**vars(second), "structure": first.structure})
    _, doubts = with_exports([first, same], stores)
    assert doubts == ["slides first and s2 look alike, and no patches tell them apart: one slide?"]
