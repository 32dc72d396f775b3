"""The synthetic cohort: its table, its truth, and the files it becomes."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.frame import um_to_pixel
from pipeline.provenance import file_digest
from pipeline.tools.demo.architecture import draw_architecture
from pipeline.tools.demo.cells import NAMES, draw_cells
from pipeline.tools.demo.cohort import COHORT, NUCLEAR_MARKER, PANEL, DensePlan, SlidePlan, plan_of
from pipeline.tools.demo.deformation import TrueMap, draw_map
from pipeline.tools.demo.drawing import draw, draw_files
from pipeline.tools.demo.multiplex import MARKERS, dense_grid

SMALL_FIELD_UM = (672.0, 544.0)
SHEET = Path(__file__).parents[2] / "config" / "slides.tsv"


def small(name: str) -> SlidePlan:
    """The slide of that name with a small field of view."""
    return dataclasses.replace(plan_of(name), field_um=SMALL_FIELD_UM)


@dataclass(frozen=True)
class Written:
    plan: SlidePlan
    dense_plan: DensePlan
    sparse: Path
    dense: Path
    cells: pd.DataFrame
    landmarks: pd.DataFrame
    truth: Path


@pytest.fixture(scope="module", params=["demo-1", "demo-3"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    plan = small(request.param)
    assert plan.dense is not None
    folder = tmp_path_factory.mktemp(request.param)
    paths = folder / "he.tif", folder / "multiplex.ome.tif", folder / "truth"
    draw_files(plan, *paths)
    cells, landmarks = (pd.read_csv(paths[2] / name) for name in ("cells.csv", "landmarks.csv"))
    return Written(plan, plan.dense, paths[0], paths[1], cells, landmarks, paths[2])


def written_map(truth: Path) -> TrueMap:
    """The map rebuilt from the words of transform.json alone."""
    words = json.loads((truth / "transform.json").read_text(encoding="utf-8"))["map"]
    waves = words["waves"]
    return TrueMap(
        np.array(words["matrix"]),
        np.array(words["offset_um"]),
        np.array([wave["amplitude_um"] for wave in waves]),
        np.array([wave["wave_per_um"] for wave in waves]),
        np.array([wave["phase_rad"] for wave in waves]),
    )


def centring_error_um(
    image: NDArray[np.float32], positions_um: NDArray[np.float64], mpp: float, downsample: int
) -> NDArray[np.float64]:
    """How far from its middle the mean image around the stated positions has its centre of mass."""
    side, step_um = 41, 0.25
    offsets = (np.arange(side) - side // 2) * step_um
    total = np.zeros((side, side))
    for x, y in positions_um:
        columns = um_to_pixel(x + offsets, downsample=downsample, mpp=mpp)
        rows = um_to_pixel(y + offsets, downsample=downsample, mpp=mpp)
        maps = np.meshgrid(np.asarray(columns, np.float32), np.asarray(rows, np.float32))
        total += cv2.remap(image, *maps, cv2.INTER_LINEAR)
    total -= np.quantile(total, 0.25)
    across, down = np.meshgrid(offsets, offsets)
    disc = np.clip(total, 0, None) * (np.hypot(across, down) < 4)
    return np.array([(disc * across).sum(), (disc * down).sum()]) / disc.sum()


# The table


def test_the_cohort_is_what_the_design_asks_for() -> None:
    assert [plan.name for plan in COHORT] == [f"demo-{number}" for number in range(1, 7)]
    assert {plan.patient for plan in COHORT} == {"p1", "p2", "p3", "p4"}
    paired = [plan for plan in COHORT if plan.dense]
    assert len(paired) == 4
    assert len({plan.patient for plan in paired}) >= 3
    dense = [plan.dense for plan in paired if plan.dense]
    assert sum(side.mirrored for side in dense) >= 1
    assert sum(len(side.panel) == len(PANEL) - 1 for side in dense) == 1
    assert all(NUCLEAR_MARKER in side.panel and set(side.panel) <= set(PANEL) for side in dense)
    assert all(10 <= side.deformation_um <= 20 for side in dense)
    assert all(side.mpp != plan.mpp for plan, side in zip(paired, dense, strict=True))


def test_every_size_can_be_halved_five_times() -> None:
    assert all(side % 32 == 0 for plan in COHORT for side in plan.size_px)


def test_the_table_needs_no_heavy_library() -> None:
    heavy = "{'numpy', 'cv2', 'torch', 'scipy', 'pandas', 'tifffile', 'pyvips'}"
    code = f"import sys, pipeline.tools.demo.cohort; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sheet_names_the_same_slides() -> None:
    with SHEET.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader((line for line in stream if not line.startswith("#")), delimiter="\t"))
    assert [(row["slide"], row["patient"], bool(row["dense"])) for row in rows] == [
        (plan.name, plan.patient, plan.dense is not None) for plan in COHORT
    ]


def test_an_unknown_slide_is_a_stated_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out-sparse", str(tmp_path / "he.tif"), "--out-truth", str(tmp_path / "truth")]
    assert main(["demo", "--slide", "demo-9", *arguments]) == 1
    assert "demo-9" in capsys.readouterr().err


def test_a_dense_image_of_a_sparse_only_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StatedError, match="demo-2"):
        draw_files(small("demo-2"), tmp_path / "he.tif", tmp_path / "multiplex.ome.tif", tmp_path / "truth")


# The map


@pytest.mark.parametrize("plan", [plan for plan in COHORT if plan.dense], ids=lambda plan: plan.name)
def test_the_map_inverts_and_keeps_to_its_plan(plan: SlidePlan) -> None:
    assert plan.dense is not None
    points = np.random.default_rng(0).uniform((0, 0), plan.field_um, (2000, 2))
    true_map, extent_um = draw_map(plan.dense, np.random.default_rng(1), points, 60.0)
    dense = true_map.to_dense(points)
    np.testing.assert_allclose(true_map.to_sparse(dense), points, atol=1e-6)
    assert np.linalg.norm(true_map.displacement_um(points), axis=1).max() == pytest.approx(plan.dense.deformation_um)
    assert (np.sign(np.linalg.det(true_map.jacobian(points))) == (-1 if plan.dense.mirrored else 1)).all()
    np.testing.assert_allclose(dense.min(axis=0), 60, atol=1e-9)
    np.testing.assert_allclose(np.array(extent_um) - dense.max(axis=0), 60, atol=1e-9)


def test_the_jacobian_is_the_slope_of_the_map() -> None:
    plan = plan_of("demo-3")
    assert plan.dense is not None
    points = np.random.default_rng(2).uniform((0, 0), plan.field_um, (50, 2))
    true_map, _ = draw_map(plan.dense, np.random.default_rng(3), points, 60.0)
    for axis, step in enumerate(np.eye(2) * 1e-3):
        slope = (true_map.to_dense(points + step) - true_map.to_dense(points - step)) / 2e-3
        np.testing.assert_allclose(true_map.jacobian(points)[:, :, axis], slope, atol=1e-6)


def test_the_dense_grid_follows_the_map() -> None:
    plan = plan_of("demo-6")
    assert plan.dense is not None
    corners = np.random.default_rng(4).uniform((0, 0), (600, 500), (500, 2))
    true_map, extent_um = draw_map(plan.dense, np.random.default_rng(5), corners, 60.0)
    size_px = int(extent_um[0] / plan.dense.mpp), int(extent_um[1] / plan.dense.mpp)
    grid = dense_grid(true_map, size_px, plan.dense.mpp)
    sparse = np.stack([grid.x_um.ravel(), grid.y_um.ravel()], axis=1)[::997].astype(np.float64)
    rows, columns = np.divmod(np.arange(0, size_px[0] * size_px[1], 997), size_px[0])
    stated = np.stack([columns, rows], axis=1) * plan.dense.mpp
    np.testing.assert_allclose(true_map.to_dense(sparse), stated, atol=0.05)


# The truth against the files


def test_landmarks_and_cells_agree_with_the_written_map(written: Written) -> None:
    true_map = written_map(written.truth)
    for table, names in ((written.landmarks, "sparse_"), (written.cells, "")):
        sparse = table[[f"{names}x_um", f"{names}y_um"]].to_numpy()
        dense = table[["dense_x_um", "dense_y_um"]].to_numpy()
        np.testing.assert_allclose(true_map.to_dense(sparse), dense, atol=1e-3)
    assert len(written.landmarks) > 20


@pytest.mark.parametrize("level", [0, 1, 2])
def test_nuclei_lie_where_the_truth_says_in_the_he(written: Written, level: int) -> None:
    with openslide.OpenSlide(written.sparse) as slide:
        image = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., 0]
    density = -np.log(np.maximum(image.astype(np.float32), 1) / 255)
    error = centring_error_um(density, written.cells[["x_um", "y_um"]].to_numpy(), written.plan.mpp, 2**level)
    np.testing.assert_allclose(error, 0, atol=0.08)


@pytest.mark.parametrize("level", [0, 1])
def test_nuclei_lie_where_the_truth_says_in_the_multiplex(written: Written, level: int) -> None:
    with tifffile.TiffFile(written.dense) as file:
        image = file.series[0].levels[level].asarray()[written.dense_plan.panel.index(NUCLEAR_MARKER)]
    positions = written.cells[["dense_x_um", "dense_y_um"]].to_numpy()
    error = centring_error_um(image.astype(np.float32), positions, written.dense_plan.mpp, 2**level)
    np.testing.assert_allclose(error, 0, atol=0.08)


def test_each_marker_shines_on_the_cells_that_carry_it(written: Written) -> None:
    with tifffile.TiffFile(written.dense) as file:
        image = file.asarray()
    at = np.rint(written.cells[["dense_x_um", "dense_y_um"]].to_numpy() / written.dense_plan.mpp).astype(int)
    reach = range(-5, 6)
    for marker, plane in zip(written.dense_plan.panel, image, strict=True):
        brightest = np.max([plane[at[:, 1] + down, at[:, 0] + right] for down in reach for right in reach], axis=0)
        carries = written.cells["phenotype"].isin(list(MARKERS[marker].level)).to_numpy()
        assert np.median(brightest[carries]) > 1500
        if not carries.all():
            assert np.median(brightest[~carries]) < 0.6 * np.median(brightest[carries])


def test_cells_keep_apart_and_every_phenotype_occurs(written: Written) -> None:
    positions = written.cells[["x_um", "y_um"]].to_numpy()
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() > 6
    assert set(written.cells["phenotype"]) == set(NAMES)


# The files


def test_openslide_opens_the_he_and_knows_its_resolution(written: Written) -> None:
    with openslide.OpenSlide(written.sparse) as slide:
        assert slide.level_count >= 3
        assert slide.dimensions == written.plan.size_px
        assert slide.level_downsamples[:3] == (1.0, 2.0, 4.0)
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(written.plan.mpp, rel=1e-5)


def test_the_multiplex_is_a_pyramid_with_names_and_resolution(written: Written) -> None:
    with tifffile.TiffFile(written.dense) as file:
        series = file.series[0]
        assert (series.axes, str(series.dtype)) == ("CYX", "uint16")
        assert len(series.levels) >= 2
        assert file.pages[0].is_tiled
        assert all(page.subifds for page in file.pages)
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        level_0, level_1 = (series.levels[level].asarray() for level in (0, 1))
    assert tuple(channel["Name"] for channel in pixels["Channel"]) == written.dense_plan.panel
    assert pixels["PhysicalSizeX"] == pixels["PhysicalSizeY"] == written.dense_plan.mpp
    channels, height, width = level_1.shape
    means = level_0.reshape(channels, height, 2, width, 2).mean(axis=(2, 4))
    assert np.abs(means - level_1).max() <= 0.5


def test_the_he_is_pink_and_purple_on_a_bright_ground(written: Written) -> None:
    with openslide.OpenSlide(written.sparse) as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3].astype(float)
    assert image[:16].mean() > 230
    tissue = image[image.min(axis=-1) < 200]
    red, green, blue = tissue.mean(axis=0)
    assert green < blue
    assert green < red


def test_equal_plans_make_equal_files_and_other_names_other_slides(written: Written, tmp_path: Path) -> None:
    draw_files(written.plan, tmp_path / "he.tif", tmp_path / "multiplex.ome.tif", tmp_path / "truth")
    assert file_digest(tmp_path / "he.tif") == file_digest(written.sparse)
    assert file_digest(tmp_path / "multiplex.ome.tif") == file_digest(written.dense)
    assert file_digest(tmp_path / "truth") == file_digest(written.truth)
    draw_files(dataclasses.replace(written.plan, name="other"), tmp_path / "he.tif", None, tmp_path / "truth")
    assert file_digest(tmp_path / "he.tif") != file_digest(written.sparse)
    assert (tmp_path / "truth" / "cells.csv").read_bytes() != (written.truth / "cells.csv").read_bytes()


def test_leaving_a_marker_out_changes_no_other_channel() -> None:
    plan = small("demo-3")
    assert plan.dense is not None
    whole = draw(dataclasses.replace(plan, dense=dataclasses.replace(plan.dense, panel=PANEL)))
    lacking = draw(plan)
    assert whole.multiplex is not None
    assert lacking.multiplex is not None
    rows = [PANEL.index(marker) for marker in plan.dense.panel]
    np.testing.assert_array_equal(whole.multiplex[rows], lacking.multiplex)


def test_a_sparse_only_slide_has_empty_dense_columns(tmp_path: Path) -> None:
    draw_files(small("demo-5"), tmp_path / "he.tif", None, tmp_path / "truth")
    for name in ("cells.csv", "landmarks.csv"):
        table = pd.read_csv(tmp_path / "truth" / name)
        assert table[["dense_x_um", "dense_y_um"]].isna().all(axis=None)
    assert json.loads((tmp_path / "truth" / "transform.json").read_text(encoding="utf-8"))["map"] is None


def test_composition_varies_from_place_to_place() -> None:
    """Neighbourhoods differ in their immune cells far more than chance would have them."""
    tissue = draw_architecture((1000.0, 800.0), np.random.default_rng(6))
    cells = draw_cells(tissue, np.random.default_rng(7))
    immune = np.isin(cells.phenotype, [NAMES.index(name) for name in ("T cell", "B cell", "macrophage")])
    chosen = cells.take(immune)
    block = (chosen.position_um // 100).astype(int) @ np.array([1, 100])
    is_b = chosen.phenotype == NAMES.index("B cell")
    counts = pd.Series(is_b).groupby(block).agg(["sum", "count"]).query("count >= 15")
    share = is_b.mean()
    chance = (share * (1 - share) / counts["count"]).mean()
    assert (counts["sum"] / counts["count"]).var() > 4 * chance
