"""The verb convert: each format as its tool documents it, the same numbers in it, and no harm from bad input."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import zarr
from drawn_training import train_tiny

from pipeline.cli import main
from pipeline.embedding import spatialdata_store
from pipeline.embedding.features_file import open_features
from pipeline.provenance import file_digest

FORMATS = ("anndata", "clam", "csv", "geojson", "parquet", "spatialdata", "stamp")
TRIDENT = {"patch_size": 32, "patch_size_level0": 64, "name": "s 1.a", "overlap": 0, "level0_magnification": 20.0}
OURS = {**TRIDENT, "mpp": 1.0, "mpp_level0": 0.5, "patient": "p1", "encoder": "ab" * 32, "encoder_run": "distilled"}


def _write(path: Path, *, rows: int = 9, width: int = 5, attributes: dict[str, object] = OURS) -> Path:
    random = np.random.default_rng(3)
    with h5py.File(path, "w") as file:
        file["features"] = random.normal(0, 100, (rows, width)).astype(np.float32)
        file["coords"] = random.integers(0, 90000, (rows, 2))
        file["coords"].attrs.update(attributes)
    return path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    return _write(tmp_path / "features.h5")


def _convert(features: Path, to: str, out: Path, *more: str) -> int:
    return main(["convert", "--features", str(features), "--to", to, "--out", str(out), *more])


def _numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["features"][...], file["coords"][...]


def _check_clam(features: Path, out: Path) -> None:
    expected, coords = _numbers(features)
    with h5py.File(out / "h5_files" / "s 1.a.h5") as file:
        np.testing.assert_array_equal(file["features"], expected)
        np.testing.assert_array_equal(file["coords"], coords)
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int32)
        assert file["coords"].attrs["patch_size_level0"] == 64
        assert json.loads(file.attrs["provenance"])["stage"] == "convert"
    tensor = torch.load(out / "pt_files" / "s 1.a.pt", weights_only=True)
    assert type(tensor) is torch.Tensor
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_clam_finds_a_bag_as_h5_and_as_a_plain_tensor_beside_the_other_slides(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "clam"
    (out / "pt_files").mkdir(parents=True)
    (out / "pt_files" / "other.pt").write_bytes(b"x")
    assert _convert(features, "clam", out) == 0
    _check_clam(features, out)
    assert (out / "pt_files" / "other.pt").read_bytes() == b"x"


def test_stamp_finds_feats_and_um_with_its_attributes(features: Path, tmp_path: Path) -> None:
    assert _convert(features, "stamp", tmp_path / "s1.h5") == 0
    expected, coords = _numbers(features)
    with h5py.File(tmp_path / "s1.h5") as file:
        np.testing.assert_array_equal(file["feats"], expected)
        np.testing.assert_allclose(file["coords"], coords * 0.5, rtol=1e-7)
        attributes = dict(file.attrs)
    assert attributes["unit"] == "um"
    assert attributes["feat_type"] == "tile"
    assert attributes["tile_size_um"] == 32.0
    assert attributes["tile_size_px"] == 32
    assert attributes["extractor"] == "distilled-abababababab"
    assert tuple(map(int, attributes["stamp_version"].split("."))) <= (2, 1, 0), "older readers would refuse it"
    assert len(attributes["code_hash"]) == 8


def test_parquet_holds_a_patch_per_row(features: Path, tmp_path: Path) -> None:
    assert _convert(features, "parquet", tmp_path / "p.parquet") == 0
    expected, coords = _numbers(features)
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["slide", "x_um", "y_um", "x_px", "y_px", "features"]
    assert table.schema.field("features").type == pa.list_(pa.float32(), 5)
    assert set(table["slide"].to_pylist()) == {"s 1.a"}
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), dtype=np.float32), expected)
    for axis, name in enumerate("xy"):
        np.testing.assert_array_equal(table[f"{name}_px"], coords[:, axis])
        np.testing.assert_allclose(table[f"{name}_um"], coords[:, axis] * 0.5)
    assert table.schema.metadata[b"mpp_level0"] == b"0.5"


def test_large_tables_are_carried_over_block_by_block(tmp_path: Path) -> None:
    features = _write(tmp_path / "features.h5", rows=20000, width=3)
    expected, _ = _numbers(features)
    assert _convert(features, "parquet", tmp_path / "p.parquet") == 0
    assert _convert(features, "stamp", tmp_path / "s.h5") == 0
    table = parquet.read_table(tmp_path / "p.parquet")
    np.testing.assert_array_equal(table["features"].combine_chunks().flatten().to_numpy().reshape(-1, 3), expected)
    with h5py.File(tmp_path / "s.h5") as file:
        np.testing.assert_array_equal(file["feats"], expected)


def test_geojson_holds_a_closed_square_of_level_0_pixels_per_patch(features: Path, tmp_path: Path) -> None:
    assert _convert(features, "geojson", tmp_path / "p.geojson") == 0
    _, coords = _numbers(features)
    value = json.loads((tmp_path / "p.geojson").read_text())
    assert value["type"] == "FeatureCollection"
    assert len(value["features"]) == 9
    for row, (item, (x, y)) in enumerate(zip(value["features"], coords.tolist(), strict=True)):
        assert item["type"] == "Feature"
        assert item["geometry"]["type"] == "Polygon"
        (ring,) = item["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert np.min(ring, axis=0).tolist() == [x, y]
        assert np.max(ring, axis=0).tolist() == [x + 64, y + 64]
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring)) / 2
        assert abs(area) == 64**2, "the corners go round"
        assert item["properties"]["objectType"] == "tile"
        assert item["properties"]["measurements"] == {"row": row}


def test_geojson_counts_from_where_qupath_does(tmp_path: Path) -> None:
    features = _write(tmp_path / "features.h5", attributes={**OURS, "qupath_origin_px": (1000, 1500)})
    assert _convert(features, "geojson", tmp_path / "p.geojson") == 0
    _, coords = _numbers(features)
    for item, corner in zip(json.loads((tmp_path / "p.geojson").read_text())["features"], coords, strict=True):
        assert np.min(item["geometry"]["coordinates"][0], axis=0).tolist() == (corner - (1000, 1500)).tolist()


def test_anndata_is_laid_out_as_its_specification_says(features: Path, tmp_path: Path) -> None:
    assert _convert(features, "anndata", tmp_path / "s.h5ad") == 0
    expected, coords = _numbers(features)
    with h5py.File(tmp_path / "s.h5ad") as file:
        assert (file.attrs["encoding-type"], file.attrs["encoding-version"]) == ("anndata", "0.1.0")
        assert set(file) == {"X", "layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp"}
        np.testing.assert_array_equal(file["X"], expected)
        for name, rows in (("obs", 9), ("var", 5)):
            assert file[name].attrs["encoding-type"] == "dataframe"
            assert len(file[name][file[name].attrs["_index"]]) == rows
        assert list(file["obs"].attrs["column-order"]) == ["slide", "x_um", "y_um", "x_px", "y_px"]
        np.testing.assert_array_equal(file["obsm/spatial"], coords + 31.5)


def _array(group: zarr.Group, name: str) -> np.ndarray:
    item = group[name]
    assert isinstance(item, zarr.Array)
    return np.asarray(item[...])


def test_spatialdata_is_laid_out_as_the_package_lays_it_out(features: Path, tmp_path: Path) -> None:
    """Shapes as GeoParquet, the table as AnnData that annotates them; the package itself is asked by test_peers.py."""
    assert _convert(features, "spatialdata", tmp_path / "s.zarr") == 0
    expected, coords = _numbers(features)
    root = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert root.attrs["slide_properties"] == {"mpp": 0.5}
    assert root["shapes/tiles"].attrs["encoding-type"] == "ngff:shapes"
    shapes = parquet.read_table(tmp_path / "s.zarr" / "shapes" / "tiles" / "shapes.parquet")
    assert json.loads(shapes.schema.metadata[b"geo"])["primary_column"] == "geometry"
    for square, corner in zip(shapes["geometry"].to_pylist(), coords, strict=True):
        assert struct.unpack("<BIII", square[:13]) == (1, 3, 1, 5), "a polygon of one ring of five points"
        ring = np.frombuffer(square[13:], "<f8").reshape(5, 2)
        np.testing.assert_array_equal(ring[0], ring[-1])
        np.testing.assert_array_equal([ring.min(axis=0), ring.max(axis=0)], [corner, corner + 64])
    table = root["tables/distilled-abababababab_tiles"]
    assert isinstance(table, zarr.Group)
    assert (table.attrs["region"], table.attrs["instance_key"]) == ("tiles", "tile_id")
    np.testing.assert_array_equal(_array(table, "X"), expected)
    np.testing.assert_array_equal(_array(table, "obs/tile_id"), shapes["tile_id"])
    np.testing.assert_array_equal(_array(table, "obsm/spatial"), coords + 31.5)
    assert _convert(features, "spatialdata", tmp_path / "s.zarr") == 1, "a folder is never replaced"


@pytest.mark.parametrize(("side", "base"), [(256, 509), (224, 447), (240, 240), (49, 101), (1000, 1999)])
def test_lazyslides_whole_pixels_are_those_of_the_patch(tmp_path: Path, side: int, base: int) -> None:
    sizes = {"patch_size": side, "patch_size_level0": base, "overlap": 16}
    with open_features(_write(tmp_path / "f.h5", attributes={**OURS, **sizes})) as opened:
        found = spatialdata_store.tile_specification(opened)
    assert int(found["width"] * found["base_downsample"]) == base
    assert found["stride_width"] == side - 16
    assert found["mpp"] == 1.0


def test_what_embed_writes_converts_to_every_format(tmp_path: Path) -> None:
    encoder = train_tiny(tmp_path)
    argv = ["embed", "--store", str(tmp_path / "tile" / "s0.zarr"), "--encoder", str(encoder)]
    assert main([*argv, "--out", str(tmp_path / "s0.h5")]) == 0
    for to in FORMATS:
        assert _convert(tmp_path / "s0.h5", to, tmp_path / "out" / to) == 0
    expected, _ = _numbers(tmp_path / "s0.h5")
    found = torch.load(tmp_path / "out" / "clam" / "pt_files" / "s0.pt", weights_only=True)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_resolution_that_trident_leaves_out_is_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    features = _write(tmp_path / "t.h5", attributes=TRIDENT)
    for to in ("anndata", "parquet", "spatialdata", "stamp"):
        assert _convert(features, to, tmp_path / to) == 1
        assert "--mpp-level0" in capfd.readouterr().err
        assert not (tmp_path / to).exists()
    for to in ("clam", "geojson"):
        assert _convert(features, to, tmp_path / to) == 0
    assert _convert(features, "stamp", tmp_path / "stamp", "--mpp-level0", "0.25") == 0
    with h5py.File(tmp_path / "stamp") as file:
        assert file.attrs["tile_size_um"] == 16.0
        assert file.attrs["extractor"] == "unknown"
        np.testing.assert_allclose(file["coords"], _numbers(features)[1] * 0.25, rtol=1e-7)


@pytest.mark.parametrize("given", ["0.25", "0", "-1", "nan", "inf"])
def test_a_resolution_that_contradicts_or_is_none_is_refused(features: Path, tmp_path: Path, given: str) -> None:
    assert _convert(features, "stamp", tmp_path / "s.h5", f"--mpp-level0={given}") == 1
    assert not (tmp_path / "s.h5").exists()


def _attribute(name: str, value: object) -> dict[str, object]:
    return {**OURS, name: value}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"patch_size": 32, "patch_level": 0}, "coords without the attribute name"),
        (_attribute("name", "../../s1"), "the slide name"),
        (_attribute("name", ".."), "the slide name"),
        (_attribute("name", "a\nb"), "the slide name"),
        (_attribute("patch_size_level0", 0), "patch_size_level0 0"),
        (_attribute("patch_size_level0", np.nan), "NaN"),
        (_attribute("patch_size", "224 px"), "224 px"),
        (_attribute("patch_size", [1, 2]), "array"),
        (_attribute("mpp_level0", 0.0), "mpp_level0 0"),
        (_attribute("mpp_level0", np.inf), "mpp_level0 inf"),
        (_attribute("mpp", "x"), "'x'"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(
    tmp_path: Path, attributes: dict[str, object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    features = _write(tmp_path / "f.h5", attributes=attributes)
    _refused(features, tmp_path, message, capfd)


def test_features_that_are_not_finite_are_told_by_their_row_and_converted_to_nothing(
    features: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(features, "r+") as file:
        file["features"][4, 2] = np.inf
    for to in FORMATS:
        code = _convert(features, to, tmp_path / to)
        error = capfd.readouterr().err
        if to == "geojson":
            assert code == 0, "it holds the places only"
            continue
        assert code == 1
        assert error.count("\n") == 1
        assert "expected finite features, found NaN or infinity in 1 of rows 0 to 8, first in row 4" in error
        assert not [item for item in (tmp_path / to).rglob("*") if item.is_file()]
        assert not (tmp_path / to).is_file()


def _refused(features: Path, tmp_path: Path, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Every format refuses it with one line and leaves what is there."""
    before = sorted(tmp_path.rglob("*"))
    for to in FORMATS:
        assert _convert(features, to, tmp_path / "out") == 1
        error = capfd.readouterr().err
        assert error.count("\n") == 1
        assert str(features) in error
        assert message in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"coords": np.zeros((3, 2), int)}, "no dataset features"),
        ({"features": np.zeros((3, 4), np.float32)}, "no dataset coords"),
        ({"features": np.zeros((3, 4), np.float32), "coords": np.zeros((2, 2), int)}, "coords (2, 2)"),
        ({"features": np.zeros((3, 4), np.float32), "coords": np.zeros((3, 2))}, "coords of type float64"),
        ({"features": np.zeros((3, 4), np.uint8), "coords": np.zeros((3, 2), int)}, "features (3, 4) uint8"),
        ({"features": np.zeros(4, np.float32), "coords": np.zeros((4, 2), int)}, "features (4,)"),
        ({"features": np.zeros((0, 4), np.float32), "coords": np.zeros((0, 2), int)}, "no patch"),
        ({"features": np.zeros((1, 4), np.float32), "coords": np.full((1, 2), -1)}, "coords from -1"),
        ({"features": np.zeros((1, 4), np.float32), "coords": np.full((1, 2), 2**40)}, "coords from 1099511627776"),
    ],
)
def test_tables_of_another_shape_are_refused(
    tmp_path: Path, names: dict[str, np.ndarray], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, values in names.items():
            file[name] = values
        if "coords" in names:
            file["coords"].attrs.update(OURS)
    _refused(tmp_path / "f.h5", tmp_path, message, capfd)


def test_groups_under_the_names_of_tables_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_group("features")
        file.create_group("coords")
    _refused(tmp_path / "f.h5", tmp_path, "features is not a dataset", capfd)


def test_what_is_no_hdf5_file_is_refused(features: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "cut.h5").write_bytes(features.read_bytes()[:1000])
    (tmp_path / "folder.h5").mkdir()
    for name, message in (("text", "signature"), ("cut", "truncated"), ("folder", "a folder"), ("none", "no file")):
        _refused(tmp_path / f"{name}.h5", tmp_path, message, capfd)


@pytest.mark.parametrize("to", [to for to in FORMATS if to != "clam"])
def test_folders_and_the_features_themselves_are_never_replaced(features: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.h5").write_bytes(b"x")
    whole = features.read_bytes()
    assert _convert(features, to, tmp_path / "results") == 1
    assert _convert(features, to, tmp_path / "results" / ".." / "features.h5") == 1
    assert (tmp_path / "results" / "a.h5").read_bytes() == b"x"
    assert features.read_bytes() == whole


def test_clam_is_not_written_over_a_file_or_the_features(features: Path, tmp_path: Path) -> None:
    assert _convert(features, "clam", features) == 1
    place = tmp_path / "clam" / "h5_files" / "s 1.a.h5"
    place.parent.mkdir(parents=True)
    features.rename(place)
    whole = place.read_bytes()
    assert _convert(place, "clam", tmp_path / "clam") == 1
    assert place.read_bytes() == whole
    assert not (tmp_path / "clam" / "pt_files").exists()


def test_the_same_features_give_the_same_bytes(features: Path, tmp_path: Path) -> None:
    names = {"clam": "pt_files/s 1.a.pt"}
    for to in FORMATS:
        for name in ("a", "b"):
            assert _convert(features, to, tmp_path / name / to) == 0
        first, second = (tmp_path / name / to / names.get(to, "") for name in ("a", "b"))
        assert file_digest(first) == file_digest(second)


def test_a_failure_while_writing_leaves_what_was_there(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.embedding import features_file

    def broken(self: features_file.FeaturesFile) -> object:
        raise features_file.StatedError(expected="a whole file", found="a bad block")
        yield

    (tmp_path / "s.h5").write_bytes(b"of yesterday")
    monkeypatch.setattr(features_file.FeaturesFile, "blocks", broken)
    for to in ("stamp", "anndata", "csv", "parquet"):
        assert _convert(features, to, tmp_path / "s.h5") == 1
        assert (tmp_path / "s.h5").read_bytes() == b"of yesterday"
    for to in ("clam", "spatialdata"):
        assert _convert(features, to, tmp_path / to) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["features.h5", "s.h5"]


@pytest.mark.parametrize("to", FORMATS)
def test_without_a_path_a_folder_beside_the_features_is_named_for_the_format(
    features: Path, to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "--features", str(features), "--to", to]) == 0
    folder = features.parent / to
    assert folder.is_dir()
    assert str(folder) in capsys.readouterr().err
    assert list(folder.iterdir())
