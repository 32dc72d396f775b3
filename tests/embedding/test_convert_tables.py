"""Tables that open: CSV for those who read neither HDF5 nor Parquet, and one AnnData file of a whole cohort."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from pipeline.cli import main

ATTRIBUTES = {
    "patch_size": 32, "patch_size_level0": 64, "overlap": 0, "level0_magnification": 20.0, "mpp": 1.0,
    "mpp_level0": 0.5, "patient": "p1", "encoder": "ab" * 32, "encoder_run": "distilled",
}  # fmt: skip


def _write(folder: Path, slide: str, rows: int, *, width: int = 3, **attributes: object) -> pd.DataFrame:
    """A slide's features and its predicted markers; returns the markers' table."""
    random = np.random.default_rng(rows)
    corners_px = random.integers(0, 9000, (rows, 2))
    (folder / "embed").mkdir(exist_ok=True)
    with h5py.File(folder / "embed" / f"{slide}.h5", "w") as file:
        file["features"] = random.normal(0, 1, (rows, width)).astype(np.float32)
        file["coords"] = corners_px
        file["coords"].attrs.update({**ATTRIBUTES, "name": slide, **attributes})
    markers = pd.DataFrame(
        {"x_px": corners_px[:, 0], "y_px": corners_px[:, 1], "predicted CD3": random.normal(size=rows)}
    )
    (folder / "predict" / slide).mkdir(parents=True)
    markers.to_parquet(folder / "predict" / slide / "patches.parquet")
    return markers


def _convert(folder: Path, *more: str) -> int:
    argv = [
        "convert",
        "--features",
        str(folder / "embed"),
        "--to",
        "anndata",
        "--all",
        "--out",
        str(folder / "all.h5ad"),
    ]
    return main([*argv, *more])


def _texts(group: h5py.Group) -> list[str]:
    return [value.decode() for value in group["categories"][...]]


def test_all_slides_stand_in_one_anndata_file_with_their_predicted_markers(tmp_path: Path) -> None:
    first, second = _write(tmp_path, "a", 5), _write(tmp_path, "b", 7, mpp_level0=0.25)
    second = second.rename(columns={"predicted CD3": "predicted CD20"})
    second.to_parquet(tmp_path / "predict" / "b" / "patches.parquet")
    assert _convert(tmp_path, "--markers", str(tmp_path / "predict")) == 0
    with h5py.File(tmp_path / "all.h5ad") as file:
        features = [h5py.File(tmp_path / "embed" / f"{slide}.h5")["features"][...] for slide in "ab"]
        np.testing.assert_array_equal(file["X"][...], np.concatenate(features))
        obs = file["obs"]
        assert _texts(obs["slide"]) == ["a", "b"]
        assert obs["slide/codes"][...].tolist() == [0] * 5 + [1] * 7
        assert obs["_index"][...].tolist() == [f"a_{row}".encode() for row in range(5)] + [
            f"b_{row}".encode() for row in range(7)
        ]
        nothing = [np.full(5, np.nan), np.full(7, np.nan)]
        np.testing.assert_array_equal(obs["predicted CD3"], np.concatenate([first["predicted CD3"], nothing[1]]))
        np.testing.assert_array_equal(obs["predicted CD20"], np.concatenate([nothing[0], second["predicted CD20"]]))
        np.testing.assert_allclose(obs["x_um"], np.concatenate([first["x_px"] * 0.5, second["x_px"] * 0.25]))
        assert file["obsm/spatial"].shape == (12, 2)


def test_slides_that_do_not_belong_in_one_table_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path, "a", 5)
    _write(tmp_path, "b", 4, encoder="cd" * 32)
    assert _convert(tmp_path) == 1
    assert "slide b" in (error := capsys.readouterr().err)
    assert "expected 3 features of encoder distilled-abababababab" in error
    (tmp_path / "embed" / "b.h5").unlink()
    moved = pd.read_parquet(tmp_path / "predict" / "a" / "patches.parquet").assign(x_px=0)
    moved.to_parquet(tmp_path / "predict" / "a" / "patches.parquet")
    assert _convert(tmp_path, "--markers", str(tmp_path / "predict")) == 1
    assert "found row 0 at (0, " in capsys.readouterr().err
    (tmp_path / "predict" / "a" / "patches.parquet").unlink()
    assert _convert(tmp_path, "--markers", str(tmp_path / "predict")) == 1
    assert "found no file" in capsys.readouterr().err
    assert not (tmp_path / "all.h5ad").exists()


def test_options_that_do_not_go_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    argv = ["convert", "--features", str(tmp_path / "empty")]
    assert main([*argv, "--to", "anndata", "--all"]) == 1
    assert "expected a folder of features (.h5), found none" in capsys.readouterr().err
    assert main([*argv, "--to", "csv", "--all"]) == 1
    assert "expected --to anndata, found --to csv" in capsys.readouterr().err
    assert main([*argv, "--to", "anndata", "--markers", str(tmp_path)]) == 1
    assert "expected --all beside it" in capsys.readouterr().err


def test_csv_of_a_slide_holds_every_feature(tmp_path: Path) -> None:
    _write(tmp_path, "a", 5)
    features = tmp_path / "embed" / "a.h5"
    assert main(["convert", "--features", str(features), "--to", "csv", "--out", str(tmp_path / "a.csv")]) == 0
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table) == ["slide", "x_um", "y_um", "x_px", "y_px", "feature_0", "feature_1", "feature_2"]
    with h5py.File(features) as file:
        np.testing.assert_array_equal(table.filter(like="feature").to_numpy(np.float32), file["features"])
        np.testing.assert_array_equal(table[["x_px", "y_px"]], file["coords"])
        np.testing.assert_allclose(table["x_um"], file["coords"][:, 0] * 0.5)


def test_csv_of_a_parquet_file_spreads_its_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = pd.DataFrame({"slide": ["a", "b, c"], "patches": [3, 4], "mean": [[0.5, 1.0], [2.0, 3.25]]})
    known.to_parquet(tmp_path / "slides.parquet")
    argv = ["convert", "--features", str(tmp_path / "slides.parquet"), "--to", "csv"]
    assert main(argv) == 0
    table = pd.read_csv(tmp_path / "csv" / "slides.csv")
    assert list(table) == ["slide", "patches", "mean_0", "mean_1"]
    assert table.iloc[1].tolist() == ["b, c", 4, 2.0, 3.25]
    known.assign(mean=[[0.5], [2.0, 3.25]]).to_parquet(tmp_path / "slides.parquet")
    assert main(argv) == 1
    assert "expected lists of one length in mean, found lengths [1, 2]" in capsys.readouterr().err
    (tmp_path / "slides.parquet").write_text("no table")
    assert main(argv) == 1
    assert "expected a Parquet file" in capsys.readouterr().err
