"""The map between the frames: formula, inverse, files, and agreement with SimpleITK."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from pipeline.errors import StatedError
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.itk import read_itk, write_itk
from pipeline.registration.transform import Transform, write_transform
from pipeline.registration.transform_file import given_transform, read_transform

SIDE_UM = 1000.0


def wavy(degrees: float, mirrored: bool, amplitude_um: float, length_um: float) -> Transform:
    """A pose with a smooth wave on it, its inverse solved over the image of a square of 1 mm."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix = matrix @ np.diag([-1.0, 1.0])
    affine = np.column_stack([matrix, [300.0, -120.0]])
    grid = DisplacementGrid.covering((-64.0, -64.0), (SIDE_UM + 64, SIDE_UM + 64), 16.0)
    nodes = grid.nodes_um()
    wave = amplitude_um * np.sin(nodes[:, ::-1] * 2 * np.pi / length_um + [0.3, 1.1])
    forward = grid.with_values(wave)
    corners = Transform(affine, forward).to_dense(nodes)
    return Transform.with_inverse(affine, forward, np.stack([corners.min(0), corners.max(0)]))


def points(count: int = 500, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0, SIDE_UM, (count, 2))


def test_identity_moves_nothing() -> None:
    assert np.array_equal(Transform.identity().to_dense(points()), points())
    assert np.array_equal(Transform.identity().to_sparse(points()), points())


def test_forward_map_is_affine_part_plus_bilinear_displacement() -> None:
    transform = wavy(30, True, 12, 600)
    grid = transform.forward
    assert grid is not None
    index = ((points() - np.array(grid.origin_um)) / grid.spacing_um).T[::-1]
    shift = np.stack([map_coordinates(v.astype(np.float64), index, order=1, mode="nearest") for v in grid.values_um], 1)
    expected = points() @ transform.affine[:, :2].T + transform.affine[:, 2] + shift
    np.testing.assert_allclose(transform.to_dense(points()), expected, atol=1e-9)


def test_displacement_is_clamped_beyond_its_grid() -> None:
    grid = DisplacementGrid((0.0, 0.0), 10.0, np.arange(18, dtype=np.float32).reshape(2, 3, 3))
    np.testing.assert_allclose(
        grid.at(np.array([[-500.0, -500.0], [500.0, 500.0], [500.0, 0.0]])), [[0, 9], [8, 17], [2, 11]]
    )


@settings(max_examples=25, deadline=None)
@given(
    degrees=st.floats(-180, 180),
    mirrored=st.booleans(),
    amplitude_um=st.floats(0, 25),
    length_um=st.floats(500, 2000),
)
def test_there_and_back_is_where_it_began(
    degrees: float, mirrored: bool, amplitude_um: float, length_um: float
) -> None:
    transform = wavy(degrees, mirrored, amplitude_um, length_um)
    # Bilinear interpolation of the inverse on 16 um leaves amplitude * (2 pi 16 / length)^2 / 8 an axis.
    allowed = 0.01 + amplitude_um * (2 * np.pi * 16 / length_um) ** 2 / 2
    assert transform.round_trip_um(points(200)).max() < allowed


def test_determinant_tells_stretch_mirror_and_fold() -> None:
    assert Transform(np.array([[2.0, 0, 0], [0, 3.0, 0]])).jacobian_determinants() == pytest.approx(6)
    assert (wavy(20, True, 5, 800).jacobian_determinants() < 0).all()
    folding = wavy(0, False, 200, 500).jacobian_determinants()
    assert folding.min() < 0 < folding.max()


def test_zarr_keeps_the_map_exactly_and_says_its_direction(tmp_path: Path) -> None:
    transform = wavy(-70, False, 15, 700)
    write_transform(tmp_path / "transform.zarr", transform, {"stage": "test"})
    back = read_transform(tmp_path / "transform.zarr")
    assert np.array_equal(back.to_dense(points()), transform.to_dense(points()))
    assert np.array_equal(back.to_sparse(points()), transform.to_sparse(points()))
    attributes = json.loads((tmp_path / "transform.zarr" / "zarr.json").read_text())["attributes"]
    assert "sparse (H&E) points to dense points" in attributes["direction"]
    assert attributes["provenance"] == {"stage": "test"}


def test_zarr_of_an_affine_map_has_no_grid(tmp_path: Path) -> None:
    write_transform(tmp_path / "transform.zarr", Transform.identity(), {})
    assert read_transform(tmp_path / "transform.zarr").forward is None


@pytest.mark.parametrize("lost", ["forward", "inverse"])
def test_zarr_of_one_direction_is_refused(tmp_path: Path, lost: str) -> None:
    """Points would go there with the displacement and come back without it."""
    write_transform(tmp_path / "transform.zarr", replace(wavy(-70, False, 15, 700), **{lost: None}), {})
    with pytest.raises(StatedError, match=rf"transform\.zarr: .*no displacement/{lost}, so it leads one way only"):
        read_transform(tmp_path / "transform.zarr")


@pytest.mark.parametrize("mirrored", [False, True])
def test_simpleitk_reads_the_same_numbers(tmp_path: Path, mirrored: bool) -> None:
    transform = wavy(170, mirrored, 20, 800)
    write_itk(tmp_path / "transform.h5", transform)
    peer = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    theirs = np.array([peer.TransformPoint(point) for point in points().tolist()])
    np.testing.assert_allclose(transform.to_dense(points()), theirs, atol=1e-6)


def test_equal_maps_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_itk(tmp_path / name, wavy(12, False, 18, 900))
        time.sleep(1.1)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_simpleitk_resamples_dense_onto_sparse_with_the_file(tmp_path: Path) -> None:
    shift = Transform(np.array([[1.0, 0, 30.0], [0, 1, -20.0]]))
    write_itk(tmp_path / "t.h5", shift)
    dense = np.zeros((100, 100), np.float32)
    dense[40, 60] = 1
    image = sitk.GetImageFromArray(dense)
    image.SetSpacing((10.0, 10.0))
    laid = sitk.GetArrayFromImage(sitk.Resample(image, sitk.ReadTransform(str(tmp_path / "t.h5"))))
    assert np.argwhere(laid == 1).tolist() == [[42, 57]]


def test_own_itk_file_comes_back_as_the_same_map(tmp_path: Path) -> None:
    transform = wavy(12, False, 18, 900)
    write_itk(tmp_path / "t.h5", transform)
    back = read_transform(tmp_path / "t.h5")
    np.testing.assert_allclose(back.to_dense(points()), transform.to_dense(points()), atol=1e-4)
    assert back.round_trip_um(points()).max() < 0.1


def test_foreign_bspline_is_sampled_over_its_domain(tmp_path: Path) -> None:
    spline = sitk.BSplineTransform(2, 3)
    spline.SetTransformDomainPhysicalDimensions((1000.0, 1000.0))
    spline.SetTransformDomainMeshSize((4, 4))
    spline.SetParameters(np.random.default_rng(3).normal(0, 8, spline.GetNumberOfParameters()).tolist())
    sitk.WriteTransform(spline, str(tmp_path / "foreign.tfm"))
    inner = 50 + 0.9 * points()
    theirs = np.array([spline.TransformPoint(point) for point in inner.tolist()])
    np.testing.assert_allclose(read_itk(tmp_path / "foreign.tfm").to_dense(inner), theirs, atol=0.1)


def test_foreign_euler_transform_is_taken_exactly(tmp_path: Path) -> None:
    euler = sitk.Euler2DTransform((500.0, 400.0), 0.3, (12.0, -7.0))
    sitk.WriteTransform(euler, str(tmp_path / "rigid.tfm"))
    theirs = np.array([euler.TransformPoint(point) for point in points().tolist()])
    np.testing.assert_allclose(read_transform(tmp_path / "rigid.tfm").to_dense(points()), theirs, atol=1e-6)


MATRIX = [[0.9, 0.1, 40.0], [-0.1, 1.1, -3.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "\n".join(",".join(map(str, row)) for row in MATRIX)),
        ("m.csv", "\ufeff" + "\n".join(",".join(map(str, row)) for row in MATRIX)),
        ("m.txt", "# a remark\n" + "\n".join(" ".join(map(str, row)) for row in MATRIX)),
        ("m.json", json.dumps(MATRIX)),
        ("m.json", json.dumps({"matrix": MATRIX})),
    ],
)
def test_matrix_files_map_sparse_to_dense(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    np.testing.assert_allclose(read_transform(tmp_path / name).to_dense(np.array([[100.0, 200.0]])), [[150.0, 207.0]])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "1,0,0\n0,1\n"),
        ("m.csv", "1,0,0\n0,1,0\n0.1,0,1\n"),
        ("m.csv", "1,0,0\n2,0,0\n0,0,1\n"),
        ("m.csv", "1,0,nan\n0,1,0\n0,0,1\n"),
        ("m.csv", "a,b,c\n"),
        ("m.csv", '1,"02,8\n1,2,3\n'),
        ("m.json", "{}"),
        ("m.json", "not json"),
        ("m.h5", "no HDF5"),
        ("m.tfm", "no transform"),
    ],
)
def test_broken_transforms_are_stated_errors_that_name_the_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StatedError, match=name):
        read_transform(tmp_path / name)


def test_absent_and_foreign_folders_are_stated_errors(tmp_path: Path) -> None:
    with pytest.raises(StatedError, match="no such file"):
        read_transform(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(StatedError, match=r"empty\.zarr"):
        read_transform(tmp_path / "empty.zarr")


def test_words_of_the_sheet() -> None:
    assert given_transform("") is None
    found = given_transform("identity")
    assert found is not None
    assert np.array_equal(found.transform.affine, np.eye(2, 3))


@given(
    x=st.lists(st.floats(-200, 900), min_size=1, max_size=9),
    y=st.lists(st.floats(-200, 900), min_size=1, max_size=9),
)
def test_a_lattice_is_moved_as_its_points_are(x: list[float], y: list[float]) -> None:
    """Inside, at and beyond the nodes of a displacement without any smoothness."""
    values = np.random.default_rng(0).normal(0, 30, (2, 19, 13)).astype(np.float32)
    affine = np.array([[0.9, -0.3, 40.0], [0.25, 1.1, -7.0]])
    transform = Transform(affine, DisplacementGrid((-10.0, 25.0), 32.0, values))
    points = np.stack(np.meshgrid(x, y), axis=-1)
    found = transform.lattice_to_dense(np.array(x), np.array(y))
    assert found.shape == (2, len(y), len(x))
    np.testing.assert_allclose(found, transform.to_dense(points.reshape(-1, 2)).T.reshape(found.shape), atol=1e-6)
