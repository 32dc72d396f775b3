"""Transforms made elsewhere: read as their makers mean them, or refused with the reason."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from synthetic_pair import SyntheticPair, synthetic_pair
from test_registration import SETTINGS, run_register, write_files

from pipeline.errors import StatedError
from pipeline.registration.assessment import assess
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.given_table import COLUMNS
from pipeline.registration.pair import Pair
from pipeline.registration.transform import Transform
from pipeline.registration.transform_file import read_transform

SIDE_UM = 1000.0


def points(count: int = 400) -> Any:
    """Points of a square of 1 mm, away from its edge."""
    return np.random.default_rng(0).uniform(80, SIDE_UM - 80, (count, 2))


def by_itk(transform: Any, positions: Any) -> Any:
    return np.array([transform.TransformPoint(point) for point in positions.tolist()])


BACKWARDS = (-1.0, 0.0, 0.0, -1.0)


def displacement_field(
    first: tuple[float, float] = (0.0, 0.0), direction: tuple[float, ...] = (1.0, 0.0, 0.0, 1.0)
) -> Any:
    """Smooth displacements of up to 8 um at nodes 20 um apart, over 1 mm from the first node on."""
    y, x = np.mgrid[0:51, 0:51] * 20.0
    values = np.stack([8 * np.sin(y / 150), 6 * np.cos(x / 130)], axis=-1)
    field = sitk.GetImageFromArray(values, isVector=True)
    field.SetSpacing((20.0, 20.0))
    field.SetOrigin(first)
    field.SetDirection(direction)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def turned(degrees: float = 25.0) -> Any:
    affine = sitk.AffineTransform(2)
    angle = np.deg2rad(degrees)
    affine.SetMatrix([1.02 * np.cos(angle), -np.sin(angle), np.sin(angle), 0.98 * np.cos(angle)])
    affine.SetTranslation((120.0, -45.0))
    return affine


@pytest.mark.parametrize("suffix", ["h5", "tfm", "txt"])
def test_itk_affine_is_taken_exactly_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    sitk.WriteTransform(turned(), str(tmp_path / "t.tfm" if suffix == "txt" else tmp_path / f"t.{suffix}"))
    if suffix == "txt":
        (tmp_path / "t.tfm").rename(tmp_path / "t.txt")
    transform = read_transform(tmp_path / f"t.{suffix}")
    assert transform.forward is None
    np.testing.assert_allclose(transform.to_dense(points()), by_itk(turned(), points()), atol=1e-6)


def test_itk_displacement_field_is_sampled_within_a_tenth_of_a_um(tmp_path: Path) -> None:
    field = displacement_field()
    sitk.WriteTransform(field, str(tmp_path / "t.h5"))
    transform = read_transform(tmp_path / "t.h5")
    np.testing.assert_allclose(transform.to_dense(points()), by_itk(field, points()), atol=0.1)
    assert transform.round_trip_um(points()).max() < 0.1


@pytest.mark.parametrize("kind", ["field", "spline"])
def test_itk_grids_whose_axes_run_backwards_are_sampled_where_they_lie(tmp_path: Path, kind: str) -> None:
    transform = displacement_field((SIDE_UM, SIDE_UM), BACKWARDS)
    if kind == "spline":
        transform = sitk.BSplineTransform(2, 3)
        transform.SetTransformDomainOrigin((SIDE_UM, SIDE_UM))
        transform.SetTransformDomainDirection(BACKWARDS)
        transform.SetTransformDomainPhysicalDimensions((SIDE_UM, SIDE_UM))
        transform.SetTransformDomainMeshSize((4, 4))
        values = np.random.default_rng(3).normal(0, 8, transform.GetNumberOfParameters())
        transform.SetParameters(values.tolist())
    sitk.WriteTransform(transform, str(tmp_path / "t.h5"))
    found = read_transform(tmp_path / "t.h5").to_dense(points())
    np.testing.assert_allclose(found, by_itk(transform, points()), atol=0.1)


def test_itk_composite_is_read_in_its_own_order(tmp_path: Path) -> None:
    """The last part comes first. A field behind an affine part has its domain in that part's image."""
    corners = by_itk(turned(), np.array([[0.0, 0], [SIDE_UM, 0], [0, SIDE_UM], [SIDE_UM, SIDE_UM]]))
    middle = corners.mean(0) - SIDE_UM / 2
    for name, parts in (
        ("field_first", (turned(), displacement_field())),
        ("affine_first", (displacement_field((float(middle[0]), float(middle[1]))), turned())),
    ):
        composite = sitk.CompositeTransform(list(parts))
        sitk.WriteTransform(composite, str(tmp_path / f"{name}.h5"))
        transform = read_transform(tmp_path / f"{name}.h5")
        central = 250 + points() / 2
        np.testing.assert_allclose(transform.to_dense(central), by_itk(composite, central), atol=0.1)
        assert transform.round_trip_um(central).max() < 0.1


def test_itk_transform_of_space_is_refused(tmp_path: Path) -> None:
    sitk.WriteTransform(sitk.AffineTransform(3), str(tmp_path / "t.tfm"))
    with pytest.raises(StatedError, match="3 dimensions"):
        read_transform(tmp_path / "t.tfm")


def write_pairs(path: Path, sparse: Any, dense: Any) -> None:
    pd.DataFrame(np.hstack([sparse, dense]), columns=list(COLUMNS)).to_csv(path, index=False)


def test_pairs_on_a_grid_give_the_map_they_were_taken_from(tmp_path: Path) -> None:
    composite = sitk.CompositeTransform([turned(), displacement_field()])
    y, x = np.mgrid[0:41, 0:41] * 25.0
    nodes = np.column_stack([x.ravel(), y.ravel()])
    write_pairs(tmp_path / "pairs.csv", nodes, by_itk(composite, nodes))
    transform = read_transform(tmp_path / "pairs.csv")
    np.testing.assert_allclose(transform.to_dense(points()), by_itk(composite, points()), atol=0.15)
    assert transform.round_trip_um(points()).max() < 0.1
    far = transform.to_dense(np.array([[-5000.0, 500.0], [8000.0, 8000.0]]))
    np.testing.assert_allclose(far, by_itk(turned(), np.array([[-5000.0, 500.0], [8000.0, 8000.0]])), atol=250)


def test_pairs_of_an_affine_map_need_no_grid(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.csv", points(8), by_itk(turned(), points(8)))
    transform = read_transform(tmp_path / "pairs.csv")
    assert transform.forward is None
    np.testing.assert_allclose(transform.to_dense(points()), by_itk(turned(), points()), atol=1e-6)


@pytest.mark.parametrize(
    ("sparse", "told"),
    [
        (points(5), "found 5"),
        (np.vstack([points(8), [[np.nan, 1.0]]]), "in line 10"),
        (np.vstack([points(8), points(1)]), "um 2 times"),
        (np.arange(8)[:, None] * np.array([[10.0, 20.0]]), "points on one line"),
    ],
)
def test_pairs_that_say_no_map_are_refused(tmp_path: Path, sparse: Any, told: str) -> None:
    write_pairs(tmp_path / "pairs.csv", sparse, sparse + 3)
    with pytest.raises(StatedError, match=told):
        read_transform(tmp_path / "pairs.csv")


def test_pairs_without_a_column_are_refused(tmp_path: Path) -> None:
    pd.DataFrame(np.ones((9, 3)), columns=list(COLUMNS[:3])).to_csv(tmp_path / "pairs.csv", index=False)
    with pytest.raises(StatedError, match="dense_y_um"):
        read_transform(tmp_path / "pairs.csv")


def test_a_given_transform_that_is_none_is_told_with_its_slide(
    drawn: SyntheticPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(drawn, tmp_path)
    (tmp_path / "m.csv").write_text("1,0\n")
    assert run_register(tmp_path, tmp_path / "out", str(tmp_path / "m.csv")) == 1
    assert capsys.readouterr().err.startswith(f"error: slide s1, file {tmp_path / 'm.csv'}: expected an affine matrix")


class Opened:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pair_registrar.pickle", "registrar.pkl", "renamed.csv", "renamed.h5"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Opened(tmp_path / "ran")))
    with pytest.raises(StatedError, match=name):
        read_transform(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def drawn() -> SyntheticPair:
    return synthetic_pair(31, degrees=15, deformation_um=0.01, side_um=1024)


def matrix_of(drawn: SyntheticPair) -> Any:
    base = drawn.truth(np.array([[0.0, 0], [1, 0], [0, 1]]))
    return np.array([[*(base[1] - base[0]), 0], [*(base[2] - base[0]), 0], [*base[0], 1]]).T


def test_a_map_that_does_not_lead_back_is_no_pass(drawn: SyntheticPair) -> None:
    pair = Pair.of(drawn.sparse, drawn.dense, drawn.mpp, None)
    right = Transform(matrix_of(drawn)[:2])
    high = pair.dense.extent_um[1]
    grid = DisplacementGrid.covering((0.0, 0.0), (float(high[0]), float(high[1])), 16.0)
    off = grid.with_values(np.full((len(grid.nodes_um()), 2), 2.0))
    assert assess(pair, right, SETTINGS).verdict == "pass"
    told = assess(pair, Transform(right.affine, None, off), SETTINGS)
    assert told.verdict == "warn"
    assert "misses by up to 2.8 um" in told.reasons[-1]


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        ("right", None),
        ("turned round", "seems to carry dense points to sparse points:"),
        ("in pixels", "seems to be in level-0 pixels"),
        ("elsewhere", None),
    ],
)
def test_a_mistaken_frame_is_found_and_named(drawn: SyntheticPair, tmp_path: Path, reading: str, told: str) -> None:
    write_files(drawn, tmp_path)
    right = matrix_of(drawn)
    to_um = [np.diag([mpp, mpp, 1.0]) for mpp in drawn.mpp]
    matrix = {
        "right": right,
        "turned round": np.linalg.inv(right),
        "in pixels": np.linalg.inv(to_um[1]) @ right @ to_um[0],
        "elsewhere": right + np.array([[0, 0, 300.0], [0, 0, 250.0], [0, 0, 0]]),
    }[reading]
    np.savetxt(tmp_path / "m.csv", matrix, delimiter=",")
    assert run_register(tmp_path, tmp_path / "out", str(tmp_path / "m.csv")) == 0
    report = json.loads((tmp_path / "out" / "qc.json").read_text())
    assert report["verdict"] == ("pass" if reading == "right" else "fail")
    assert report["round_trip_um"] < 0.01
    readings = [reason for reason in report["reasons"] if "seems to" in reason]
    assert len(readings) == (told is not None)
    if told is not None:
        assert told in readings[0]
    # The map itself is the user's: what fails is kept out of training, not repaired.
    given = Transform(matrix[:2])
    kept = read_transform(tmp_path / "out" / "transform.zarr")
    np.testing.assert_allclose(kept.to_dense(points()), given.to_dense(points()), atol=1e-9)
