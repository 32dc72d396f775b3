"""Names of markers across panels: what is one, what is not, and what a cohort's panel is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_training import TINY, write_cohort
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.marker_names import UNUSED, Aliases, check_overlap, panel_of, spelling
from pipeline.settings import PanelSettings, Settings, build
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import TrainingRows, read_training_rows

KNOWN = Aliases({}, known=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CD3e", "CD3E"),
        ("CD3ε", "cd3"),
        ("Pan-CK", "Pan Cytokeratin"),
        ("α-SMA", "aSMA"),
        ("DAPI", "Hoechst1"),
        ("DNA_1", "Hoechst 33342"),
        ("DAPI-02", "DNA2"),
        ("PD-L1", "CD274"),
        ("Ki-67", "KI67"),
    ],
)
def test_names_of_one_marker_are_one(one: str, other: str) -> None:
    assert KNOWN.key(one) == KNOWN.key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("CD3", "CD30"), ("DNA1", "DNA2"), ("DAPI1", "DAPI11"), ("PD-1", "PD-L1"), ("CD4", "CD45"), ("CD8a", "CD8b")],
)
def test_names_of_different_markers_stay_different(one: str, other: str) -> None:
    assert KNOWN.key(one) != KNOWN.key(other)


def test_without_known_aliases_the_spelling_alone_decides() -> None:
    plain = Aliases({}, known=False)
    assert plain.key("CD3e") == plain.key("cd-3E") != plain.key("CD3")
    assert plain.key("DAPI") != plain.key("Hoechst")


def test_own_aliases_go_before_known_ones_and_name_the_marker() -> None:
    own = Aliases({"T cells": ("CD3 clone A", "CD3e")}, known=True)
    assert own.key("CD3E") == own.key("cd3-clone-a") != own.key("CD3")
    panel = panel_of({"a": ["CD3e", "CD3"], "b": ["CD3 clone A"]}, own)
    assert panel.markers == ("T cells", "CD3")
    assert panel.indices == {"a": (0, 1), "b": (0,)}


@given(st.text(max_size=12))
def test_a_spelling_does_not_change_by_being_spelt_again(name: str) -> None:
    assert spelling(spelling(name)) == spelling(name)


def test_the_panel_is_the_union_in_order_of_appearance_and_says_what_each_slide_lacks() -> None:
    panel = panel_of({"a": ["DAPI", "CD3e"], "b": ["cd8", "Hoechst"], "c": ["CD3", "CD8a", "DNA1"]}, KNOWN)
    assert panel.markers == ("DAPI", "CD3e", "cd8")
    assert panel.indices == {"a": (0, 1), "b": (2, 0), "c": (1, 2, 0)}
    assert panel.absent() == {"CD3e": ("b",), "cd8": ("a",)}


def test_chosen_markers_come_in_their_order_and_others_are_unused() -> None:
    panel = panel_of({"a": ["DAPI", "CD3e"], "b": ["CD8", "Hoechst"]}, KNOWN, ["CD8A", "dna"])
    assert panel.markers == ("CD8", "DAPI")
    assert panel.indices == {"a": (1, UNUSED), "b": (0, 1)}
    with pytest.raises(StatedError, match=r"of DAPI, CD3e, CD8, found CD99 in no slide"):
        panel_of({"a": ["DAPI", "CD3e"], "b": ["CD8"]}, KNOWN, ["CD99", "CD8"])
    with pytest.raises(StatedError, match="one twice in CD3, CD3e"):
        panel_of({"a": ["DAPI", "CD3e"]}, KNOWN, ["CD3", "CD3e"])


def test_two_channels_of_a_slide_that_mean_the_same_are_refused() -> None:
    with pytest.raises(StatedError, match=r"slide a: expected channels that are different.*'DAPI' and 'DNA_1'"):
        panel_of({"a": ["DAPI", "CD3", "DNA_1"]}, KNOWN)


def test_slides_joined_through_a_third_may_share_nothing_and_groups_apart_are_refused() -> None:
    chain = {"a": ["CD3"], "b": ["CD8"], "c": ["CD8", "CD3"]}
    check_overlap(panel_of(chain, KNOWN), chain)
    apart = {"a": ["CD3", "CD4"], "b": ["CD4"], "c": ["CD8", "CD20"]}
    with pytest.raises(StatedError, match=r"slide c: expected a marker in common with slide a \(CD3, CD4\), found CD8"):
        check_overlap(panel_of(apart, KNOWN), apart)
    with pytest.raises(StatedError, match=r"slide b: expected at least one of the markers CD3, found CD4"):
        check_overlap(panel_of(apart, KNOWN, ["CD3"]), apart)


@pytest.mark.parametrize(
    "aliases", [{"CD3": ["x"], "CD4": ["X"]}, {"CD3": ["--"]}, {"CD3": ["CD4"], "cd-4": []}], ids=str
)
def test_aliases_that_contradict_each_other_are_refused(aliases: dict[str, list[str]]) -> None:
    with pytest.raises(StatedError, match="panel"):
        build(Settings, {"panel": {"aliases": aliases}}, source="config.yaml")


def _rows(folder: Path, markers: tuple[str, ...] = (), panel: PanelSettings | None = None) -> TrainingRows:
    return read_training_rows(
        folder / "patches.tsv",
        folder / "tile",
        branches=("sparse", "dense"),
        batch_size=8,
        markers=markers,
        panel=panel,
    )


def test_aliased_channels_are_read_into_one_and_absent_or_unchosen_ones_are_left_out(tmp_path: Path) -> None:
    write_cohort(tmp_path, panels=(("DAPI", "CD3"), ("CD8", "Hoechst1", "CD3e")))
    rows = _rows(tmp_path)
    assert rows.markers == ("DAPI", "CD3", "CD8")
    patches = TrainingPatches(rows, dense=True)
    second = rows.slides[1].store.read_dense([4])[0]
    pixels, present = patches.dense(np.array([24, 4]))
    np.testing.assert_array_equal(pixels[0], second[[1, 2, 0]])
    assert present.tolist() == [[True, True, True], [True, True, False]]
    chosen = TrainingPatches(_rows(tmp_path, ("CD8", "DNA")), dense=True, budget_bytes=0)
    pixels, present = chosen.dense(np.array([24, 4]))
    np.testing.assert_array_equal(pixels[0], second[[0, 1]])
    assert (pixels[1, 0] == 0).all()
    assert present.tolist() == [[True, True], [False, True]]


def test_panels_that_share_nothing_are_refused_before_training_and_an_alias_joins_them(tmp_path: Path) -> None:
    write_cohort(tmp_path, panels=(("DAPI", "CD3"), ("nuc",)))
    with pytest.raises(StatedError, match=r"slide s1: expected a marker in common with slide s0"):
        _rows(tmp_path)
    assert _rows(tmp_path, panel=PanelSettings(aliases={"DAPI": ("nuc",)})).markers == ("DAPI", "CD3")


def test_the_encoder_tells_its_panel_and_what_was_masked_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores, split = write_cohort(tmp_path, panels=(("DAPI", "CD3"), ("CD8", "nuc")))
    words = ["train", "--run", "tiny", "--stores", str(stores), "--split", str(split)]
    words += ["--out-encoder", str(tmp_path / "e"), "--out-metrics", str(tmp_path / "m")]
    words += ["--out-curve", str(tmp_path / "c"), "--settings", json.dumps({**TINY, "epochs": 1})]
    assert main(words) == 1
    assert "slide s1: expected a marker in common" in capsys.readouterr().err
    assert main([*words, "--panel", '{"aliases": {"DNA": ["DAPI", "nuc"]}}']) == 0
    own = json.loads((tmp_path / "e" / "config.json").read_text())["more_from_less"]
    assert [item["marker"] for item in own["markers"]] == ["DNA", "CD3", "CD8"]
    assert own["markers_absent"] == {"CD3": ["s1"], "CD8": ["s0"]}
    assert own["provenance"]["settings"]["panel"]["aliases"] == {"DNA": ["DAPI", "nuc"]}
    assert (
        "| dense side | fluorescence: DNA, CD3 (masked in s1), CD8 (masked in s0) |"
        in (tmp_path / "e" / "card.md").read_text()
    )
