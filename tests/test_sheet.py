"""The sheet: what a row becomes, and that every fault is told at once."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from pipeline.errors import StatedError
from pipeline.sheet import SheetRow, read_sheet


def write(folder: Path, *lines: str) -> Path:
    path = folder / "slides.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_come_in_order_with_comments_and_empty_lines_skipped(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# a cohort",
        "slide\tpatient\tsparse\tdense\ttransform\tdense_mpp\tmarkers",
        "",
        "b\tp1\tb.svs\tb.ome.tif\tidentity\t0.65\tb.csv",
        "  # between",
        "a\tp 2\tdata/a slide.svs",
    )
    assert read_sheet(path) == (
        SheetRow("b", "p1", "b.svs", "b.ome.tif", "identity", None, 0.65, "b.csv"),
        SheetRow("a", "p 2", "data/a slide.svs"),
    )


def test_columns_may_come_in_any_order_and_with_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "slides.tsv"
    path.write_bytes("\ufeffsparse\tslide\tpatient\r\nx.svs\ts\tp\r\n".encode())
    assert read_sheet(path) == (SheetRow("s", "p", "x.svs"),)


def test_what_a_spreadsheet_adds_is_no_fault_unless_it_says_something(tmp_path: Path) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse\t\t", "s\tp \t x.svs\t\t", "\t\t\t\t")
    assert read_sheet(path) == (SheetRow("s", "p", "x.svs"),)
    path = write(tmp_path, "slide\tpatient\tsparse\t\t", "s\tp\tx.svs\t\tnote")
    with pytest.raises(StatedError, match="line 2: more cells than columns: 'note'"):
        read_sheet(path)


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# comment",
        "slide\tpatient\tsparse\tdense\ttransform\tsparse_mpp",
        "one\tp\tx.svs\t\t\t0.5",
        "one\tp\tx.svs\t\t\thalf",
        "ONE\t\t\t\tidentity\t-1",
        "a/b\tp\tx.svs\t\t\tnan",
        "two\tp\tx.svs\ty\t\t0.5\tmore",
    )
    with pytest.raises(StatedError) as error:
        read_sheet(path)
    text = str(error.value)
    assert str(path) in text
    for fault in (
        "line 4: slide 'one' repeats line 3",
        "line 4: sparse_mpp must be a positive number, not 'half'",
        "line 5: slide 'ONE' differs only by case from 'one' of line 3",
        "line 5: patient is empty",
        "line 5: sparse is empty",
        "line 5: transform is given without a dense slide",
        "line 5: sparse_mpp must be a positive number, not '-1'",
        "line 6: slide 'a/b' must be made of",
        "line 6: sparse_mpp must be a positive number, not 'nan'",
        "line 7: more cells than columns: 'more'",
    ):
        assert fault in text, fault
    assert "line 3:" not in text
    assert "\n" not in text


def test_a_patient_written_in_two_ways_is_told_for_a_split_would_part_one(tmp_path: Path) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", "a\tp1\ta.svs", "b\tp2\tb.svs", "c\tP1\tc.svs", "d\tp1\td.svs")
    with pytest.raises(StatedError) as error:
        read_sheet(path)
    assert "line 4: patient 'P1' differs only by case from 'p1' of line 2" in str(error.value)
    assert str(error.value).count("line") == 2


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["slide\tsparse", "a\tb"], "missing column patient"),
        (["slide,patient,sparse", "a,b,c"], "columns are separated by tabs"),
        (["slide\tpatient\tsparse\tdens", "a\tb\tc\td"], "unknown column 'dens'"),
        (["slide\tpatient\tsparse\tslide", "a\tb\tc\td"], "repeated column 'slide'"),
        (["# only a comment"], "no such line"),
        (["slide\tpatient\tsparse"], "at least one slide"),
    ],
)
def test_wrong_headers_are_told(tmp_path: Path, lines: list[str], told: str) -> None:
    with pytest.raises(StatedError, match=told):
        read_sheet(write(tmp_path, *lines))


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ("slide\tpatient\tsparse\tdens", "dense"),
        ("Slide\tpatient\tsparse", "slide"),
        ("slide\tpatient\tH&E", "sparse"),
        ("slide\tpatient\tsparse\tmIF", "dense"),
        ('slide\tpatient\t"sparse"', "sparse"),
        ("slide\tpatient\tsparse dense", "sparse and dense, with a tab between them"),
    ],
)
def test_an_unknown_column_is_told_with_the_one_that_is_meant(tmp_path: Path, header: str, meant: str) -> None:
    with pytest.raises(StatedError) as error:
        read_sheet(write(tmp_path, header, "a\tp\tx.svs\ty"))
    assert error.value.found.count("unknown column") == 1
    assert f"did you mean {meant}?" in error.value.found


@pytest.mark.parametrize("line", ["a1 anna x.tif y.tif", "a1,anna,x.tif,y.tif", "a1;anna;x.tif"])
def test_a_row_without_tabs_is_one_fault(tmp_path: Path, line: str) -> None:
    with pytest.raises(StatedError) as error:
        read_sheet(write(tmp_path, "slide\tpatient\tsparse\tdense", line))
    assert error.value.found.count("line 2") == 1
    assert "tabs" in error.value.found


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        ('"slides/a b.tif"', "write slides/a b.tif"),
        ("~/a.tif", f"write {Path.home()}/a.tif"),
        ("file:///data/a.tif", "write /data/a.tif"),
        ("C:\\data\\a.tif", "as on Windows"),
        ("\\\\server\\a.tif", "as on Windows"),
        ("slides\\a.tif", "as on Windows"),
    ],
)
def test_a_path_of_another_spelling_is_told_with_its_remedy(tmp_path: Path, cell: str, remedy: str) -> None:
    with pytest.raises(StatedError) as error:
        read_sheet(write(tmp_path, "slide\tpatient\tsparse", f"a\tp\t{cell}"))
    assert error.value.found.startswith(f"line 2: sparse {cell} ")
    assert remedy in error.value.found


def test_a_file_that_is_there_may_be_named_as_on_windows(tmp_path: Path) -> None:
    slide = tmp_path / "a\\b.tif"
    slide.touch()
    (row,) = read_sheet(write(tmp_path, "slide\tpatient\tsparse", f"a\tp\t{slide}"))
    assert row.sparse == str(slide)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("slide\tpatient".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04\x14\xff", "workbook"),
        ("slide\nM\u00fcller".encode("latin-1"), "line 2"),
    ],
)
def test_another_encoding_is_told_by_its_name_or_place(tmp_path: Path, content: bytes, remedy: str) -> None:
    path = tmp_path / "slides.tsv"
    path.write_bytes(content)
    with pytest.raises(StatedError) as error:
        read_sheet(path)
    assert remedy in error.value.found
    assert "UTF-8" in str(error.value)


def test_absent_or_binary_sheets_are_stated(tmp_path: Path) -> None:
    binary = tmp_path / "sheet.xlsx"
    binary.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    for path in (tmp_path / "none.tsv", binary):
        with pytest.raises(StatedError, match="readable sheet"):
            read_sheet(path)


def test_the_snakefile_can_import_it_without_heavy_packages() -> None:
    code = "import sys, pipeline.sheet; print({'numpy', 'torch', 'pandas', 'tifffile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "other",
    [
        unicodedata.normalize("NFD", "M\u00fcller 1"),
        *(
            f"M\u00fcller{space}1"
            for space in ("  ", "\u00a0", "\u2009", "\u202f", "\u3000", "\u2028", "\x85", "\u2800", " \u200b")
        ),
        "\ufeffM\u00fc\u00adller 1",
    ],
    ids=ascii,
)
def test_one_patient_has_one_spelling(tmp_path: Path, other: str) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", "a\tM\u00fcller 1\ta.svs", f"b\t{other}\tb.svs")
    assert [row.patient for row in read_sheet(path)] == ["M\u00fcller 1"] * 2


@pytest.mark.parametrize(
    "other",
    ["p\u20111", "p\u22121", "P-1", "p-\uff11", "p\u200d-1", "\u202ap-1\u202c", "p-1\u2069", "p-1\x00"],
    ids=ascii,
)
def test_patients_that_look_alike_are_refused(tmp_path: Path, other: str) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", "a\tp-1\ta.svs", f"b\t{other}\tb.svs")
    with pytest.raises(StatedError, match=r"line 3: patient .* differs only by"):
        read_sheet(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "01"), ("1", "001"), ("1", "1.0"), ("12", "12,00"), ("P1", "P01"), ("P1", "P-01"), ("P1", "P 1"),
        ("P_1", "P-1"), ("CRC.007.a", "crc-7-a"), ("P1", "\u04201"), ("P1", '"P1"'), ("P1", "'P1"), ("P1", "P1."),
    ],
    ids=ascii,
)  # fmt: skip
def test_patients_apart_by_zeros_and_separators_are_refused(tmp_path: Path, one: str, other: str) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", f"a\t{one}\ta.svs", f"b\t{other}\tb.svs")
    with pytest.raises(StatedError, match=r"line 3: patient .* differs only by"):
        read_sheet(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "10"), ("1", "100"), ("0", "1"), ("P1", "P11"), ("1-1", "11"), ("a-b", "ab"), ("P1a", "P1b"), ("1.5", "15")],
)
def test_patients_of_other_numbers_are_two(tmp_path: Path, one: str, other: str) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", f"a\t{one}\ta.svs", f"b\t{other}\tb.svs")
    assert [row.patient for row in read_sheet(path)] == [one, other]


def test_a_patient_of_white_space_only_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path, "slide\tpatient\tsparse", "a\t\u200b\u00a0\ta.svs")
    with pytest.raises(StatedError, match="patient is empty"):
        read_sheet(path)
