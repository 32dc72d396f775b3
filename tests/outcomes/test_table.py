from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy.random import default_rng

from benchmarks.drawn_patients import draw_patients, draw_run, write_run
from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.outcomes.table import read_outcomes
from pipeline.settings import OutcomesSettings

PATIENTS = ("A", "B", "C", "D", "E")
SETTINGS = OutcomesSettings(numbers=("age",), survival={"overall": ("months", "death")})
GOOD = (
    ("A", "x", "50", "3", "1"),
    ("B", "x", "60.5", "0", "0"),
    ("C", "y", "", "12", "1"),
    ("D", "y", "70", "", ""),
    ("E", "", "41", "5", "0"),
)


def table(folder: Path, rows: tuple[tuple[str, ...], ...], header: str = "patient,label,age,months,death") -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def changed(row: int, column: int, value: str) -> tuple[tuple[str, ...], ...]:
    cells = [list(one) for one in GOOD]
    cells[row][column] = value
    return tuple(tuple(one) for one in cells)


def test_empty_cells_are_not_known(tmp_path: Path) -> None:
    label, age, overall = read_outcomes(table(tmp_path, GOOD), SETTINGS, PATIENTS)
    assert dict(label.classes) == {"A": "x", "B": "x", "C": "y", "D": "y"}
    assert dict(age.numbers) == {"A": 50, "B": 60.5, "D": 70, "E": 41}
    assert dict(overall.numbers) == {"A": 3, "B": 0, "C": 12, "E": 5}
    assert dict(overall.events) == {"A": True, "B": False, "C": True, "E": False}


def test_a_patient_is_one_however_it_is_spelt(tmp_path: Path) -> None:
    path = table(tmp_path, changed(0, 0, "  A\u00a0"))
    assert read_outcomes(path, SETTINGS, PATIENTS)[0].classes["A"] == "x"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ((*GOOD, ("A", "y", "50", "3", "1")), "A in lines 2 and 7"),
        (changed(1, 0, "a"), "a in lines 2 and 3"),
        (changed(3, 1, "z"), "y of C"),
        (changed(4, 0, "F"), "F without one"),
        (GOOD[:4], "none of E"),
        (changed(0, 2, "NaN"), "NaN of A in line 2"),
        (changed(0, 1, "nan"), "nan of A in line 2"),
        (changed(0, 2, "old"), "old of A in line 2"),
        (changed(0, 4, "2"), "2 of A in line 2"),
        (changed(0, 3, "-1"), "-1 of A in line 2"),
        (changed(3, 3, "4"), "months of D alone"),
        (changed(0, 4, "0"), "found 1"),
        (tuple(row[:4] for row in GOOD), "found 4"),
    ],
)
def test_what_cannot_be_right_is_one_line(tmp_path: Path, rows: tuple[tuple[str, ...], ...], found: str) -> None:
    with pytest.raises(StatedError) as error:
        read_outcomes(table(tmp_path, rows), SETTINGS, PATIENTS)
    assert found in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_column_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    path = table(tmp_path, GOOD, header="patient,labels,age,months,death")
    with pytest.raises(StatedError, match="did you mean labels"):
        read_outcomes(path, SETTINGS, PATIENTS)


def test_the_command_refuses_before_it_reads_a_patch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = draw_patients(5, 1.0, default_rng(0))
    write_run(tmp_path / "embed/one", drawn, draw_run(drawn, 1.0, 10, 4, default_rng(0)))
    for features in (tmp_path / "embed/one").glob("*.h5"):
        features.unlink()
    path = table(tmp_path, GOOD)
    outs = [f"--out-{name}={tmp_path / name}" for name in ("summary", "details", "predictions")]
    words = ["outcomes", "--embeddings", str(tmp_path / "embed"), "--runs", "one", "--table", str(path), *outs]
    assert main([*words, "--settings", json.dumps({"classes": ["label"]})]) == 1
    assert "A, B, C, D, E without one" in capsys.readouterr().err
    assert not (tmp_path / "summary").exists()
