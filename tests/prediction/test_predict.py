"""Predicted markers on drawn slides with known causes: what is drawn, where it lies, and what stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import h5py
import numpy as np
import pyarrow.parquet as parquet
import pytest
import pyvips
import tifffile
from drawn_results import (
    COHORT,
    MARKERS,
    MPP,
    SIDE_UM,
    DrawnResults,
    _positions_px,
    draw_features,
    draw_stores,
    write_features,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.cli import main
from pipeline.evaluation.probe_file import MarkerProbe, Probe
from pipeline.prediction.colours import TABLE, coloured
from pipeline.prediction.marker_image import halved, patch_index, pixel_level0_px
from pipeline.prediction.overlay import painted
from pipeline.prediction.table import read_values
from pipeline.store.patch_indices import PatchPlaces

RUN = "distilled"
PATCH_PX = round(SIDE_UM / MPP)
HIDDEN = "CD45"  # the marker whose cause no feature shows


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> DrawnResults:
    """A cohort whose features show the causes of two markers through some noise, and its probe."""
    drawn = draw_stores(tmp_path_factory.mktemp("results"))
    mixing = np.random.default_rng(99).normal(size=(len(MARKERS), 12))
    mixing[MARKERS.index(HIDDEN)] = 0
    folder = drawn.results / "embed" / RUN
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for slide in COHORT:
        causes = drawn.causes[slide.slide]
        features = causes @ mixing + rng.normal(size=(len(causes), 12))
        write_features(folder / f"{slide.slide}.h5", features, _positions_px(slide), "e0")
    assert main(["evaluate", *drawn.arguments(RUN)]) == 0
    argv = drawn.arguments(RUN)
    argv = [*argv[: argv.index("--runs")], "--run", RUN, "--out", str(probe_of(drawn))]
    assert main(["evaluate-probe", *argv]) == 0
    return drawn


@pytest.fixture(scope="module")
def new_slide(fitted: DrawnResults) -> Path:
    """The predictions of d1, which has no dense side and no part in the fit."""
    assert predict(fitted, "d1", fitted.results / "predict" / RUN / "d1") == 0
    return fitted.results / "predict" / RUN / "d1"


def probe_of(drawn: DrawnResults) -> Path:
    return drawn.results / "evaluate/probes" / RUN


def predict(drawn: DrawnResults, slide: str, out: Path, probe: Path | None = None, **wanted: object) -> int:
    argv = ["--features", str(drawn.results / "embed" / RUN / f"{slide}.h5"), "--out", str(out)]
    argv += ["--store", str(drawn.results / "tile" / f"{slide}.zarr"), "--probe", str(probe or probe_of(drawn))]
    return main(["predict", *argv, "--settings", json.dumps(wanted)])


def told(folder: Path) -> dict[str, object]:
    return json.loads((folder / "markers.json").read_text())


def test_the_probe_keeps_the_scores_and_intervals_of_evaluate(fitted: DrawnResults) -> None:
    rows = json.loads((fitted.results / "evaluate/details.json").read_text())["rows"]
    probe = Probe.load(probe_of(fitted))
    assert [item.marker for item in probe.markers] == list(MARKERS)
    for item in probe.markers:
        row = next(row for row in rows if (row["probe"], row["target"]) == ("ridge", item.marker))
        assert (item.score, item.low, item.high) == pytest.approx((row["score"], row["low"], row["high"]), abs=1e-12)
        counts = (item.penalty, item.train_patches, item.test_patches)
        assert counts == (row["penalty"], row["train_patches"], row["test_patches"])


def test_the_probe_takes_names_for_one_marker_as_evaluate_does(tmp_path: Path) -> None:
    slides = tuple(
        replace(slide, markers=("DAPI", "Odd", "Pan-CK")) if slide.slide == "b1" else slide for slide in COHORT
    )
    drawn = draw_stores(tmp_path, slides)
    draw_features(drawn, RUN, 1.0)
    argv, panel = drawn.arguments(RUN), ["--panel", '{"aliases": {"CD45": ["Odd"]}}']
    assert main(["evaluate", *argv, *panel]) == 0
    argv = [*argv[: argv.index("--runs")], "--run", RUN, "--out", str(probe_of(drawn)), *panel]
    assert main(["evaluate-probe", *argv]) == 0
    rows = json.loads((tmp_path / "evaluate/details.json").read_text())["rows"]
    wanted = {
        row["target"]: row["train_patches"] for row in rows if row["probe"] == "ridge" and row["target"] != "mean"
    }
    assert {item.marker: item.train_patches for item in Probe.load(probe_of(drawn)).markers} == wanted
    assert set(wanted) == set(MARKERS)


def test_a_new_slide_without_a_dense_side_is_predicted_from_its_causes(fitted: DrawnResults, new_slide: Path) -> None:
    shown = [marker for marker in MARKERS if marker != HIDDEN]
    values = read_values(new_slide / "patches.parquet", shown)
    for column, marker in enumerate(shown):
        truth = fitted.causes["d1"][:, MARKERS.index(marker)]
        score = next(item.score for item in Probe.load(probe_of(fitted)).markers if item.marker == marker)
        assert np.corrcoef(values[:, column], truth)[0, 1] == pytest.approx(score, abs=0.06)
        assert score > 0.8
    table = parquet.read_table(new_slide / "patches.parquet")
    np.testing.assert_array_equal(np.stack([table["x_px"], table["y_px"]], axis=1), _positions_px(COHORT[4]))


def test_a_marker_below_the_score_is_left_out_with_the_reason_unless_asked_for(
    fitted: DrawnResults, new_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = told(new_slide)
    assert [item["marker"] for item in description["markers"]] == [m for m in MARKERS if m != HIDDEN]
    assert "below predict.min_score 0.3" in description["left_out"][HIDDEN]
    assert f"predicted {HIDDEN}" not in parquet.read_schema(new_slide / "patches.parquet").names
    assert predict(fitted, "d1", tmp_path / "all", min_score=0.4) == 0
    assert f"{HIDDEN} is not predicted: held-out r " in capsys.readouterr().err
    assert predict(fitted, "d1", tmp_path / "asked", markers=[HIDDEN]) == 0
    assert [item["marker"] for item in told(tmp_path / "asked")["markers"]] == [HIDDEN]


def test_without_any_marker_good_enough_there_is_a_table_and_no_picture(fitted: DrawnResults, tmp_path: Path) -> None:
    assert predict(fitted, "d1", tmp_path / "none", min_score=0.99) == 0
    assert {path.name for path in (tmp_path / "none").iterdir()} == {"markers.json", "patches.parquet"}
    assert set(told(tmp_path / "none")["left_out"]) == set(MARKERS)


def test_slides_that_the_probe_was_fitted_on_say_so(fitted: DrawnResults, new_slide: Path, tmp_path: Path) -> None:
    for slide, expected in (("b1", True), ("a1", False)):
        assert predict(fitted, slide, tmp_path / slide) == 0
        assert told(tmp_path / slide)["fitted_on_this_slide"] is expected
    assert told(new_slide)["fitted_on_this_slide"] is False


def test_the_image_lies_over_the_slide_with_a_named_channel_for_every_marker(new_slide: Path) -> None:
    description = told(new_slide)
    with tifffile.TiffFile(new_slide / "markers.ome.tif") as file:
        levels = [level.asarray() for level in file.series[0].levels]
        root = ElementTree.fromstring(file.ome_metadata)
    pixels = root.find("{*}Image/{*}Pixels")
    assert pixels is not None
    mpp = float(pixels.attrib["PhysicalSizeX"])
    assert pixels.attrib["PhysicalSizeXUnit"] == "µm"
    assert mpp == 16 * MPP, "a power of two of level-0 pixels, eight or more to a patch of 200"
    names = [channel.attrib["Name"] for channel in pixels.findall("{*}Channel")]
    assert names == [
        f"{item['marker']}, held-out r {item['score']:.2f} ({item['low']:.2f} to {item['high']:.2f})"
        for item in description["markers"]
    ]
    assert levels[0].shape[1] * mpp >= 16 * SIDE_UM
    values = read_values(new_slide / "patches.parquet", [item["marker"] for item in description["markers"]])
    for channel, item in enumerate(description["markers"]):
        for row, column in ((0, 0), (3, 11), (15, 15)):
            y, x = (int(((place + 0.5) * PATCH_PX) // 16) for place in (row, column))
            value = np.clip(values[row * 16 + column, channel], item["scale_low"], item["scale_high"])
            scale = (item["scale_high"] - item["scale_low"]) / 65534
            assert item["scale_low"] + (int(levels[0][channel, y, x]) - 1) * scale == pytest.approx(value, abs=scale)


def test_the_image_opens_in_libvips_with_all_its_levels(new_slide: Path) -> None:
    image = pyvips.Image.new_from_file(str(new_slide / "markers.ome.tif"), n=-1)
    assert image.get("n-pages") == 2
    assert image.format == "ushort"
    assert 1000 / image.xres == pytest.approx(16 * MPP)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(3.0, 300.0),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
    st.integers(1, 6),
    st.sampled_from([1, 4, 32]),
)
def test_every_pixel_belongs_to_the_patch_that_its_centre_lies_in(
    side: float, origin: tuple[int, int], columns: int, downsample: int
) -> None:
    y, x = np.divmod(np.arange(columns * 2), columns)
    position = np.rint(np.stack([x, y], axis=1) * side + origin).astype(np.int64)
    size = (int(position[:, 0].max() + side) + 40, int(position[:, 1].max() + side) + 3)
    known = SimpleNamespace(size_px=side, mpp=1.0, mpp_level0=1.0, size_level0_px=size)
    index = patch_index(SimpleNamespace(attributes=known, table=SimpleNamespace(position_px=position)), downsample)
    assert index.shape[1] * downsample >= size[0]
    centre = (np.arange(max(index.shape)) + 0.5) * downsample
    for row, (left, top) in enumerate(position):
        inside_x = (left <= centre) & (centre < left + side)
        inside_y = (top <= centre) & (centre < top + side)
        found = np.zeros(index.shape, bool)
        found[np.ix_(inside_y[: index.shape[0]], inside_x[: index.shape[1]])] = True
        # Neighbours that round towards each other share a pixel at most; the later one has it.
        assert ((index == row) == (found & (index <= row))).all()


@pytest.mark.parametrize(("size_px", "mpp", "mpp_level0", "pixel"), [(256, 0.5, 0.5, 32), (224, 0.5, 0.25, 32)])
def test_a_patch_is_at_least_eight_pixels_of_a_power_of_two(
    size_px: int, mpp: float, mpp_level0: float, pixel: int
) -> None:
    assert pixel_level0_px(SimpleNamespace(size_px=size_px, mpp=mpp, mpp_level0=mpp_level0)) == pixel


def test_coarser_levels_average_what_holds_a_value_only() -> None:
    plane = np.array([[0, 0, 10, 20], [0, 0, 30, 40], [0, 7, 0, 0], [0, 8, 1, 65535]], np.uint16)
    np.testing.assert_array_equal(halved(plane), [[0, 25], [8, 32768]])


def test_the_tiles_have_the_layout_of_qupath_with_measurements_whose_names_stay(new_slide: Path) -> None:
    collection = json.loads((new_slide / "tiles.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == 256
    values = read_values(new_slide / "patches.parquet", ["DAPI"])[:, 0]
    positions = _positions_px(COHORT[4])
    for row, feature in enumerate(collection["features"]):
        assert feature["type"] == "Feature"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1] == positions[row].tolist()
        assert ring[2] == (positions[row] + PATCH_PX).tolist()
        assert feature["properties"]["objectType"] == "tile"
        measured = feature["properties"]["measurements"]
        assert measured["DAPI (predicted)"] == pytest.approx(float(values[row]), abs=1e-4)
        assert measured["row"] == row
    told = {item["marker"]: item for item in json.loads((new_slide / "markers.json").read_text())["markers"]}
    metadata = collection["metadata"]
    assert set(metadata["measurements"]) == {f"{marker} (predicted)" for marker in told}
    for marker, item in told.items():
        scored = metadata["measurements"][f"{marker} (predicted)"]
        assert [scored[key] for key in ("score", "low", "high")] == [
            round(item[key], 4) for key in ("score", "low", "high")
        ]
        assert scored["patients"] == item["patients"]
    assert metadata["unit"].startswith("SD: ")


def test_the_picture_opens_and_shows_the_scale_from_end_to_end(new_slide: Path) -> None:
    with Image.open(new_slide / "markers.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0).astype(np.int64)
    for end in (TABLE[1], TABLE[-2]):
        assert np.abs(colours - end).max(axis=1).min() <= 3
    marker = Probe.load(new_slide.parents[2] / "evaluate/probes" / RUN).markers[0]
    ends = np.array([marker.scale_low - 5, marker.scale_high + 5], np.float32)
    np.testing.assert_array_equal(coloured(ends, marker), TABLE[[0, -1]])


def test_the_picture_tints_the_patches_by_their_values_and_leaves_the_rest() -> None:
    ground = np.full((60, 80, 3), 200, np.uint8)
    places = PatchPlaces(np.array([0, 1]), np.array([2, 0]), (2, 3), left=0.25, top=0.5, width=0.75, height=0.5)
    marker = MarkerProbe("CD3", 0.5, 0.4, 0.6, 1.0, 9, 9, scale_low=-1.0, scale_high=1.0)
    picture = painted(ground, places, np.array([-1.0, 1.0], np.float32), marker).astype(np.int64)
    first, second = (np.rint(200 + 0.78 * (TABLE[end].astype(float) - 200)) for end in (0, -1))
    expected = np.full((60, 80, 3), 200.0)
    expected[30:45, 60:80], expected[45:60, 20:40] = first, second
    np.testing.assert_allclose(picture, expected, atol=1)


def test_hostile_marker_names_stay_names_in_every_file(fitted: DrawnResults, tmp_path: Path) -> None:
    names = ('</Name><x a="1">&\'', "$\\frac{1}$ µ-SMA; CD3, CD8")
    markers = tuple(MarkerProbe(name, 0.6, 0.5, 0.7, 1.0, 90, 30, -1.0, 1.0) for name in names)
    weights = np.random.default_rng(0).normal(size=(12, 2))
    Probe(RUN, "e0", markers, weights, np.zeros(2), frozenset()).write(tmp_path / "probe", {})
    out = tmp_path / "d1"
    assert predict(fitted, "d1", out, probe=tmp_path / "probe") == 0
    with tifffile.TiffFile(out / "markers.ome.tif") as file:
        root = ElementTree.fromstring(file.ome_metadata)
    channels = [item.attrib["Name"] for item in root.findall("{*}Image/{*}Pixels/{*}Channel")]
    assert channels == [f"{name}, held-out r 0.60 (0.50 to 0.70)" for name in names]
    measured = json.loads((out / "tiles.geojson").read_text())["features"][0]["properties"]["measurements"]
    assert list(measured) == ["row", *(f"{name} (predicted)" for name in names)]
    assert read_values(out / "patches.parquet", names).shape == (256, 2)
    with Image.open(out / "markers.png") as picture:
        picture.load()


def test_equal_inputs_give_equal_bytes(fitted: DrawnResults, new_slide: Path) -> None:
    first = {path.name: path.read_bytes() for path in new_slide.iterdir()}
    assert predict(fitted, "d1", new_slide) == 0
    assert {path.name: path.read_bytes() for path in new_slide.iterdir()} == first


def shifted(fitted: DrawnResults, folder: Path, shift: float, rows: slice = slice(None)) -> DrawnResults:
    """The same cohort, with the features of these patches of d1 moved by so much in every column."""
    other = DrawnResults(folder)
    folder.mkdir()
    for part in ("tile", "evaluate"):
        (folder / part).symlink_to(fitted.results / part)
    (folder / "embed" / RUN).mkdir(parents=True)
    with h5py.File(fitted.results / "embed" / RUN / "d1.h5") as file:
        features = np.asarray(file["features"], dtype=np.float64)
    features[rows] += shift
    write_features(folder / "embed" / RUN / "d1.h5", features, _positions_px(COHORT[4]), "e0")
    return other


def test_a_slide_unlike_those_that_the_probe_was_fitted_on_is_left_out_and_drawn_when_asked_for(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shifted(fitted, tmp_path / "other", 400.0)
    assert predict(other, "d1", tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "100% of 256 patches lie outside the range of features that the probe was fitted on" in said
    assert "(patients B, C; 1% of held-out patches do)" in said
    assert "DAPI, Pan-CK are not predicted: 100% of the slide's patches are unlike those that the probe was" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"markers.json", "patches.parquet"}
    description = told(tmp_path / "out")
    assert description["range"]["outside"] == 1.0
    assert description["out_of_range"] == ["DAPI", "Pan-CK"]
    assert set(description["left_out"]) == set(MARKERS)
    assert description["fitted_on_patients"] == ["B", "C"]
    table = parquet.read_table(tmp_path / "out" / "patches.parquet")
    assert (table["distance"].to_numpy() > 1).all()
    assert not [name for name in table.column_names if name.startswith("predicted")]

    assert predict(other, "d1", tmp_path / "drawn", max_outside=1) == 0
    said = capsys.readouterr().err
    description = told(tmp_path / "drawn")
    for item in description["markers"]:
        values = read_values(tmp_path / "drawn" / "patches.parquet", [item["marker"]])
        assert item["predictions"]["mean"] == pytest.approx(float(values.mean()), abs=1e-5)
        beyond = (values < item["range_low"]) | (values > item["range_high"])
        assert item["predictions"]["beyond"] == pytest.approx(float(beyond.mean()))
        assert beyond.mean() > 0.5, "the shift moves the predictions as well"
        assert f"(mean {values.mean():+.1f} SD) leave the range" in said
        assert item["patients"] == ["A"]
    with tifffile.TiffFile(tmp_path / "drawn" / "markers.ome.tif") as file:
        assert "100% of 256 patches lie outside the range" in file.ome_metadata
        assert "Scores were measured on patient A." in file.ome_metadata
    measured = json.loads((tmp_path / "drawn/tiles.geojson").read_text())["features"][0]["properties"]["measurements"]
    assert measured["distance from the patches fitted on, 1 = limit"] > 1


def test_a_slide_like_those_that_the_probe_was_fitted_on_is_drawn_and_a_part_unlike_them_is_told(
    fitted: DrawnResults, new_slide: Path, tmp_path: Path
) -> None:
    assert told(new_slide)["range"]["outside"] < 0.05
    assert told(new_slide)["out_of_range"] == []
    assert predict(shifted(fitted, tmp_path / "part", 40.0, slice(64)), "d1", tmp_path / "out") == 0
    distance = parquet.read_table(tmp_path / "out" / "patches.parquet")["distance"].to_numpy()
    assert (distance[:64] > 1).all()
    assert (distance[64:] > 1).mean() < 0.05
    assert 0.25 <= told(tmp_path / "out")["range"]["outside"] < 0.3
    assert told(tmp_path / "out")["markers"]


def test_a_probe_of_an_older_version_draws_and_says_that_its_range_is_unknown(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "probe.safetensors").write_bytes((probe_of(fitted) / "probe.safetensors").read_bytes())
    description = json.loads((probe_of(fitted) / "probe.json").read_text()) | {"schema": 1}
    for item in description["markers"]:
        for name in ("range_low", "range_high", "patients"):
            del item[name]
    (old / "probe.json").write_text(json.dumps(description))
    assert predict(fitted, "d1", tmp_path / "out", probe=old) == 0
    assert "so whether this slide is like them is unknown" in capsys.readouterr().err
    assert told(tmp_path / "out")["range"]["known"] is False
    assert [item["marker"] for item in told(tmp_path / "out")["markers"]] == [m for m in MARKERS if m != HIDDEN]


def test_features_of_patches_of_another_size_are_refused(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shifted(fitted, tmp_path / "other", 0.0)
    with h5py.File(tmp_path / "other/embed" / RUN / "d1.h5", "r+") as file:
        file["coords"].attrs["patch_size_level0"] = 100
    assert predict(other, "d1", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"expected patches of 16 px, {PATCH_PX} at level 0, as in the store, found 16 px, 100 at level 0" in said


def test_features_of_another_encoder_are_refused(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = DrawnResults(tmp_path)
    for part in ("tile", "evaluate"):
        (tmp_path / part).symlink_to(fitted.results / part)
    (tmp_path / "embed" / RUN).mkdir(parents=True)
    write_features(tmp_path / "embed" / RUN / "d1.h5", np.zeros((256, 12)), _positions_px(COHORT[4]), "e1")
    assert predict(other, "d1", tmp_path / "out") == 1
    assert "expected features of the encoder e0 of run distilled" in capsys.readouterr().err
    with h5py.File(tmp_path / "embed" / RUN / "d1.h5", "r+") as file:
        file["coords"].attrs["encoder"] = "e0"
        file["coords"][0, 0] += 1
    assert predict(other, "d1", tmp_path / "out") == 1
    assert "expected features of the store's 256 patches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_probe_that_was_altered_and_a_marker_that_it_lacks_are_refused(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "probe"
    copy.mkdir()
    for path in probe_of(fitted).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert predict(fitted, "d1", tmp_path / "out", probe=copy, markers=["CD999"]) == 1
    assert "expected markers of the probe (DAPI, CD45, Pan-CK), found CD999" in capsys.readouterr().err
    weights = bytearray((copy / "probe.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "probe.safetensors").write_bytes(weights)
    assert predict(fitted, "d1", tmp_path / "out", probe=copy) == 1
    assert "expected weights of SHA-256" in capsys.readouterr().err
    (copy / "probe.json").write_text('{"schema": 1, "markers": [{}]}')
    assert predict(fitted, "d1", tmp_path / "out", probe=copy) == 1
    assert "expected a probe's folder as evaluate-probe writes it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("error")
def test_of_thousands_of_markers_the_best_are_drawn_and_the_rest_is_told_in_a_line(
    fitted: DrawnResults, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = Probe.load(probe_of(fitted))
    shown = MARKERS.index("DAPI")
    markers = tuple(
        replace(probe.markers[shown], marker=f"gene{number}", score=number / 1000) for number in range(1000)
    )
    wide = replace(
        probe,
        markers=markers,
        weights=np.repeat(probe.weights[:, [shown]], 1000, axis=1),
        intercept=np.repeat(probe.intercept[[shown]], 1000),
    )
    wide.write(tmp_path / "probe", {"stage": "evaluate_probe"})
    capsys.readouterr()
    assert predict(fitted, "d1", tmp_path / "d1", tmp_path / "probe", min_score=0.9) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert "gene7 and 892 more are not predicted: held-out r is below predict.min_score 0.9" in lines[1]
    assert "100 are predicted; the 24 best by held-out score are drawn" in lines[2]
    names = [f"predicted gene{number}" for number in range(900, 1000)]
    table = parquet.read_table(tmp_path / "d1/patches.parquet")
    assert [name for name in table.column_names if name.startswith("predicted")] == names
    with tifffile.TiffFile(tmp_path / "d1/markers.ome.tif") as image:
        assert image.series[0].shape[0] == 24
    assert len(told(tmp_path / "d1")["left_out"]) == 900
    assert (tmp_path / "d1/markers.png").stat().st_size < 3_000_000
    measured = json.loads((tmp_path / "d1/tiles.geojson").read_text())["features"][0]["properties"]["measurements"]
    assert sum(name.startswith("gene") for name in measured) == 24
