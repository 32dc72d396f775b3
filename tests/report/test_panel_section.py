"""The page shows what the stage panel wrote: what is named first, every measure, and why a slide was not checked."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from drawn_panel import check_of, marker
from drawn_results import COHORT, draw_sheet, draw_stores

from pipeline.cli import main
from pipeline.report.panel_tables import panel_tables
from pipeline.report.reading import read_results


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three slides: one with nothing wrong, one with a dead channel, one that was not checked."""
    folder = tmp_path / "results"
    draw_stores(folder)
    draw_sheet(folder / "slides.tsv", COHORT)
    good = check_of(marker("DAPI"), marker("CD45"))
    dead = check_of(marker("DAPI"), marker("CD<45>", dead=True))
    other = replace(check_of(), kind="mask", note="not checked: the dense side is mask")
    (folder / "panel").mkdir()
    for slide, check in (("a1", good), ("b1", dead), ("c1", other)):
        (folder / "panel" / f"{slide}.json").write_text(json.dumps(asdict(replace(check, slide=slide))))
    return folder


def test_slides_with_a_named_channel_stand_first_and_every_channel_is_listed(results: Path) -> None:
    tables = panel_tables(read_results(results, results / "slides.tsv", "none"))
    assert [table.slide for table in tables] == ["b1", "a1", "c1"]
    assert tables[0].named == [("CD<45>", "dead: noise")]
    assert [row.marker for row in tables[1].rows] == ["DAPI", "CD45"]
    assert tables[1].rows[0].high == "3000"
    assert tables[2].note == "not checked: the dense side is mask"


def test_the_page_has_the_section_and_escapes_names(results: Path) -> None:
    out = results / "report/index.html"
    words = ["report", "--results", str(results), "--sheet", str(results / "slides.tsv"), "--embedding", "none"]
    assert main([*words, "--out", str(out)]) == 0
    page = out.read_text()
    assert '<h2 id="panel-title">Panel</h2>' in page
    assert "CD&lt;45&gt;</strong> is dead: noise" in page
    assert "<strong>c1</strong>: not checked: the dense side is mask." in page
    assert "Autofluorescence was subtracted" not in page
    assert '"panel/b1.json"' in page.replace("&#34;", '"')


def test_without_checks_the_page_has_no_such_section(results: Path) -> None:
    for path in (results / "panel").iterdir():
        path.unlink()
    assert panel_tables(read_results(results, results / "slides.tsv", "none")) == []
