"""Annotations as QuPath writes them: what goes out comes in again, and what is wrong is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.tiling.annotations import read_annotations, write_annotations
from pipeline.tiling.regions import BLUR, EXCLUDED, FOLD, GLASS, PEN, TISSUE

SIZE = (1000, 800)
SQUARE = [[[100, 80], [500, 80], [500, 400], [100, 400], [100, 80]]]


def _feature(name: str, coordinates: Any = SQUARE, kind: str = "Polygon", **properties: Any) -> dict[str, Any]:
    classified = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}} | properties
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": classified}


def _file(folder: Path, *features: Any) -> Path:
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def _laid(path: Path, found: int = GLASS) -> NDArray[np.uint8]:
    given_regions = read_annotations(path, SIZE, slide="s")
    return given_regions.laid_over(np.full((80, 100), found, np.uint8), 5.0, 0.5, SIZE)


@settings(max_examples=40)
@given(
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=10), elements=st.integers(0, 5)),
    st.floats(1.01, 40),
    st.floats(0.01, 0.99),
)
def test_regions_written_and_read_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, regions: NDArray[np.uint8], factor: float, last_part: float
) -> None:
    # The last row and column of an overview reach over the slide's edge, by less than a pixel.
    regions[0, 0] = TISSUE
    height, width = regions.shape
    size = (int((width - 1) * factor + last_part * factor) or 1, int((height - 1) * factor + last_part * factor) or 1)
    if size[0] <= (width - 1) * factor or size[1] <= (height - 1) * factor:
        size = (int(width * factor) + 1, int(height * factor) + 1)
    path = tmp_path_factory.mktemp("round") / "a.geojson"
    write_annotations(path, regions, factor * 0.25, 0.25, size)
    back = read_annotations(path, size, slide="s").laid_over(np.full_like(regions, BLUR), factor * 0.25, 0.25, size)
    np.testing.assert_array_equal(back, regions)


def test_what_is_written_is_what_qupath_expects(tmp_path: Path) -> None:
    regions = np.zeros((6, 6), np.uint8)
    regions[1:5, 1:5] = TISSUE
    regions[2, 2] = GLASS
    write_annotations(tmp_path / "a.geojson", regions, 4.0, 0.5, (48, 48))
    value = json.loads((tmp_path / "a.geojson").read_text())
    assert value["type"] == "FeatureCollection"
    [feature] = value["features"]
    assert feature["type"] == "Feature"
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "Tissue"
    assert len(feature["properties"]["classification"]["color"]) == 3
    outer, hole = feature["geometry"]["coordinates"]
    assert outer[0] == outer[-1]
    assert {tuple(point) for point in outer} == {(8, 8), (40, 8), (40, 40), (8, 40)}
    assert {tuple(point) for point in hole} == {(16, 16), (24, 16), (24, 24), (16, 24)}


def test_annotated_tissue_is_all_there_is_and_later_classes_lie_on_top(tmp_path: Path) -> None:
    hole = [[[200, 160], [300, 160], [300, 240], [200, 240], [200, 160]]]
    inner = [[[100, 300], [500, 300], [500, 400], [100, 400], [100, 300]]]
    laid = _laid(_file(tmp_path, _feature("EXCLUDE", inner), _feature("tissue", SQUARE + hole)), found=PEN)
    expected = np.full((80, 100), GLASS, np.uint8)
    expected[8:40, 10:50] = TISSUE
    expected[16:24, 20:30] = GLASS
    expected[30:40, 10:50] = EXCLUDED
    np.testing.assert_array_equal(laid, expected)


@pytest.mark.parametrize(
    ("name", "region"), [("Exclude", EXCLUDED), ("ignore*", EXCLUDED), ("pen", PEN), ("Fold", FOLD)]
)
def test_without_tissue_annotations_are_taken_out_of_what_was_found(tmp_path: Path, name: str, region: int) -> None:
    laid = _laid(_file(tmp_path, _feature(name)), found=TISSUE)
    assert (laid[8:40, 10:50] == region).all()
    assert (laid == TISSUE).sum() == 80 * 100 - 32 * 40


def test_multipolygons_lists_single_features_and_names_are_read(tmp_path: Path) -> None:
    other = [[[600, 80], [700, 80], [700, 400], [600, 400], [600, 80]]]
    many = _feature("Blur", [SQUARE, other], "MultiPolygon")
    named = _feature("", classification=None)
    named["properties"]["name"] = "Blur"
    detection = _feature("Tumour", objectType="detection")
    expected = _laid(_file(tmp_path, _feature("Blur"), _feature("Blur", other)))
    assert (expected == BLUR).sum() == 32 * 50
    np.testing.assert_array_equal(_laid(_file(tmp_path, many, detection)), expected)
    path = tmp_path / "b.geojson"
    path.write_text(json.dumps([named, _feature("Blur", other)]))
    np.testing.assert_array_equal(_laid(path), expected)
    path.write_text(json.dumps(many))
    np.testing.assert_array_equal(_laid(path), expected)


def test_a_bow_tie_is_filled_by_the_even_odd_rule_as_qupath_does(tmp_path: Path) -> None:
    tie = [[[100, 100], [500, 500], [500, 100], [100, 500], [100, 100]]]
    laid = _laid(_file(tmp_path, _feature("Pen", tie)))
    assert laid[30, 12] == PEN
    assert laid[30, 48] == PEN
    assert laid[12, 30] == GLASS
    assert laid[48, 30] == GLASS


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        (_feature("Tumour"), "feature 1 named 'Tumour'"),
        (_feature("", classification=None), "without a class or name"),
        (_feature("Tissue", [1, 2], "Point"), "a Point"),
        (_feature("Tissue", SQUARE[0], "LineString"), "a LineString"),
        (_feature("Tissue", SQUARE, "MultiPolygon"), "not pairs of numbers"),
        (_feature("Tissue", [[[0, 0], [1, 1]]]), "fewer than three points"),
        (_feature("Tissue", [[[0, 0], [float("nan"), 1], [5, 5]]]), "not finite"),
        (_feature("Tissue", [[[0, 0], [1e300, 1], [5, 5]]]), "not finite or beyond"),
        (_feature("Tissue", [[["a", 0], [1, 1], [5, 5]]]), "not pairs of numbers"),
        (_feature("Tissue", [[[0, 0], [1], [5, 5]]]), "not pairs of numbers"),
        (_feature("Tissue", []), "empty polygon"),
        (_feature("Tissue", "coordinates"), "empty polygon"),
        (_feature("Tissue", {}), "empty polygon"),
        (_feature("Tissue", None), "empty polygon"),
        (_feature("Tissue", [[[2000, 0], [2001, 0], [2000, 5]]]), "off the slide of 1000 x 800 px"),
        ({"type": "Feature"}, "without properties or geometry"),
        ("feature", "without properties or geometry"),
        (_feature("Tumour", objectType="detection"), "found none"),
    ],
)
def test_wrong_annotations_are_told_in_one_line(tmp_path: Path, feature: Any, told: str) -> None:
    with pytest.raises(StatedError) as error:
        read_annotations(_file(tmp_path, feature), SIZE, slide="a1")
    assert told in str(error.value)
    assert "slide a1" in str(error.value)
    assert "a.geojson" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "not json", "[" * 100_000, '{"type": "FeatureCollection"}', "3", '{"features": 5}', "[1e999]"]
)
def test_files_that_hold_no_annotations_are_told_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    for wrong in (path, tmp_path / "none.geojson", tmp_path):
        with pytest.raises(StatedError, match="expected GeoJSON polygons in level-0 pixels") as error:
            read_annotations(wrong, SIZE, slide="a1")
        assert "\n" not in str(error.value)
