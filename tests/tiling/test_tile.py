"""From slide files and a known transform to a store whose pairs show the same place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from slide_files import pyramid, write_ome, write_rgb

from pipeline.cli import main
from pipeline.provenance import file_digest, write_json
from pipeline.registration.transform import Transform, write_transform
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.record import to_mapping
from pipeline.slides.stage import inspect_slide
from pipeline.store import writer as store_writer
from pipeline.store.patch_store import PatchStore
from pipeline.tiling.agreement import Agreement
from pipeline.tiling.pairing import UNMEASURED_QUALITY, pair_quality

MPP = 0.65
# Sparse um to dense um: a turn by 25 degrees about a point, and a shift.
TURN = np.array([[np.cos(0.436), -np.sin(0.436)], [np.sin(0.436), np.cos(0.436)]])
AFFINE = np.column_stack([TURN, np.array([250.0, 250.0]) - TURN @ np.array([180.0, 180.0]) + [6.0, -4.0]])


def _nuclei(size_px: int) -> NDArray[np.float64]:
    """A field of blurred discs in [0, 1], 900 um wide, as nuclei lie."""
    rng = np.random.default_rng(5)
    field = np.zeros((size_px, size_px), dtype=np.float32)
    for x, y in rng.uniform(0, size_px, (size_px * size_px // 350, 2)):
        cv2.circle(field, (int(x), int(y)), int(rng.integers(4, 7)), float(rng.uniform(0.6, 1.0)), -1)
    return cv2.GaussianBlur(field, (0, 0), 1.2).astype(np.float64)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """he.tif (0.65 um/px), multiplex.ome.tif and the true transform between them."""
    folder = tmp_path_factory.mktemp("pair")
    dense_nuclei = _nuclei(1000)
    y, x = np.mgrid[:600, :600].astype(np.float64) * MPP
    map_x, map_y = (AFFINE[i, 0] * x + AFFINE[i, 1] * y + AFFINE[i, 2] for i in (0, 1))
    seen = cv2.remap(dense_nuclei, (map_x / MPP).astype(np.float32), (map_y / MPP).astype(np.float32), cv2.INTER_LINEAR)
    white, purple = np.array([242.0, 226.0, 238.0]), np.array([90.0, 50.0, 130.0])
    he = white + (purple - white) * seen[..., None]
    he[:, :120] = 247.0
    write_rgb(folder / "he.tif", pyramid(he.astype(np.uint8), 3), mpp=MPP)
    ramp = np.tile(np.arange(1000) * 20, (1000, 1))
    dense = np.stack([dense_nuclei * 40000, ramp]).astype(np.uint16)
    write_ome(folder / "multiplex.ome.tif", [dense], ["DAPI", "Ramp"])
    return folder


def _tile(
    folder: Path,
    pair: Path,
    affine: NDArray[Any] | None,
    verdict: str = "pass",
    *,
    judged_by: str = "nuclei",
    threads: int = 2,
    **settings: Any,
) -> PatchStore:
    row = SheetRow("s1", "p1", str(pair / "he.tif"), str(pair / "multiplex.ome.tif") if affine is not None else "")
    record = inspect_slide(row, InspectSettings())
    write_json(folder / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(folder / "record.json"), "--out", str(folder / "s1.zarr")]
    argv += ["--threads", str(threads)]
    if affine is not None:
        write_transform(folder / "transform.zarr", Transform(affine, None, None), {})
        write_json(folder / "qc.json", {"verdict": verdict, "channel": "DAPI", "judged_by": judged_by})
        argv += ["--transform", str(folder / "transform.zarr"), "--qc", str(folder / "qc.json")]
    options = {"size_px": 128, "mpp": MPP, "min_tissue": 0.3} | settings
    assert main([*argv, "--settings", json.dumps(options)]) == 0
    return PatchStore.open(folder / "s1.zarr")


def test_pairs_of_a_true_transform_show_the_same_place(tmp_path: Path, pair: Path) -> None:
    store = _tile(tmp_path, pair, AFFINE)
    assert len(store) == 12
    assert store.attributes.markers == ("DAPI", "Ramp")
    measured = store.table.residual_um[np.isfinite(store.table.residual_um)]
    assert len(measured) >= 8
    assert np.median(measured) < 0.5
    assert (store.table.pair_quality[np.isfinite(store.table.residual_um)] > 0).all()
    for row in range(len(store)):
        x_um = (store.table.position_um[row, 0] + np.arange(128) * MPP)[None, :]
        y_um = (store.table.position_um[row, 1] + np.arange(128) * MPP)[:, None]
        dense_x_px = (AFFINE[0, 0] * x_um + AFFINE[0, 1] * y_um + AFFINE[0, 2]) / MPP
        np.testing.assert_allclose(store.read_dense([row])[0, 1], dense_x_px * 20, atol=2.0)


def test_sparse_rows_are_the_slides_own_pixels(tmp_path: Path, pair: Path) -> None:
    from openslide import OpenSlide

    store = _tile(tmp_path, pair, None)
    assert not store.has_dense
    slide = OpenSlide(pair / "he.tif")
    for row in (0, 7, len(store) - 1):
        x, y = store.table.position_px[row].tolist()
        expected = np.asarray(slide.read_region((x, y), 0, (128, 128)).convert("RGB"))
        np.testing.assert_array_equal(store.read_sparse([row])[0], expected)


def test_pairs_of_a_shifted_transform_are_measured_and_dropped(tmp_path: Path, pair: Path) -> None:
    wrong = AFFINE + np.array([[0, 0, 9.0], [0, 0, 0]])
    store = _tile(tmp_path, pair, wrong, max_residual_um=4.0)
    measured = np.isfinite(store.table.residual_um)
    assert measured.sum() >= 8
    assert abs(np.median(store.table.residual_um[measured]) - 9.0) < 0.7
    assert (store.table.pair_quality[measured] == 0).mean() > 0.8
    assert store.attributes.counts["pair_residual"] >= 0.8 * measured.sum()


def test_a_channel_that_shows_no_nuclei_measures_no_patch_and_drops_none(tmp_path: Path, pair: Path) -> None:
    store = _tile(tmp_path, pair, AFFINE, judged_by="structures")
    assert store.attributes.nuclear_channel is None
    assert np.isnan(store.table.residual_um).all()
    assert (store.table.pair_quality > 0).all()


def test_a_failed_registration_gives_no_pairs(tmp_path: Path, pair: Path) -> None:
    store = _tile(tmp_path, pair, AFFINE, verdict="fail")
    assert not store.has_dense
    assert store.attributes.verdict == "fail"
    assert (store.table.pair_quality == 0).all()
    assert len(store) == 12


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_dense_patch_with_pixels_that_are_no_numbers_is_no_pair_and_is_counted(
    tmp_path: Path, pair: Path, value: float
) -> None:
    holed = _with_values(tmp_path, pair, (slice(500, 540), slice(480, 520)), value)
    store = _tile(tmp_path, holed, AFFINE)
    known = np.isfinite(store.read_dense(slice(None))).all(axis=(1, 2, 3))
    assert 0 < (~known).sum() <= 4
    assert (store.table.pair_quality[~known] == 0).all()
    assert (store.table.pair_quality[known] > 0).all()
    assert np.isnan(store.table.residual_um[~known]).all()
    counts = store.attributes.counts
    assert (counts["pair_not_finite"], counts["pair_residual"], counts["pair_outside"]) == ((~known).sum(), 0, 0)


def test_a_dense_slide_without_a_patch_of_numbers_is_refused(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holed = _with_values(tmp_path, pair, (slice(None), slice(None)), np.nan)
    write_json(tmp_path / "qc.json", {"verdict": "pass", "channel": "DAPI"})
    argv = [*_pair_words(tmp_path, holed), "--qc", str(tmp_path / "qc.json"), "--settings", '{"size_px": 128}']
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "multiplex.ome.tif: expected numbers in all pixels of some patch, found nan or infinity in each of" in error
    assert not (tmp_path / "s1.zarr").exists()


def _with_values(folder: Path, pair: Path, place: tuple[slice, slice], value: float) -> Path:
    """The pair in a folder of its own, the dense slide as float32 with `value` at a place of its first channel."""
    out = folder / "pair"
    out.mkdir()
    shutil.copy(pair / "he.tif", out)
    planes = tifffile.imread(pair / "multiplex.ome.tif").astype(np.float32)
    planes[0][place] = value
    write_ome(out / "multiplex.ome.tif", [planes], ["DAPI", "Ramp"], metadata={"PhysicalSizeX": MPP})
    return out


def test_marker_means_are_those_of_the_pixels_in_their_own_units(tmp_path: Path, pair: Path) -> None:
    store = _tile(tmp_path, pair, AFFINE)
    dense = store.read_dense(slice(None))
    np.testing.assert_allclose(store.table.marker_mean, dense.mean(axis=(2, 3)), rtol=1e-5)


def test_the_number_of_threads_does_not_change_a_byte(
    tmp_path: Path, pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_writer, "SHARD_ROWS", 4)
    digests = []
    for threads in (1, 2, 3):
        folder = tmp_path / str(threads)
        folder.mkdir()
        store = _tile(folder, pair, AFFINE, threads=threads)
        assert len(list((store.path / "dense" / "c").iterdir())) >= 3
        np.testing.assert_allclose(store.table.marker_mean, store.read_dense(slice(None)).mean(axis=(2, 3)), rtol=1e-5)
        digests.append(file_digest(store.path))
    assert digests[0] == digests[1] == digests[2]


def test_a_slide_of_glass_is_stated_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rgb(tmp_path / "glass.tif", [np.full((600, 600, 3), 244, dtype=np.uint8)])
    record = inspect_slide(SheetRow("g", "p", str(tmp_path / "glass.tif")), InspectSettings())
    write_json(tmp_path / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "g.zarr")]
    assert main([*argv, "--settings", '{"size_px": 64}']) == 1
    error = capsys.readouterr().err
    assert "slide g" in error
    assert "0.0% of the slide is tissue" in error
    assert sorted(item.name for item in tmp_path.iterdir()) == ["glass.tif", "record.json"]


def test_patches_finer_than_the_slide_are_refused(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = inspect_slide(SheetRow("s", "p", str(pair / "he.tif")), InspectSettings())
    write_json(tmp_path / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "s.zarr")]
    assert main([*argv, "--settings", '{"mpp": 0.25}']) == 1
    assert "expected a slide of 0.25 um/px or finer, found 0.65 um/px" in capsys.readouterr().err


def test_a_slide_smaller_than_a_patch_is_told_with_both_sizes(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = inspect_slide(SheetRow("s", "p", str(pair / "he.tif")), InspectSettings())
    write_json(tmp_path / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "s.zarr")]
    assert main([*argv, "--settings", '{"size_px": 1000}']) == 1
    assert "expected a slide that holds a patch of 650 um" in capsys.readouterr().err


def test_an_error_deep_in_the_job_names_the_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rgb(tmp_path / "he.tif", [np.full((600, 600, 3), 150, dtype=np.uint8)], mpp=2.0)
    record = inspect_slide(SheetRow("coarse", "p", str(tmp_path / "he.tif")), InspectSettings())
    write_json(tmp_path / "record.json", to_mapping(record))
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "s.zarr")]
    assert main([*argv, "--settings", '{"size_px": 64, "drop": ["blur"]}']) == 1
    error = capsys.readouterr().err
    assert f"slide coarse, file {tmp_path / 'he.tif'}: expected 1.4 um/px or finer, to judge focus" in error


def _pair_words(folder: Path, pair: Path, *, paired: bool = True) -> list[str]:
    """The words of a tile job with a transform, the qc.json left out."""
    row = SheetRow("s1", "p1", str(pair / "he.tif"), str(pair / "multiplex.ome.tif") if paired else "")
    write_json(folder / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    write_transform(folder / "transform.zarr", Transform(AFFINE, None, None), {})
    argv = ["tile", "--record", str(folder / "record.json"), "--out", str(folder / "s1.zarr")]
    return [*argv, "--transform", str(folder / "transform.zarr")]


@pytest.mark.parametrize(
    "qc",
    [
        {"slide": "s2", "verdict": "pass", "channel": "DAPI"},
        {"slide": "s1", "verdict": "failed", "channel": "DAPI"},
        {"slide": "s1", "verdict": "pass", "channel": "Hoechst"},
    ],
    ids=str,
)
def test_the_verdict_on_another_pair_is_refused(
    tmp_path: Path, pair: Path, qc: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "qc.json", qc)
    assert main([*_pair_words(tmp_path, pair), "--qc", str(tmp_path / "qc.json")]) == 1
    assert "expected the qc.json of this slide's registration" in capsys.readouterr().err
    assert not (tmp_path / "s1.zarr").exists()


def test_a_transform_without_a_dense_side_is_told(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "qc.json", {"verdict": "pass", "channel": "DAPI"})
    assert main([*_pair_words(tmp_path, pair, paired=False), "--qc", str(tmp_path / "qc.json")]) == 1
    assert "expected a dense side" in capsys.readouterr().err


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_less_than_one_thread_is_wrong_usage(
    tmp_path: Path, pair: Path, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*_pair_words(tmp_path, pair), "--threads", threads])
    assert end.value.code == 2
    assert "argument --threads: expected a whole number from 1" in capsys.readouterr().err


def test_a_transform_without_its_verdict_is_wrong_usage(
    tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(_pair_words(tmp_path, pair))
    assert end.value.code == 2
    assert "--transform and --qc go together" in capsys.readouterr().err


def test_quality_follows_confidence_and_drops_shifts_and_edges() -> None:
    known = Agreement(
        np.array([0.5, 9.0, 0.5, np.nan, 0.5, 0.5, 0.5, 9.0], dtype=np.float32),
        clear=np.array([True, True, False, False, True, True, True, False]),
        borne=np.array([True, True, True, True, True, True, False, True]),
    )
    quality = pair_quality(
        known,
        np.array([0.9, 0.9, 0.1, 0.0, 0.9, 0.9, 0.9, 0.1], dtype=np.float32),
        np.array([1.0, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0], dtype=np.float32),
        np.array([True, True, True, True, True, False, True, True]),
        np.zeros(8),
        max_residual_um=8.0,
    )
    np.testing.assert_allclose(quality, [0.9, 0.0, UNMEASURED_QUALITY, UNMEASURED_QUALITY, 0.0, 0.0, 0.0, 0.0])


def test_a_patch_in_two_layers_is_a_pair_only_where_its_shift_is_as_sure_as_elsewhere() -> None:
    clear, layered = np.array([True] * 5 + [False]), np.array([0.0, 0.1, 0.4, 0.6, 1.0, 0.6])
    confidence = np.array([0.6, 0.7, 0.8, 0.75, 0.65, 0.1], dtype=np.float32)
    known = Agreement(np.full(6, 0.5, np.float32), clear, np.ones(6, np.bool_))
    quality = pair_quality(
        known, confidence, np.ones(6, np.float32), np.ones(6, np.bool_), layered, max_residual_um=8.0
    )
    assert (quality > 0).tolist() == [True, True, True, True, False, False]


def test_pairs_of_a_brightfield_dense_slide_are_measured_by_its_hematoxylin(tmp_path: Path, pair: Path) -> None:
    row = SheetRow("s1", "p1", str(pair / "he.tif"), str(pair / "he.tif"))
    write_json(tmp_path / "record.json", to_mapping(inspect_slide(row, InspectSettings())))
    shifted = np.array([[1.0, 0, 5.0], [0, 1.0, 0]])
    write_transform(tmp_path / "transform.zarr", Transform(shifted, None, None), {})
    write_json(tmp_path / "qc.json", {"verdict": "pass", "channel": "hematoxylin"})
    argv = ["tile", "--record", str(tmp_path / "record.json"), "--out", str(tmp_path / "s.zarr")]
    argv += ["--transform", str(tmp_path / "transform.zarr"), "--qc", str(tmp_path / "qc.json")]
    assert main([*argv, "--settings", json.dumps({"size_px": 128, "min_tissue": 0.3})]) == 0
    table = PatchStore.open(tmp_path / "s.zarr").table
    measured = np.isfinite(table.residual_um)
    assert measured.sum() >= 6
    assert abs(np.median(table.residual_um[measured]) - 5.0) < 0.5
