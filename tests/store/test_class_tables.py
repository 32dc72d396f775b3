"""Tables of classes: where a patch's centre lies, by rows, what is refused, and the class probes that follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_results import COHORT, SIDE_UM, DrawnResults, draw_features, draw_stores
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.evaluation.reading import read_cohort
from pipeline.store.class_tables import ClassifiedPatches, read_classes


def _pairs(centre_um: np.ndarray, rows: np.ndarray | None = None, count: int | None = None) -> ClassifiedPatches:
    count = len(centre_um) if count is None else count
    return ClassifiedPatches("s1", np.arange(len(centre_um)) if rows is None else rows, centre_um, count)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), sides=st.sampled_from([(10.0,), (10.0, 25.0)]))
def test_a_patch_has_the_class_of_the_square_that_its_centre_lies_in(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sides: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    # Squares side by side in bands of one size each; some are left out.
    lines = [
        (50 * band + column * side, 50 * band + row * side, side, f"c{rng.integers(4)}")
        for band, side in enumerate(sides)
        for column in range(round(50 / side))
        for row in range(round(50 / side))
        if rng.uniform() < 0.7
    ]
    path = tmp_path_factory.mktemp("squares") / "classes.csv"
    pd.DataFrame(lines, columns=["x_um", "y_um", "size_um", "class"]).sample(frac=1, random_state=seed).to_csv(path)
    centres = np.concatenate([rng.uniform(-10, 110, (60, 2)), rng.integers(0, 10, (20, 2)) * 10.0])  # corners too
    expected = [
        next((name for x0, y0, side, name in lines if x0 <= x < x0 + side and y0 <= y < y0 + side), "")
        for x, y in centres.tolist()
    ]
    assert read_classes(path, _pairs(centres)).tolist() == expected


def test_squares_that_miss_each_other_by_rounding_leave_no_gap_and_no_overlap(tmp_path: Path) -> None:
    edges = np.cumsum(np.full(50, 0.1))  # 0.1 + 0.1 + 0.1 is more than 0.3
    path = tmp_path / "classes.csv"
    names = [f"c{number}" for number in range(50)]
    pd.DataFrame({"x_um": edges, "y_um": 0.0, "size_um": 0.1, "class": names}).to_csv(path)
    centres = np.stack([np.arange(1, 51) / 10, np.full(50, 0.05)], axis=1)
    assert read_classes(path, _pairs(centres)).tolist() == names


def test_the_names_of_columns_may_be_those_of_the_he_and_a_byte_order_mark_may_stand_first(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("\ufeffhe_x_um,he_y_um,size_um,class,probability\n0,0,10,TUM,0.5\n10,0,10,,0.9\n")
    centres = np.array([[5.0, 5.0], [15.0, 5.0], [25.0, 5.0]])
    assert read_classes(path, _pairs(centres)).tolist() == ["TUM", "", ""]


def test_classes_by_row_are_those_of_the_store_and_not_of_the_pairs(tmp_path: Path) -> None:
    path = tmp_path / "s1.tsv"
    path.write_text("row\tfile\tx_px\ty_px\tlabel\n3\ta\t0\t0\tthree\n0\tb\t0\t0\tnull\n2\tc\t0\t0\ttwo\n")
    slide = _pairs(np.zeros((3, 2)), rows=np.array([0, 1, 3]), count=4)
    assert read_classes(path, slide).tolist() == ["null", "", "three"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "columns x_um, y_um, size_um and class"),
        ("", "columns x_um, y_um, size_um and class"),
        ("x_um,y_um,class\n1,2,A\n", "size_um not once"),
        ("x_um,he_x_um,y_um,size_um,class\n1,1,2,3,A\n", "x_um not once"),
        ("x_um,y_um,size_um,class\n", "at least one line"),
        ("x_um,y_um,size_um,class\n1,2,3,A\nnan,2,3,A\n", "'nan' in line 3"),
        ("x_um,y_um,size_um,class\n1,2,0,A\n", "size_um above 0"),
        ("x_um,y_um,size_um,class\n0,0,10,A\n4,4,10,B\n", "A and B at 5.0, 5.0 um"),
        ("x_um,y_um,size_um,class\n0,0,10,A\n4,4,12,B\n", "A and B at 5.0, 5.0 um"),
        ("x_um,y_um,size_um,class\n" + "".join(f"{i},0,1,c{i}\n" for i in range(1001)), "1001"),
        ("row,class\n1,A\n", "rows of the store, 0 to 0"),
        ("row,class\n0,A\n0,A\n", "or one twice"),
        ("row,class\n0.5,A\n", "rows of the store"),
        ("row,class\nx,A\n", "'x' in line 2"),
        ("\0\0,\n1", "columns x_um"),
    ],
)
def test_other_tables_are_refused_in_a_line(tmp_path: Path, text: str | None, told: str) -> None:
    path = tmp_path / "classes.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StatedError, match=r"slide s1, file .*expected .*found") as raised:
        read_classes(path, _pairs(np.array([[5.0, 5.0]])))
    assert told in str(raised.value)


def _tables(drawn: DrawnResults, folder: Path, *, held_out: bool = True) -> list[str]:
    """A table for two of the slides to fit on, one for the held-out one: two classes by the first hidden cause."""
    argv = []
    for slide in COHORT[:1] * held_out + COHORT[1:3]:
        cause = drawn.causes[slide.slide][:, 0]
        y, x = np.divmod(np.arange(len(cause)), slide.columns)
        names = np.where(cause > 0.5, "high", np.where(cause < -0.5, "low", ""))
        squares = pd.DataFrame({"x_um": x * SIDE_UM, "y_um": y * SIDE_UM, "size_um": SIDE_UM, "class": names})
        squares.to_csv(folder / f"{slide.slide}.csv", index=False)
        argv.append(f"{slide.slide}={folder / slide.slide}.csv")
    return argv


def test_tables_of_some_slides_make_class_probes_of_their_patches(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path / "results")
    draw_features(drawn, "distilled", 0.5)
    draw_features(drawn, "sparse-only", 8.0)
    arguments = [*drawn.arguments("distilled", "sparse-only"), "--classes", *_tables(drawn, tmp_path)]
    assert main(["evaluate", *arguments, "--settings", '{"bootstrap": 200, "labels": [15], "label_draws": 3}']) == 0
    folder = drawn.results / "evaluate"
    rows = pd.read_csv(folder / "summary.tsv", sep="\t").set_index(["run", "probe", "target"]).sort_index()
    assert set(rows.loc["distilled", "class-linear"].index) == {"high", "low", "mean"}
    assert rows.loc[("distilled", "class-linear", "mean"), "score"] > 0.95
    for probe in ("class-linear", "class-knn-auc", "class-linear-15-labels"):
        assert rows.loc[("distilled", probe, "mean"), "verdict"] == "helped"
    details = json.loads((folder / "details.json").read_text())
    assert "classes/a1" in details["provenance"]["inputs"]
    high = [(drawn.causes[name][3:, 0] > 0.5).sum() for name in ("a1", "b1", "b2")]  # the first three are not pairs
    assert details["classes"]["high"] == {"train_patches": sum(high[1:]), "test_patches": high[0]}


def test_tables_without_held_out_classes_ask_for_none_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw_stores(tmp_path / "results")
    draw_features(drawn, "distilled", 0.5)
    argv = [*drawn.arguments("distilled"), "--classes", *_tables(drawn, tmp_path, held_out=False)]
    assert main(["evaluate", *argv, "--settings", '{"bootstrap": 20}']) == 0
    assert "fewer than two classes of the tables" in capsys.readouterr().err
    assert json.loads((drawn.results / "evaluate/details.json").read_text())["classes"] is None
    for word, told in (("nobody=a.csv", "slides with pairs"), ("a1", "SLIDE=TABLE")):
        assert main(["evaluate", *drawn.arguments("distilled"), "--classes", word]) == 1
        assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_every_column_that_is_asked_for_is_a_task_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw_stores(tmp_path / "results")
    draw_features(drawn, "distilled", 0.5)
    tables = _tables(drawn, tmp_path)
    for word in tables:
        slide, _, path = word.partition("=")
        table = pd.read_csv(path, keep_default_na=False)
        table["cell"] = np.where(drawn.causes[slide][:, 1] > 0, "lymphocyte", "fibroblast")
        table["void"] = ""
        table.to_csv(path, index=False)
    argv = [*drawn.arguments("distilled"), "--classes", *tables, "--settings"]
    asked = {"bootstrap": 20, "labels": [10], "label_draws": 2, "classes": ["class", "cell", "void"]}
    assert main(["evaluate", *argv, json.dumps(asked)]) == 0
    assert "fewer than two classes of the tables, column void" in capsys.readouterr().err
    folder = drawn.results / "evaluate"
    rows = pd.read_csv(folder / "summary.tsv", sep="\t").set_index(["probe", "target"]).sort_index()
    assert set(rows.loc["class-linear"].index) == {"high", "low", "mean"}
    assert set(rows.loc["cell-linear"].index) == {"fibroblast", "lymphocyte", "mean"}
    assert {"cell-knn", "cell-knn-auc", "cell-linear-10-labels"} <= set(rows.index.get_level_values("probe"))
    assert rows.loc[("cell-linear", "mean"), "score"] > 0.9
    assert rows.loc[("cell-linear-10-labels", "mean"), "train_patches"] == 10
    details = json.loads((folder / "details.json").read_text())
    assert set(details["classes"]) == {"high", "low"}
    assert set(details["classes_of"]) == {"cell"}
    assert set(details["classes_of"]["cell"]) == {"fibroblast", "lymphocyte"}
    for classes, told in (["kind"], "size_um and kind, or row and kind, found kind not once"), (["dense"], "classes"):
        assert main(["evaluate", *argv, json.dumps({"classes": classes})]) == 1
        assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_centre_of_a_pair_is_that_of_its_square(tmp_path: Path) -> None:
    """A patch of 100 um from level-0 pixel (0, 0) of 0.5 um reaches from -0.25 to 99.75 um."""
    drawn = draw_stores(tmp_path)
    cohort = read_cohort(drawn.results / "split/patches.tsv", drawn.results / "tile")
    np.testing.assert_allclose(cohort.slides[0].centre_um - cohort.slides[0].position_um, 49.75)


@pytest.mark.realdata
def test_the_tissue_classes_of_a_real_slide_are_those_of_its_squares(real_data: Path) -> None:
    path = real_data / "orion_crc01" / "centre_tissue_class.csv"
    table = pd.read_csv(path)
    corners = table[["he_x_um", "he_y_um"]].to_numpy()
    assert read_classes(path, _pairs(corners + 56)).tolist() == table["class"].tolist()
