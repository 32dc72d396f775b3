"""The multiplex in colour: which markers are drawn, in what colour, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_results import DrawnSlide, draw_sheet, draw_stores
from numpy.typing import NDArray

from pipeline.panel.panel_file import PanelCheck
from pipeline.report import composite as module
from pipeline.report.composite import MOST_MARKERS, Ink, chosen_inks, composite
from pipeline.report.reading import read_results
from pipeline.report.results import SlideResults
from pipeline.store.patch_store import PatchStore, PatchTable, StoreAttributes
from pipeline.store.writer import StoreWriter

SIDE, GRID = 16, 8
NAMES = ("CD3", "DAPI", "CD4", "CD20", "AF", "dead", "PanCK", "SMA", "CD68")


def drawn(path: Path, dense: NDArray[np.uint16], names: tuple[str, ...], nuclear: int | None = None) -> SlideResults:
    """A slide of GRID x GRID patches with these dense pixels (N, C, SIDE, SIDE); the last patch is no pair."""
    count = GRID**2
    y, x = np.divmod(np.arange(count), GRID)
    position = np.stack([x, y], axis=1).astype(np.int64) * SIDE
    writer = StoreWriter(path, patches=count, size_px=SIDE, dense_channels=len(names), dense_dtype="uint16")
    for first in range(0, count, writer.block_rows):
        rows = slice(first, min(first + writer.block_rows, count))
        writer.write(first, np.full((rows.stop - first, SIDE, SIDE, 3), 200, np.uint8), dense[rows])
    quality = np.ones(count, np.float32)
    quality[-1] = 0
    side_px = GRID * SIDE
    attributes = StoreAttributes(
        *("s", "p", SIDE, 1.0, 1.0, (side_px, side_px), SIDE, 4.0, names, nuclear, "pass", {"kept": count}, {}, {})
    )
    means = dense.mean(axis=(2, 3)).astype(np.float32)
    ones = np.ones(count, np.float32)
    overview = np.full((side_px // 4, side_px // 4, 3), 220, np.uint8)
    table = PatchTable(position, position * 1.0, ones, ones, quality, means)
    writer.finish(attributes, table, overview, np.ones(overview.shape[:2], np.bool_))
    return SlideResults(path.stem, "p", True, None, None, PatchStore.open(path), count, (0,))


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> SlideResults:
    """CD3 varies most and CD4 is it once more; nuclei vary least, autofluorescence much, and one channel is dead."""
    rng = np.random.default_rng(0)
    spread = {"CD3": 1.5, "CD20": 1.2, "PanCK": 1.0, "SMA": 0.8, "CD68": 0.6, "DAPI": 0.1, "AF": 2.0, "dead": 0.0}
    logs = {name: 5 + width * rng.normal(size=GRID**2).clip(-2, 2) for name, width in spread.items()}
    logs["CD4"] = logs["CD3"] + 0.05 * rng.normal(size=GRID**2)
    means = np.exp(np.stack([logs[name] for name in NAMES], axis=1))
    dense = np.broadcast_to(means[:, :, None, None], (*means.shape, SIDE, SIDE)).astype(np.uint16)
    return drawn(tmp_path_factory.mktemp("panel") / "s.zarr", dense, NAMES, nuclear=1)


def test_markers_are_taken_that_the_others_do_not_explain(panel: SlideResults) -> None:
    check = PanelCheck(1, "s", "fluorescence", autofluorescence="AF")
    inks = chosen_inks([replace(panel, panel=check)])
    assert [ink.marker for ink in inks] == ["DAPI", "CD3", "CD20", "PanCK", "SMA", "CD68"]
    assert len({ink.rgb for ink in inks}) == MOST_MARKERS
    assert "AF" in [ink.marker for ink in chosen_inks([panel])], "where nothing names it, it is a marker like others"


def test_colours_are_those_of_the_cohort_and_rare_markers_are_left_out(tmp_path: Path) -> None:
    draw_stores(tmp_path)
    results = read_results(tmp_path, draw_sheet(tmp_path / "slides.tsv"), "x")
    inks = chosen_inks(results.slides)
    assert {ink.marker for ink in inks} == {"DAPI", "CD45", "Pan-CK"}, "three of four slides have CD45"
    stores = {slide.slide: slide.store for slide in results.slides}
    for name, markers in (("a1", {"DAPI", "CD45", "Pan-CK"}), ("b2", {"DAPI", "Pan-CK"})):
        store = stores[name]
        assert store is not None
        found = composite(store, inks, (128, 128), 5)
        assert found is not None
        assert set(found.inks) == {ink for ink in inks if ink.marker in markers}
    without = stores["d1"]
    assert without is not None
    assert composite(without, inks, (128, 128), 5) is None, "H&E only"
    assert chosen_inks([slide for slide in results.slides if slide.slide == "d1"]) == ()


@pytest.mark.parametrize("kind", ["brightfield", "mask"])
def test_other_kinds_than_a_multiplex_are_not_drawn_in_colour(tmp_path: Path, kind: str) -> None:
    slide = DrawnSlide("a", "A", 0, ("hematoxylin", "DAB"), kind=kind)
    draw_stores(tmp_path, (slide,))
    results = read_results(tmp_path, draw_sheet(tmp_path / "slides.tsv", (slide,)), "x")
    assert chosen_inks(results.slides) == ()


def test_a_marker_has_its_colour_where_it_is_and_nothing_is_drawn_where_no_pair_is(tmp_path: Path) -> None:
    dense = np.full((GRID**2, 2, SIDE, SIDE), 100, np.uint16)
    dense[9, 0, 4:8, 8:12] = 60000  # patch in row 1, column 1
    dense[-1] = 60000
    slide = drawn(tmp_path / "s.zarr", dense, ("A", "B"))
    assert slide.store is not None
    inks = (Ink("A", (0, 255, 0)), Ink("B", (255, 0, 0)), Ink("absent", (0, 0, 255)))
    found = composite(slide.store, inks, (GRID * SIDE, GRID * SIDE), 1)
    assert found is not None
    assert (found.inks, found.whole) == (inks[:2], True)
    expected = np.zeros((GRID * SIDE, GRID * SIDE, 3), np.uint8)
    expected[SIDE + 4 : SIDE + 8, SIDE + 8 : SIDE + 12] = (0, 255, 0)
    np.testing.assert_array_equal(found.picture > 0, expected > 0)
    half = composite(slide.store, inks, (GRID * SIDE // 2, GRID * SIDE // 2), 1)
    assert half is not None
    np.testing.assert_array_equal(half.picture > 0, expected[::2, ::2] > 0)


def test_cohorts_with_too_many_pixels_are_drawn_a_colour_per_patch(
    panel: SlideResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = panel.store
    assert store is not None
    size, inks = (GRID * 4, GRID * 4), (Ink("CD3", (0, 255, 0)),)
    decoded = (GRID**2 - 1) * len(NAMES) * SIDE**2 * 2
    monkeypatch.setattr(module, "_MOST_BYTES", 3 * decoded)
    assert [composite(store, inks, size, slides).whole for slides in (3, 4)] == [True, False]  # type: ignore[union-attr]
    assert composite(store, inks, (GRID * 4 - 4, GRID * 4 - 4), 1).whole is False, "patches of 3.5 px"  # type: ignore[union-attr]
    monkeypatch.setattr(PatchStore, "read_dense", lambda *_: pytest.fail("pixels were read"))
    found = composite(store, inks, size, 4)
    assert found is not None
    blocks = found.picture.reshape(GRID, 4, GRID, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all(), "one colour per patch"
    green = blocks[:, 0, :, 0, 1].ravel().astype(float)
    means = store.table.marker_mean[:, 0]
    assert green[-1] == 0
    brightest = np.argsort(means[:-1])[-20:]
    assert (np.diff(green[brightest]) >= 0).all()
    assert green[brightest[-1]] == 255
