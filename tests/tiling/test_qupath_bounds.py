"""QuPath counts from the corner of the scanned part of a slide: what comes from it and goes to it does, too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from slide_files import write_scn

from pipeline.cli import main
from pipeline.json_file import read_json
from pipeline.prediction.table import Predictions
from pipeline.prediction.tiles_geojson import write_tiles
from pipeline.slides.record import read_record
from pipeline.store.patch_store import PatchStore

# The scanned part, level-0 pixels on a sheet of 2048 x 2048; tissue is the right half of its height.
LEFT, TOP, WIDTH, HEIGHT, SHEET = 512, 768, 1024, 768, 2048
TISSUE_LEFT = 512


def _draw_slide(path: Path) -> None:
    rng = np.random.default_rng(0)
    image = np.full((HEIGHT, WIDTH, 3), 243.0)
    image[:, TISSUE_LEFT:] = (190, 120, 170)
    write_scn(path, np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8), (LEFT, TOP), SHEET)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bounds")
    _draw_slide(folder / "s.scn")
    argv = ["inspect", "--slide", "s", "--patient", "p", "--sparse", str(folder / "s.scn")]
    assert main([*argv, "--out", str(folder / "r.json")]) == 0
    return folder / "r.json"


def _annotated(path: Path, left: float, top: float, right: float, bottom: float) -> Path:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def _tile(record: Path, folder: Path, *argv: str, **settings: Any) -> int:
    said = ["tile", "--record", str(record), "--out", str(folder / "s.zarr"), *argv]
    return main([*said, "--settings", json.dumps({"size_px": 64, "mpp": 1.0} | settings)])


def _corners(path: Path) -> NDArray[np.float64]:
    rings = [np.array(item["geometry"]["coordinates"][0]) for item in read_json(path)["features"]]
    return np.concatenate(rings)


def test_the_record_holds_the_corner_of_the_scanned_part(record: Path, tmp_path: Path) -> None:
    assert read_record(record).sparse.bounds_xy == (LEFT, TOP)
    older = read_json(record)
    del older["sparse"]["bounds_xy"]
    (tmp_path / "older.json").write_text(json.dumps(older))
    assert read_record(tmp_path / "older.json").sparse.bounds_xy == (0, 0)


def test_annotations_of_qupath_land_on_the_tissue_and_come_back_where_they_were(record: Path, tmp_path: Path) -> None:
    given = _annotated(tmp_path / "a.geojson", TISSUE_LEFT, 0, WIDTH, HEIGHT)
    assert _tile(record, tmp_path, "--tissue", str(given), "--outlines", str(tmp_path / "o.geojson")) == 0
    store = PatchStore.open(tmp_path / "s.zarr")
    assert store.attributes.qupath_origin_px == (LEFT, TOP)
    assert store.table.position_px.min(axis=0).tolist() == [LEFT + TISSUE_LEFT, TOP]
    assert store.read_sparse(slice(None)).mean() < 180
    found = _corners(tmp_path / "o.geojson")
    assert found.min(axis=0) == pytest.approx([TISSUE_LEFT, 0], abs=16)
    assert found.max(axis=0) == pytest.approx([WIDTH, HEIGHT], abs=16)


def test_tissue_that_is_found_is_outlined_as_qupath_counts(record: Path, tmp_path: Path) -> None:
    assert _tile(record, tmp_path, "--outlines", str(tmp_path / "o.geojson")) == 0
    assert _corners(tmp_path / "o.geojson").min(axis=0) == pytest.approx([TISSUE_LEFT, 0], abs=32)


@pytest.mark.parametrize("is_cropped", [True, False])
def test_a_file_that_counts_from_the_other_corner_is_refused_with_what_to_set(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_cropped: bool
) -> None:
    # A small piece of tissue, so that it lies on the slide either way.
    x, y = (TISSUE_LEFT, 0) if is_cropped else (LEFT + TISSUE_LEFT, TOP)
    given = _annotated(tmp_path / "a.geojson", x, y, x + 300, y + 300)
    assert _tile(record, tmp_path, "--tissue", str(given), qupath_crop=not is_cropped) == 1
    told = capsys.readouterr().err
    assert "a.geojson" in told
    assert f"set tile.qupath_crop to {'true' if is_cropped else 'false'}" in told
    assert told.count("error:") == 1
    assert _tile(record, tmp_path, "--tissue", str(given), qupath_crop=is_cropped) == 0


def test_annotated_tissue_on_bare_glass_is_refused(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = _annotated(tmp_path / "a.geojson", 64, 64, 384, 384)
    assert _tile(record, tmp_path, "--tissue", str(given)) == 1
    assert "expected stained pixels, found none within the annotated tissue" in capsys.readouterr().err


def test_annotated_tissue_of_no_square_is_told_with_the_file(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = _annotated(tmp_path / "a.geojson", 600, 100, 660, 160)
    assert _tile(record, tmp_path, "--tissue", str(given)) == 1
    told = capsys.readouterr().err
    assert "of the slide is tissue as annotated in" in told
    assert "a.geojson" in told


def test_tiles_of_predict_count_from_there(tmp_path: Path) -> None:
    store: Any = SimpleNamespace(
        attributes=SimpleNamespace(patch_size_level0=128, qupath_origin_px=(LEFT, TOP)),
        table=SimpleNamespace(position_px=np.array([[LEFT, TOP], [LEFT + 128, TOP + 256]])),
    )
    predictions = Predictions("a", markers=(), values=np.zeros((2, 0), np.float32), distance=None, range="not known")
    write_tiles(predictions, store, tmp_path / "t.geojson")
    corners = [item["geometry"]["coordinates"][0][0] for item in read_json(tmp_path / "t.geojson")["features"]]
    assert corners == [[0, 0], [128, 256]]
