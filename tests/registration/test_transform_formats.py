"""Transforms as other tools write them give the same map; what a file cannot say is refused, odd points are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.given_table import MppPair
from pipeline.registration.transform_file import GivenTransform, read_given

Floats = NDArray[np.float64]
MPP = MppPair(1.3, 0.9)
EXTENT_UM = np.array([[0.0, 0.0], [4000.0, 3000.0]])
ANGLE = np.deg2rad(25)
MATRIX = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 120.0], [np.sin(ANGLE), np.cos(ANGLE), -45.0], [0, 0, 1]])
IN_PX = np.diag([1 / MPP.dense, 1 / MPP.dense, 1]) @ MATRIX @ np.diag([MPP.sparse, MPP.sparse, 1])
SWAP = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
M, T = MATRIX[:2, :2], MATRIX[:2, 2]


def _moved(points: Floats) -> Floats:
    return np.asarray(points @ M.T + T)


POINTS = np.random.default_rng(0).uniform((0, 0), EXTENT_UM[1], (12, 2))
DENSE = _moved(POINTS)
UM = "sparse_x_um,sparse_y_um,dense_x_um,dense_y_um"


def _table(columns: str, sparse: Floats, dense: Floats, separator: str = ",", decimal: str = ".") -> str:
    words = [[f"{value:.6f}".replace(".", decimal) for value in row] for row in np.hstack([sparse, dense])]
    lines = [separator.join(row) for row in words]
    return "\n".join([columns.replace(",", separator), *lines]) + "\n"


def _rows(matrix: Floats, separator: str = ",") -> str:
    return "\n".join(separator.join(f"{value:.9f}" for value in row) for row in matrix) + "\n"


def _bigwarp() -> str:
    rows = zip(POINTS.tolist(), DENSE.tolist(), strict=True)
    lines = [f'"Pt-{i}","true","{a}","{b}","{c}","{d}"' for i, ((a, b), (c, d)) in enumerate(rows)]
    return "\n".join([*lines, '"Pt-99","false","Infinity","0","1","2"']) + "\n"


def _quoted() -> str:
    rows = np.hstack([POINTS, DENSE]).tolist()
    return "\n".join([UM, *(",".join(f'"{value:.6f}"'.replace(".", ",") for value in row) for row in rows)]) + "\n"


def _elastix(kind: str, parameters: Any, centre: str = "0 0", initial: str = "NoInitialTransform") -> str:
    return (
        f'// written for a test\n(Transform "{kind}")\n(NumberOfParameters {len(parameters)})\n'
        f"(TransformParameters {' '.join(f'{value:.9f}' for value in parameters)})\n"
        f'(InitialTransformParameterFileName "{initial}")\n(HowToCombineTransforms "Compose")\n'
        f"(CenterOfRotationPoint {centre})\n"
    )


ABOUT = np.array([700.0, 300.0])
QUPATH = {f"m{row}{column}": IN_PX[row, column] for row in range(2) for column in range(3)}
SPATIALDATA = {"type": "affine", "affine": MATRIX.tolist(), "input": {"name": "xy"}, "output": {"name": "global"}}
YX = {"axes": [{"name": "y"}, {"name": "x"}]}
FILES = {
    "plain.csv": _rows(MATRIX),
    "semicolons.csv": _rows(MATRIX, ";"),
    "two_rows.txt": _rows(MATRIX[:2], "\t"),
    "header.csv": "a,b,c\n" + _rows(MATRIX),
    "transposed.csv": _rows(MATRIX.T),
    "declared.csv": "# level-0 pixels\n" + _rows(IN_PX),
    "x_imagealignment.csv": _rows(IN_PX),
    "rows.json": json.dumps(MATRIX.tolist()),
    "matrix.json": json.dumps({"matrix": MATRIX.tolist()}),
    "qupath.json": json.dumps({"transform": QUPATH}),
    "qupath_flat.json": json.dumps(QUPATH),
    "qupath.txt": ", ".join(f"{value:.9f}" for value in IN_PX[:2].ravel()),
    "spatialdata.json": json.dumps(SPATIALDATA),
    "spatialdata_yx.json": json.dumps(
        {"type": "affine", "affine": (SWAP @ MATRIX @ SWAP).tolist(), "input": YX, "output": YX}
    ),
    "elastix.txt": _elastix("AffineTransform", [*M.ravel(), *T]),
    "elastix_about.txt": _elastix("AffineTransform", [*M.ravel(), *(T + M @ ABOUT - ABOUT)], "700 300"),
    "elastix_euler.txt": _elastix("EulerTransform", [ANGLE, *T]),
    "elastix_similarity.txt": _elastix("SimilarityTransform", [1.0, ANGLE, *T]),
    "pairs.csv": _table(UM, POINTS, DENSE),
    "capitals.csv": _table("Sparse_X_UM,SPARSE_Y_um,Dense_X_um,Dense_y_um", POINTS, DENSE),
    "pairs_semicolon.csv": _table(UM, POINTS, DENSE, ";"),
    "decimal_comma.csv": _table(UM, POINTS, DENSE, ";", ","),
    "tabs.tsv": _table(UM, POINTS, DENSE, "\t"),
    "pairs_px.csv": _table(UM.replace("_um", "_px"), POINTS / MPP.sparse, DENSE / MPP.dense),
    "pairs_mixed.csv": _table("sparse_x_um,sparse_y_um,dense_x_px,dense_y_px", POINTS, DENSE / MPP.dense),
    "keypoints.csv": _table("fixedX,fixedY,alignmentX,alignmentY", DENSE / MPP.dense, POINTS / MPP.sparse),
    "bigwarp.csv": _bigwarp(),
    "decimal_comma_matrix.csv": _rows(MATRIX, ";").replace(".", ","),
    "decimal_comma_matrix.txt": _rows(MATRIX, "\t").replace(".", ","),
    "scientific.csv": "\n".join(",".join(f"{value:.12E}" for value in row) for row in MATRIX),
    "windows.csv": "\ufeff# a comment\r\n" + _rows(MATRIX).replace("\n", "\r\n"),
    "windows_pairs.csv": "\ufeff" + _table(UM, POINTS, DENSE).replace("\n", "\r\n"),
    "decimal_comma.tsv": _table(UM, POINTS, DENSE, "\t", ","),
    "quoted.csv": _quoted(),
    "words.csv": _table("Sparse X (µm),Sparse Y (µm),Dense X [microns],Dense Y [um]", POINTS, DENSE),
    "pairs_mm.csv": _table(UM.replace("_um", "_mm"), POINTS / 1e3, DENSE / 1e3),
    "pairs_nm.csv": _table("sparse_x_um,sparse_y_um,dense_x_nm,dense_y_nm", POINTS, DENSE * 1e3),
}


def _read(folder: Path, name: str, text: str, mpp: MppPair | None = MPP) -> GivenTransform:
    (folder / name).write_text(text, encoding="utf-8")
    return read_given(folder / name, mpp)


def _assert_right(given: GivenTransform) -> None:
    probes = np.random.default_rng(1).uniform((0, 0), EXTENT_UM[1], (50, 2))
    np.testing.assert_allclose(given.transform.to_dense(probes), _moved(probes), atol=1e-3)


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_map(name: str, tmp_path: Path) -> None:
    _assert_right(_read(tmp_path, name, FILES[name]))


@pytest.mark.parametrize("matrix", [MATRIX, MATRIX[:2]], ids=["3x3", "2x3"])
def test_a_numpy_array_is_a_matrix(matrix: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", matrix)
    _assert_right(read_given(tmp_path / "m.npy", MPP))


def test_elastix_transforms_are_composed_with_their_initial_ones(tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text(_elastix("EulerTransform", [ANGLE, 0, 0]), encoding="utf-8")
    # Written on another machine: the file lies beside it.
    _assert_right(_read(tmp_path, "second.txt", _elastix("TranslationTransform", T, "0 0", "/there/first.txt")))


@pytest.mark.parametrize(
    "name",
    ["qupath.txt", "keypoints.csv", "bigwarp.csv", "transposed.csv", "elastix.txt", "declared.csv", "pairs_px.csv"],
)
def test_what_was_assumed_about_a_file_is_said(name: str, tmp_path: Path) -> None:
    assert _read(tmp_path, name, FILES[name]).notes
    assert not _read(tmp_path, "plain.csv", FILES["plain.csv"]).notes


@pytest.mark.parametrize("name", ["pairs_px.csv", "keypoints.csv", "qupath.json", "declared.csv"])
def test_pixels_without_a_slide_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StatedError, match="where no slide tells the um per pixel"):
        _read(tmp_path, name, FILES[name], None)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("short.csv", _table(UM, POINTS[:5], DENSE[:5]), "found 5"),
        ("word.csv", FILES["pairs.csv"] + "1,2,3,here\n", "'here' in line 14"),
        ("infinite.csv", FILES["pairs.csv"] + "1,2,3,inf\n", "'inf' in line 14"),
        ("missing.csv", FILES["pairs.csv"].replace("dense_y_um", "dense_z_um"), "no dense_y_um"),
        ("projective.csv", _rows(MATRIX + np.array([[0, 0, 0], [0, 0, 0], [1e-4, 0, 0]])), "found "),
        ("unknown.json", '{"rotation": 3}', "rotation"),
        ("space.json", json.dumps({"type": "affine", "affine": np.eye(4).tolist()}), r"\(4, 4\)"),
        ("cyx.json", json.dumps(SPATIALDATA | {"input": {"axes": [{"name": "c"}, {"name": "y"}]}}), "axes c, y"),
        ("spline.txt", _elastix("BSplineTransform", [0.0] * 18), "BSplineTransform of 18"),
        ("alone.txt", _elastix("TranslationTransform", T, "0 0", "gone.txt"), "no such file"),
    ],
)
def test_what_is_no_map_of_the_plane_is_refused(name: str, text: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(StatedError, match=found):
        _read(tmp_path, name, text)


@pytest.mark.parametrize("clicked_um", [0.0, 8.0])
def test_a_pair_that_contradicts_the_others_is_named_by_its_line(clicked_um: float, tmp_path: Path) -> None:
    wrong = DENSE + np.random.default_rng(2).normal(0, clicked_um, DENSE.shape)
    wrong[5] += (420, -380)
    (doubt,) = _read(tmp_path, "pairs.csv", _table(UM, POINTS, wrong)).doubts(EXTENT_UM)
    assert "1 of the 12 pairs of points contradicts the others: line 7" in doubt


def test_swapped_pairs_are_both_named(tmp_path: Path) -> None:
    swapped = DENSE.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    (doubt,) = _read(tmp_path, "pairs.csv", _table(UM, POINTS, swapped)).doubts(EXTENT_UM)
    assert "2 of the 12 pairs of points contradict the others" in doubt
    assert "line 5 " in doubt
    assert "line 6 " in doubt


def test_a_smooth_deformation_contradicts_nothing(tmp_path: Path) -> None:
    y, x = np.mgrid[0:3000:9j, 0:4000:11j]
    nodes = np.column_stack([x.ravel(), y.ravel()])
    bent = _moved(nodes) + 60 * np.column_stack([np.sin(nodes[:, 1] / 900), np.cos(nodes[:, 0] / 1100)])
    assert _read(tmp_path, "pairs.csv", _table(UM, nodes, bent)).doubts(EXTENT_UM) == ()


def test_pairs_in_a_corner_say_how_little_they_span(tmp_path: Path) -> None:
    corner = np.array([[500, 500], [900, 500], [500, 900], [900, 900], [700, 600], [600, 800.0]])
    (doubt,) = _read(tmp_path, "pairs.csv", _table(UM, corner, _moved(corner))).doubts(EXTENT_UM)
    assert "6 pairs of points span 1% of the H&E" in doubt
