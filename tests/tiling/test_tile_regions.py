"""The tile stage with ink on the slide and annotations in the sheet: what is dropped, and for what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from slide_files import pyramid, write_rgb

from pipeline.cli import main
from pipeline.provenance import write_json
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.regions import EXCLUDED, PEN, TISSUE

SIDE = 1536
PATCH = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """record.json of a slide, 2 um per pixel: tissue on the left half, a broad green stroke across all of it."""
    folder = tmp_path_factory.mktemp("ink")
    rng = np.random.default_rng(0)
    image = np.full((SIDE, SIDE, 3), 243.0)
    image[:, : SIDE // 2] = (200, 130, 180)
    stroke = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(stroke, (0, 640), (SIDE, 640), 1, 256)
    image[stroke > 0] *= np.array([30, 120, 75]) / 245
    image += rng.normal(0, 3, image.shape)
    write_rgb(folder / "ink.tif", pyramid(np.clip(image, 0, 255).astype(np.uint8), 3), mpp=2.0)
    record = inspect_slide(SheetRow("ink", "p", str(folder / "ink.tif")), InspectSettings())
    write_json(folder / "record.json", to_mapping(record))
    return folder


def _tile(folder: Path, out: Path, *argv: str, **settings: Any) -> int:
    known = {"size_px": PATCH, "min_tissue": 0.6} | settings
    said = ["tile", "--record", str(folder / "record.json"), "--out", str(out / "s.zarr"), *argv]
    return main([*said, "--settings", json.dumps(known)])


def _annotation(name: str, left: int, top: int, right: int, bottom: int) -> dict[str, Any]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    properties = {"objectType": "annotation", "classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def _write(path: Path, *features: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_squares_under_ink_are_dropped_and_counted_as_pen(folder: Path, tmp_path: Path) -> None:
    assert _tile(folder, tmp_path) == 0
    store = PatchStore.open(tmp_path / "s.zarr")
    counts = store.attributes.counts
    assert counts["pen"] == 2 * 12, "two rows of squares, on tissue and on glass"
    assert counts["kept"] == len(store) == 10 * 6
    assert counts["no_tissue"] == 10 * 6
    assert sum(counts.values()) == 12 * 12
    assert not np.isin(store.table.position_px[:, 1], [4 * PATCH, 5 * PATCH]).any()
    assert (store.overview_regions == PEN).any()


def test_ink_counts_as_tissue_where_nothing_is_to_be_dropped(folder: Path, tmp_path: Path) -> None:
    assert _tile(folder, tmp_path, drop=[]) == 0
    counts = PatchStore.open(tmp_path / "s.zarr").attributes.counts
    assert counts["pen"] == 0
    assert counts["kept"] == 10 * 6 + 2 * 12


def test_squares_out_of_focus_are_dropped_where_blur_is_looked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.full((SIDE, SIDE, 3), (215, 150, 200), dtype=np.uint8)
    for x, y in rng.integers(0, SIDE, (6000, 2)):
        cv2.circle(image, (int(x), int(y)), 5, (95, 65, 140), -1, cv2.LINE_AA)
    image[:, SIDE // 2 :] = cv2.GaussianBlur(image, (0, 0), 4)[:, SIDE // 2 :]
    image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    write_rgb(tmp_path / "blurred.tif", pyramid(image, 3), mpp=1.0)
    record = inspect_slide(SheetRow("blurred", "p", str(tmp_path / "blurred.tif")), InspectSettings())
    write_json(tmp_path / "record.json", to_mapping(record))
    for drop, blurred in ((["blur"], 12 * 6), ([], 0)):
        assert _tile(tmp_path, tmp_path, drop=drop) == 0
        counts = PatchStore.open(tmp_path / "s.zarr").attributes.counts
        assert counts["blur"] == blurred
        assert counts["kept"] == 12 * 12 - blurred


def test_what_was_found_comes_out_and_as_annotation_gives_the_same_store(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert _tile(folder, tmp_path, "--outlines", str(tmp_path / "found.geojson")) == 0
    assert _tile(folder, tmp_path / "again", "--tissue", str(tmp_path / "found.geojson")) == 0
    first, again = (PatchStore.open(path / "s.zarr") for path in (tmp_path, tmp_path / "again"))
    np.testing.assert_array_equal(first.overview_regions, again.overview_regions)
    np.testing.assert_array_equal(first.table.position_px, again.table.position_px)
    assert first.attributes.counts == again.attributes.counts
    assert "tissue" in again.attributes.provenance["inputs"]
    assert "tissue" not in first.attributes.provenance["inputs"]


def test_annotations_decide_what_is_tissue_and_what_is_left_out(folder: Path, tmp_path: Path) -> None:
    tissue = _annotation("Tissue", 0, 0, 4 * PATCH, 3 * PATCH)
    excluded = _annotation("Exclude", 0, 0, PATCH, 3 * PATCH)
    given = _write(tmp_path / "given.geojson", tissue, excluded)
    assert _tile(folder, tmp_path, "--tissue", str(given)) == 0
    store = PatchStore.open(tmp_path / "s.zarr")
    assert store.attributes.counts["kept"] == 3 * 3
    assert store.attributes.counts["excluded"] == 3
    assert set(np.unique(store.overview_regions)) == {0, TISSUE, EXCLUDED}
    given = _write(tmp_path / "given.geojson", excluded)
    assert _tile(folder, tmp_path, "--tissue", str(given)) == 0
    counts = PatchStore.open(tmp_path / "s.zarr").attributes.counts
    assert counts["excluded"] == 3
    assert counts["kept"] == 10 * 6 - 3
    assert counts["pen"] == 2 * 12


def test_wrong_annotations_are_stated_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = _write(tmp_path / "wrong.geojson", _annotation("Tumour", 0, 0, 9, 9))
    for path, told in ((wrong, "'Tumour'"), (tmp_path / "none.geojson", "No such file")):
        assert _tile(folder, tmp_path, "--tissue", str(path)) == 1
        error = capsys.readouterr().err.strip()
        assert told in error
        assert path.name in error
        assert "\n" not in error
    everything = _write(tmp_path / "all.geojson", _annotation("Exclude", 0, 0, SIDE, SIDE))
    assert _tile(folder, tmp_path, "--tissue", str(everything)) == 1
    assert "144 excluded" in capsys.readouterr().err
    assert not (tmp_path / "s.zarr").exists()
