"""The tool warp-points, from the command line to the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cli import main
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform, write_transform


@pytest.fixture
def transform(tmp_path: Path) -> Path:
    grid = DisplacementGrid.covering((0.0, 0.0), (500.0, 500.0), 16.0)
    forward = grid.with_values(5 * np.sin(grid.nodes_um() / 150))
    affine = np.array([[0.0, -1.0, 600.0], [1.0, 0.0, 10.0]])
    write_transform(
        tmp_path / "t.zarr", Transform.with_inverse(affine, forward, np.array([[0.0, 0.0], [700.0, 700.0]])), {}
    )
    return tmp_path / "t.zarr"


def test_points_go_there_and_come_back_with_their_other_columns(tmp_path: Path, transform: Path) -> None:
    table = pd.DataFrame({"cell": ["a", "b"], "x_um": [100.0, 250.5], "y_um": [40.0, 333.0]})
    table.to_csv(tmp_path / "in.csv", index=False)
    argv = ["warp-points", "--transform", str(transform)]
    assert main([*argv, "--points", str(tmp_path / "in.csv"), "--output", str(tmp_path / "there.csv")]) == 0
    there = pd.read_csv(tmp_path / "there.csv")
    expected = np.array([[600 - 40, 110], [600 - 333, 260.5]]) + 5 * np.sin(table[["x_um", "y_um"]].to_numpy() / 150)
    np.testing.assert_allclose(there[["x_um", "y_um"]], expected, atol=0.02)
    back = [*argv, "--points", str(tmp_path / "there.csv"), "--output", str(tmp_path / "back.csv"), "--inverse"]
    assert main(back) == 0
    result = pd.read_csv(tmp_path / "back.csv")
    assert result["cell"].tolist() == ["a", "b"]
    np.testing.assert_allclose(result[["x_um", "y_um"]], table[["x_um", "y_um"]], atol=0.02)


def test_other_columns_are_kept_to_the_letter(tmp_path: Path, transform: Path) -> None:
    (tmp_path / "in.csv").write_text("cell,x_um,y_um,p,note\n007,1,2,1e-9,NA\n010,3,4,0.10,\n")
    argv = ["warp-points", "--transform", str(transform), "--points", str(tmp_path / "in.csv")]
    assert main([*argv, "--output", str(tmp_path / "out.csv")]) == 0
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    kept = [line[:1] + line[3:] for line in lines]
    assert kept == [["cell", "p", "note"], ["007", "1e-9", "NA"], ["010", "0.10", ""]]


@pytest.mark.parametrize(
    "text", ["x,y\n1,2\n", "x_um,y_um\n1,\n", "x_um,y_um\n1,two\n", "x_um,y_um\n1,2,3\n1,2,3\n", ""]
)
def test_a_bad_table_is_one_line_that_names_the_file(
    tmp_path: Path, transform: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    argv = ["warp-points", "--transform", str(transform), "--points", str(tmp_path / "bad.csv")]
    assert main([*argv, "--output", str(tmp_path / "out.csv")]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "bad.csv" in told
    assert "x_um" in told
    assert not (tmp_path / "out.csv").exists()


def test_an_empty_table_gives_an_empty_table(tmp_path: Path, transform: Path) -> None:
    (tmp_path / "in.csv").write_text("x_um,y_um\n")
    argv = ["warp-points", "--transform", str(transform), "--points", str(tmp_path / "in.csv")]
    assert main([*argv, "--output", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == "x_um,y_um\n"
