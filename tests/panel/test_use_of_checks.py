"""What tile and train make of a check: autofluorescence subtracted, and channels that tell nothing left out."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from drawn_panel import check_of, marker
from drawn_training import TINY, write_cohort
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.marker_names import UNUSED, Aliases, panel_of
from pipeline.provenance import file_digest
from pipeline.settings.branches import read_branches
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.background import BackgroundSubtraction
from pipeline.training.rows import read_training_rows

KNOWN = Aliases({}, known=True)


def write_checks(folder: Path, dead: dict[str, str], panels: dict[str, tuple[str, ...]]) -> Path:
    folder.mkdir(exist_ok=True)
    for slide, names in panels.items():
        check = check_of(*(marker(name, dead=dead.get(slide) == name) for name in names))
        (folder / f"{slide}.json").write_text(json.dumps(asdict(check)))
    return folder


PANELS = {"s0": ("DAPI", "CD3"), "s1": ("DAPI", "CD8"), "test": ("DAPI", "CD3")}


def train(folder: Path, run: str, *argv: str, **changes: object) -> Path:
    out, settings = folder / run, json.dumps({**TINY, "epochs": 1, **changes})
    paths = [
        "--out-encoder",
        str(out / "encoder"),
        "--out-metrics",
        str(out / "m.jsonl"),
        "--out-curve",
        str(out / "c.png"),
    ]
    given = ["--stores", str(folder / "tile"), "--split", str(folder / "patches.tsv"), "--settings", settings]
    assert main(["train", "--run", run, *given, *paths, *argv]) == 0
    return out / "encoder"


def test_a_channel_that_tells_nothing_is_left_out_of_training_and_the_log_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tmp_path)
    checks = write_checks(tmp_path / "panel", {"s1": "CD8"}, PANELS)
    encoder = train(tmp_path, "dropped", "--checks", str(checks), branches=["sparse", "dense"])
    config = json.loads((encoder / "config.json").read_text())["more_from_less"]
    assert [item["marker"] for item in config["markers"]] == ["DAPI", "CD3"]
    assert "train dropped: leaves out CD8 of slide s1, see panel" in capfd.readouterr().err


def test_checks_that_name_nothing_train_the_same_weights(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    checks = write_checks(tmp_path / "panel", {}, PANELS)
    with_checks = train(tmp_path, "with", "--checks", str(checks), branches=["sparse", "dense"])
    without = train(tmp_path, "without", branches=["sparse", "dense"])
    name = "model.safetensors"
    assert file_digest(with_checks / name) == file_digest(without / name)


def test_a_slide_without_its_check_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_cohort(tmp_path)
    checks = write_checks(tmp_path / "panel", {}, {"s0": PANELS["s0"]})
    out = [
        "--out-encoder",
        str(tmp_path / "e"),
        "--out-metrics",
        str(tmp_path / "m"),
        "--out-curve",
        str(tmp_path / "c"),
    ]
    given = ["--stores", str(tmp_path / "tile"), "--split", str(tmp_path / "patches.tsv"), "--checks", str(checks)]
    assert main(["train", "--run", "r", *given, *out, "--settings", json.dumps(TINY)]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "s1.json" in line
    assert "written by panel" in line


def test_a_channel_is_absent_from_the_slide_on_which_it_is_dead_only() -> None:
    channels = {"a": ("DAPI", "CD3"), "b": ("DAPI", "CD3e", "CD8")}
    panel = panel_of(channels, KNOWN, left_out={"b": ("CD3e",)})
    assert panel.markers == ("DAPI", "CD3", "CD8")
    assert panel.indices == {"a": (0, 1), "b": (0, UNUSED, 2)}
    everywhere = panel_of(channels, KNOWN, ("CD8", "CD3"), {"a": ("CD3",), "b": ("CD3e",)})
    assert everywhere.markers == ("CD8",)
    assert everywhere.indices == {"a": (UNUSED, UNUSED), "b": (UNUSED, UNUSED, 0)}


def test_a_branch_that_loses_all_its_markers_is_one_line(tmp_path: Path) -> None:
    stores, split = tmp_path / "tile", tmp_path / "patches.tsv"
    write_cohort(tmp_path)
    branches = ["sparse", {"modality": "dense", "encoder": "t", "markers": ["CD8"]}]
    with pytest.raises(StatedError, match=r"CD8, which panel\.drop leaves out"):
        read_training_rows(split, stores, branches=read_branches(branches), batch_size=4, left_out={"s1": ("CD8",)})


@given(
    factors=st.lists(st.floats(0, 2), min_size=2, max_size=4),
    level=st.floats(0, 100),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_subtraction_is_the_formula_of_the_docs(factors: list[float], level: float, seed: int, dtype: str) -> None:
    highest = {"uint8": 255, "uint16": 65535, "float32": 1000}[dtype]
    planes = (np.random.default_rng(seed).random((len(factors) + 1, 5, 5)) * highest).astype(dtype)
    found = BackgroundSubtraction(0, level, (0.0, *factors)).subtracted(planes)
    assert found.dtype == planes.dtype
    np.testing.assert_array_equal(found[0], planes[0])
    above = np.maximum(planes[0].astype(np.float64) - level, 0)
    for factor, x, y in zip(factors, planes[1:], found[1:], strict=True):
        expected = np.maximum(x - factor * above, 0)
        # Whole numbers are rounded; float32 keeps seven digits of what was subtracted.
        np.testing.assert_allclose(y, expected, atol=0.51 if dtype != "float32" else 1e-2)


def test_the_factors_are_those_of_the_check() -> None:
    check = check_of(
        marker("DAPI", factor=0.1),
        marker("AF", factor=0.0, background=7.0),
        marker("CD3", factor=0.5),
        autofluorescence="AF",
    )
    assert BackgroundSubtraction.of(check, ("DAPI", "AF", "CD3"), "a") == BackgroundSubtraction(1, 7.0, (0.1, 0.0, 0.5))
    with pytest.raises(StatedError, match="a check by panel of the channels DAPI, CD3"):
        BackgroundSubtraction.of(check, ("DAPI", "CD3"), "a")
    with pytest.raises(StatedError, match="a channel of autofluorescence to subtract"):
        BackgroundSubtraction.of(replace(check, autofluorescence=""), ("DAPI", "AF", "CD3"), "a")


def test_tile_subtracts_in_the_store_and_says_so(
    small_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_results)
    check = check_of(marker("DAPI", background=40.0), marker("CD3", factor=0.25), autofluorescence="DAPI")
    (tmp_path / "a.json").write_text(json.dumps(asdict(check)))
    argv = ["tile", "--record", "results/inspect/a.json", "--transform", "results/register/a/transform.zarr"]
    argv += ["--qc", "results/register/a/qc.json", "--settings", '{"size_px": 64, "mpp": 0.5}']
    assert main([*argv, "--background", str(tmp_path / "a.json"), "--out", str(tmp_path / "a.zarr")]) == 0
    plain, store = PatchStore.open(Path("results/tile/a.zarr")), PatchStore.open(tmp_path / "a.zarr")
    rows = np.arange(len(store))
    before, after = plain.read_dense(rows).astype(np.float64), store.read_dense(rows)
    expected = np.maximum(before[:, 1] - 0.25 * np.maximum(before[:, 0] - 40, 0), 0)
    np.testing.assert_allclose(after[:, 1], expected, atol=0.51)
    np.testing.assert_array_equal(after[:, 0], before[:, 0])
    assert (after[:, 1] != before[:, 1]).any()
    assert json.loads(store.attributes.recipe["background"])["channel"] == 0
    assert "background" not in plain.attributes.recipe
    np.testing.assert_allclose(store.table.marker_mean[:, 1], after[:, 1].mean(axis=(1, 2)), rtol=1e-5)
