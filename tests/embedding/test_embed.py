"""The stages embed and embed-slides: files that TRIDENT's readers take, and slides that may be compared."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn_store import write_store
from drawn_training import draw_pairs, train_tiny

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.pooling import mean_and_std
from pipeline.store.patch_store import PatchStore


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    train_tiny(folder)
    return folder


def _embed(trained: Path, slide: str, out: Path, encoder: str = "run/encoder", **settings: object) -> int:
    argv = ["embed", "--store", str(trained / "tile" / f"{slide}.zarr"), "--encoder", str(trained / encoder)]
    return main([*argv, "--out", str(out), "--settings", json.dumps({"batch_size": 7, **settings})])


def test_features_and_coordinates_are_in_the_rows_of_the_store(trained: Path, tmp_path: Path) -> None:
    assert _embed(trained, "s0", tmp_path / "s0.h5", precision="fp32") == 0
    store = PatchStore.open(trained / "tile" / "s0.zarr")
    with h5py.File(tmp_path / "s0.h5") as file:
        assert file["features"].dtype == np.float32
        assert file["coords"].dtype == np.int64
        np.testing.assert_array_equal(file["coords"], store.table.position_px)
        expected = Encoder.load(trained / "run" / "encoder").embed(store.read_sparse(slice(None)))
        np.testing.assert_allclose(file["features"], expected, atol=1e-4)
        assert file.attrs["encoder"] == file["coords"].attrs["encoder"]
        assert json.loads(file.attrs["provenance"])["stage"] == "embed"


def test_coordinates_carry_tridents_attributes_with_true_values(trained: Path, tmp_path: Path) -> None:
    assert _embed(trained, "s1", tmp_path / "s1.h5") == 0
    with h5py.File(tmp_path / "s1.h5") as file:
        attributes = dict(file["coords"].attrs)
        assert dict(file["features"].attrs) == {"name": "s1", "savetodir": str(tmp_path)}
    expected = {
        "patch_size": 32,
        "patch_size_level0": 32,
        "level0_magnification": 10.0,
        "target_magnification": 10.0,
        "overlap": 0,
        "name": "s1",
        "savetodir": str(tmp_path),
        "level0_width": 20 * 32,
        "level0_height": 32,
    }
    assert {key: attributes[key] for key in expected} == expected
    assert attributes["mpp"] == 1.0
    assert attributes["patient"] == "p1"


def test_large_feature_tables_are_chunked_by_a_mebibyte(trained: Path, tmp_path: Path) -> None:
    sparse = np.resize(draw_pairs(4, 1, 0)[0], (3000, 32, 32, 3))
    write_store(trained / "tile" / "large.zarr", sparse=sparse, slide="large")
    assert _embed(trained, "large", tmp_path / "l.h5", batch_size=500) == 0
    with h5py.File(tmp_path / "l.h5") as file:
        rows, width = file["features"].chunks
        assert width == file["features"].shape[1]
        assert rows * width * 4 >= 2**20


def test_the_same_inputs_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        assert _embed(trained, "s0", tmp_path / "s0.h5") == 0
        written.append((tmp_path / "s0.h5").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(("size_px", "mpp"), [(32, 1.06), (32, 0.94), (48, 1.0)])
def test_patches_unlike_those_of_the_training_are_refused(
    trained: Path, tmp_path: Path, size_px: int, mpp: float, capfd: pytest.CaptureFixture[str]
) -> None:
    sparse = np.zeros((4, size_px, size_px, 3), dtype=np.uint8)
    name = f"odd-{size_px}-{mpp}"
    write_store(trained / "tile" / f"{name}.zarr", sparse=sparse, slide=name, mpp=mpp)
    assert _embed(trained, name, tmp_path / "x.h5") == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert f"error: slide {name}" in error
    assert f"found {size_px} px at {mpp:g} um/px" in error
    assert not (tmp_path / "x.h5").exists()


def test_a_resolution_within_5_percent_is_taken(trained: Path, tmp_path: Path) -> None:
    sparse = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    write_store(trained / "tile" / "near.zarr", sparse=sparse, slide="near", mpp=1.04)
    assert _embed(trained, "near", tmp_path / "near.h5") == 0


def test_slide_vectors_are_means_and_deviations_of_the_features(trained: Path, tmp_path: Path) -> None:
    for slide in ("s1", "s0"):
        assert _embed(trained, slide, tmp_path / f"{slide}.h5") == 0
    argv = ["embed-slides", "--features", str(tmp_path), "--slides", "s1", "s0", "--out", str(tmp_path / "s.parquet")]
    assert main(argv) == 0
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert table["slide"].tolist() == ["s1", "s0"]
    assert table["patient"].tolist() == ["p1", "p0"]
    assert table["patches"].tolist() == [20, 20]
    assert table["recipe"].nunique() == 1
    with h5py.File(tmp_path / "s1.h5") as file:
        features = file["features"][...]
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    np.testing.assert_allclose(table["mean"][0], mean, atol=1e-5)
    np.testing.assert_allclose(table["mean_std"][0], np.concatenate([mean, deviation]), atol=1e-5)


def _groups(folder: Path, composition: dict[str, list[int]]) -> None:
    """Features around far corners; a slide's list counts its patches at each, in that order."""
    random = np.random.default_rng(2)
    for slide, counts in composition.items():
        corner = np.repeat(np.arange(len(counts)), counts)
        with h5py.File(folder / f"{slide}.h5", "w") as file:
            values = 10 * np.eye(len(counts))[corner] + random.normal(0, 0.1, (len(corner), len(counts)))
            file["features"] = values.astype(np.float32)
            file["coords"] = np.zeros((len(corner), 2), np.int64)
            file["coords"].attrs.update({"patient": slide, "recipe": "r", "encoder": "e"})


def test_prototypes_count_what_a_slide_is_made_of_and_come_from_training_slides_only(tmp_path: Path) -> None:
    # The fourth corner is seen in the held-out slide alone: it must not become a prototype.
    composition = {"a": [60, 30, 10, 0], "b": [50, 40, 10, 0], "held": [0, 10, 30, 40]}
    _groups(tmp_path, composition)
    lines = ["slide\trow\tpatient\tfold\tpair_quality"]
    for slide, counts in composition.items():
        lines += [f"{slide}\t{row}\t{slide}\t{int(slide != 'held')}\t1" for row in range(sum(counts))]
    (tmp_path / "split.tsv").write_text("\n".join(lines) + "\n")
    argv = [
        "embed-slides",
        "--features",
        str(tmp_path),
        "--slides",
        *composition,
        "--out",
        str(tmp_path / "s.parquet"),
    ]
    more = ["--split", str(tmp_path / "split.tsv"), "--prototypes"]
    assert main([*argv, *more, "3"]) == 0
    table = pd.read_parquet(tmp_path / "s.parquet")
    np.testing.assert_allclose(table["prototypes"][0], [0.6, 0.3, 0.1], atol=1e-6)
    np.testing.assert_allclose(table["prototypes"][1], [0.5, 0.4, 0.1], atol=1e-6)
    assert sum(table["prototypes"][2]) == pytest.approx(1)

    first = (tmp_path / "s.parquet").read_bytes()
    assert main([*argv, *more, "3"]) == 0
    assert (tmp_path / "s.parquet").read_bytes() == first
    assert main([*argv, *more, "0"]) == 0
    assert "prototypes" not in pd.read_parquet(tmp_path / "s.parquet")


@pytest.mark.parametrize(("patches", "expected"), [(9, 4), (12, 6), (2, 1), (1, 0)])
def test_few_training_patches_give_fewer_prototypes_with_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], patches: int, expected: int
) -> None:
    _groups(tmp_path, {"a": [patches, 0, 0], "held": [5, 0, 0]})
    lines = ["slide\trow\tpatient\tfold\tpair_quality", *(f"a\t{row}\ta\t1\t1" for row in range(patches))]
    (tmp_path / "split.tsv").write_text("\n".join(lines) + "\n")
    argv = ["embed-slides", "--features", str(tmp_path), "--slides", "a", "held", "--out", str(tmp_path / "s.parquet")]
    assert main([*argv, "--split", str(tmp_path / "split.tsv")]) == 0
    assert f"{expected} prototypes instead of 16" in capfd.readouterr().err
    table = pd.read_parquet(tmp_path / "s.parquet")
    assert ("prototypes" in table) == (expected > 0)
    if expected:
        assert [len(shares) for shares in table["prototypes"]] == [expected, expected]
        np.testing.assert_allclose([sum(shares) for shares in table["prototypes"]], 1, atol=1e-6)


def test_patches_without_features_are_told_by_their_row_and_not_summed_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _groups(tmp_path, {"a": [9, 9, 9]})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["features"][7, 1] = np.nan
    argv = ["embed-slides", "--features", str(tmp_path), "--slides", "a", "--out", str(tmp_path / "s.parquet")]
    assert main(argv) == 1
    assert (
        "expected finite features, found NaN or infinity in 1 of rows 0 to 26, first in row 7" in capfd.readouterr().err
    )
    assert not (tmp_path / "s.parquet").exists()


def test_block_by_block_sums_are_those_of_the_whole() -> None:
    features = np.random.default_rng(0).normal(50, 1, (20000, 3)).astype(np.float32)
    mean, std = mean_and_std(features)
    np.testing.assert_allclose(mean, features.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, features.std(axis=0, dtype=np.float64), rtol=1e-5)


def test_features_of_different_encoders_are_not_mixed(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path / "other", seed=5)
    assert _embed(trained, "s0", tmp_path / "s0.h5") == 0
    argv = ["embed", "--store", str(trained / "tile" / "s1.zarr"), "--out", str(tmp_path / "s1.h5")]
    assert main([*argv, "--encoder", str(tmp_path / "other" / "run" / "encoder")]) == 0
    argv = ["embed-slides", "--features", str(tmp_path), "--slides", "s0", "s1", "--out", str(tmp_path / "s.parquet")]
    assert main(argv) == 1
    assert "error: slide s1: expected features of the encoder" in capfd.readouterr().err
    assert not (tmp_path / "s.parquet").exists()


def test_missing_or_foreign_features_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["embed-slides", "--features", str(tmp_path), "--slides", "a", "--out", str(tmp_path / "s.parquet")]
    assert main(argv) == 1
    (tmp_path / "a.h5").write_bytes(b"x")
    assert main(argv) == 1
    assert capfd.readouterr().err.count("slide a, file") == 2
