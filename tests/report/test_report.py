"""The report: one file, complete, escaped, usable; looked at by a parser and, where there is one, by a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pandas as pd
import pytest
from drawn_results import (
    COHORT,
    DrawnResults,
    DrawnSlide,
    draw_features,
    draw_registration,
    draw_sheet,
    draw_stores,
    draw_training,
    draw_vectors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.cli import main
from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import UNKNOWN, Interval
from pipeline.evaluation.evidence_row import COLUMNS, EvidenceRow
from pipeline.evaluation.probe_spec import ProbeSpec, marker_probe_spec
from pipeline.prediction.colours import TABLE
from pipeline.prediction.table import read_values
from pipeline.provenance import file_digest
from pipeline.registration.overlay_text import FIELD_KEY
from pipeline.report.embedding_maps import fit_components, patch_colours, slide_map
from pipeline.report.evidence_views import evidence_parts, evidence_rows, listed_targets
from pipeline.report.figure_numbers import map_numbers
from pipeline.report.figures import (
    COLOURS,
    MOST_LABELS,
    Estimate,
    ForestRow,
    forest,
    line_swatch,
    scatter,
    shape_of,
    swatch,
)
from pipeline.report.headline import SLIGHT, headline
from pipeline.report.label_curves import label_sentence, most_fewer
from pipeline.report.mosaic import sparse_picture
from pipeline.report.pairs import part_of, quantity
from pipeline.report.patch_map import GRIDS, most_central, representatives
from pipeline.report.pictures import longest_side_px, opened, photograph, reduced
from pipeline.report.probe_words import probe_group, probe_title
from pipeline.report.reading import read_results
from pipeline.report.results import FoldSummary, Results
from pipeline.report.svg import Axis, linear, tag, tick_label
from pipeline.report.words import limits, missing
from pipeline.store.patch_store import PatchStore

VOID = {"meta", "link", "img", "input", "br"}
FAILED = replace(COHORT[3], verdict="fail")
SLIDES = (*COHORT[:3], FAILED, COHORT[4])
# Of four pairs, of the embedding of five slides, of their tissue, their predicted markers and those measured on one of
# them, and the one to be enlarged.
PICTURES = 4 * 6 + 5 * 2 + 5 + 5 * (1 + 2) + (1 + 2) + 1
WARNING = "margin of the coarse search 0.01, needed 0.05"


class Document(HTMLParser):
    """A parser that refuses unbalanced tags and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def write(results: Path, sheet: Path, embedding: str = "distilled", threads: int = 2, **settings: object) -> Path:
    out = results / "report/index.html"
    arguments = ["--results", str(results), "--sheet", str(sheet), "--embedding", embedding, "--out", str(out)]
    arguments += ["--threads", str(threads)]
    assert main(["report", *arguments, "--settings", json.dumps(settings)]) == 0
    return out


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a whole cohort with one failed registration."""
    results = tmp_path_factory.mktemp("cohort") / "results"
    drawn = draw_stores(results, SLIDES)
    for index, (run, noise) in enumerate((("distilled", 1.0), ("sparse-only", 4.0), ("shuffled", 4.0))):
        draw_features(drawn, run, noise, slides=SLIDES, seed=index)
        draw_training(drawn, run)
    draw_vectors(drawn, "distilled", SLIDES)
    for slide in SLIDES[:4]:
        draw_registration(drawn, slide, (WARNING,) if slide.verdict == "fail" else ())
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only", "shuffled")]) == 0
    draw_predictions(drawn)
    return write(results, draw_sheet(results / "slides.tsv", SLIDES), note="The slides are synthetic.")


def draw_predictions(drawn: DrawnResults) -> None:
    """The predictions of all slides, by the probe of the distilled run; CD45 is not asked for."""
    results, words = drawn.results, drawn.arguments("distilled")
    probe = str(results / "evaluate/probes/distilled")
    assert main(["evaluate-probe", *words[: words.index("--runs")], "--run", "distilled", "--out", probe]) == 0
    for slide in SLIDES:
        words = ["--features", str(results / f"embed/distilled/{slide.slide}.h5"), "--probe", probe]
        words += ["--store", str(results / f"tile/{slide.slide}.zarr")]
        words += ["--out", str(results / f"predict/distilled/{slide.slide}")]
        assert main(["predict", *words, "--settings", '{"markers": ["DAPI", "Pan-CK"]}']) == 0


def test_numbers_of_maps_are_left_out_of_a_page_that_they_would_make_large() -> None:
    position_um, values = np.zeros((50, 2)), {"a": np.zeros(50), "b": np.zeros(50)}
    assert map_numbers("x", position_um, values, most_values=99) is None
    numbers = map_numbers("x", position_um, values, most_values=100)
    assert numbers is not None
    assert numbers.csv.count("%0A") == 1 + 50


@pytest.fixture(scope="module")
def document(written: Path) -> Document:
    return Document(written.read_text(encoding="utf-8"))


def test_the_page_asks_nothing_of_the_network(written: Path, document: Document) -> None:
    for _, attributes in document.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|https?:(?!//www\.w3\.org/)", text)
    policy = next(meta["content"] for meta in document.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_patches_dropped_for_ink_are_told_apart_from_those_on_glass(document: Document) -> None:
    assert "dropped: pen, 17 of " in document.words
    assert "dropped: too little tissue, 40 of " in document.words
    assert "dropped: fold" not in document.words, "a reason that no patch met"


def test_every_picture_has_a_description_and_decodes(document: Document) -> None:
    pictures = document.all("img")
    patches = [picture for picture in pictures if re.fullmatch(r"patch \d+ of slide \w+", picture["alt"])]
    assert 24 <= len(patches) <= 54
    assert len(pictures) == PICTURES + len(patches)
    for picture in pictures:
        assert picture["alt"].strip()
        kind, data = picture["src"].removeprefix("data:image/").split(";base64,")
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert image.format == kind.upper()
    assert all(figure["aria-label"] for figure in document.all("svg") if figure.get("role") == "img")


def test_controls_are_labelled_ids_are_unique_and_links_lead_somewhere(document: Document) -> None:
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = {label["for"] for label in document.all("label")}
    sliders = document.all("input")
    assert len(sliders) == 4 + 5 + 5
    selects = document.all("select")
    assert len(selects) == 1, "one switch for all slides"
    assert all(control["id"] in labels and control["aria-label"] for control in (*sliders, *selects))
    buttons = [button for button in document.all("button") if button.get("class") == "zoom"]
    assert all(button["aria-label"] and button["type"] == "button" for button in buttons)
    assert {link["href"].removeprefix("#") for link in document.all("a") if "download" not in link} <= set(ids)
    for attributes in (attributes for _, attributes in document.tags if "aria-labelledby" in attributes):
        assert attributes["aria-labelledby"] in ids


def saved(document: Document) -> dict[str, pd.DataFrame]:
    """The tables that the page's links save, by file name."""
    links = [link for link in document.all("a") if "download" in link]
    names = [link["download"] for link in links]
    assert len(names) == len(set(names))
    assert all(link["aria-label"].startswith("Save the numbers as CSV: ") for link in links)
    texts = [unquote(link["href"].removeprefix("data:text/csv;charset=utf-8,")) for link in links]
    return {name: pd.read_csv(StringIO(text)) for name, text in zip(names, texts, strict=True)}


def test_the_numbers_behind_every_drawn_figure_can_be_saved(written: Path, document: Document) -> None:
    tables = saved(document)
    figures = [item for item in document.all("svg") if item.get("role") == "img"]
    maps = {name: table for name, table in tables.items() if "-map-" in name}
    assert len(maps) == 5 + 5, "embedding and predicted markers of each slide"
    assert len(tables) - len(maps) == len(figures)
    summary = pd.read_csv(written.parents[1] / "evaluate/summary.tsv", sep="\t").set_index(["probe", "run", "target"])
    for probe in ("ridge", "knn"):
        for name, columns in (
            (f"{probe}-scores.csv", ["score", "low", "high"]),
            (f"{probe}-differences.csv", ["difference", "difference_low", "difference_high"]),
        ):
            table = tables[name]
            told = table[[table.columns[2], "low", "high"]].to_numpy()
            wanted = [summary.loc[(probe, row.run, row.predicted), columns] for row in table.itertuples()]
            np.testing.assert_allclose(told, np.array(wanted, dtype=float), atol=1e-4)
            assert len(table) == 4 * (3 if "scores" in name else 2), "mean and three markers of every run"
    np.testing.assert_allclose(
        tables["headline.csv"].iloc[:, 2:],
        tables["ridge-differences.csv"].query("predicted == 'mean'").iloc[:, 2:],
    )
    patches = tables["patches.csv"].set_index("slide")
    assert patches.loc["a1", "dropped: pen"] == 17
    assert list(patches.index) == [slide.slide for slide in SLIDES]
    loss = tables["training-loss.csv"].query("run == 'distilled'")
    np.testing.assert_allclose(loss["loss"], 9 / np.arange(1, 31), rtol=1e-5)
    assert list(loss["training step"]) == list(range(10, 301, 10))
    components = fit_components(
        {slide.slide: written.parents[1] / f"embed/distilled/{slide.slide}.h5" for slide in SLIDES}, patches=3000
    )
    assert components is not None
    table = tables["embedding-patches.csv"].query("slide == 'b1'")
    np.testing.assert_allclose(table.iloc[:, 1:], components.points["b1"], rtol=1e-5)
    assert len(tables["embedding-slides.csv"]) == 5
    store = PatchStore.open(written.parents[1] / "tile/b1.zarr")
    table = tables["embedding-map-b1.csv"]
    np.testing.assert_allclose(table[["x_um", "y_um"]], store.table.position_um, rtol=1e-5)
    values = read_values(written.parents[1] / "predict/distilled/b1/patches.parquet", ["DAPI"])
    np.testing.assert_allclose(tables["predicted-map-b1.csv"]["predicted DAPI"], values[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        table.loc[components.rows["b1"], ["component 1", "component 2"]], components.points["b1"], rtol=1e-3, atol=1e-3
    )


def test_a_long_cohort_has_a_box_to_look_for_slides(tmp_path: Path, document: Document) -> None:
    assert not [item for item in document.all("input") if item["type"] == "search"]
    slides = tuple(DrawnSlide(f"s{index}", "P", index, columns=2, rows=2) for index in range(13))
    draw_stores(tmp_path, slides)
    page = Document(write(tmp_path, draw_sheet(tmp_path / "slides.tsv", slides)).read_text())
    (search,) = [item for item in page.all("input") if item["type"] == "search"]
    assert search["id"] in {label["for"] for label in page.all("label")}
    assert "13 of 13" in page.words
    rows = [item["data-slide"] for item in page.all("tr") if "data-slide" in item]
    assert rows == 2 * [slide.slide for slide in slides], "the cohort and its patches"


def test_headings_go_down_one_level_at_a_time(document: Document) -> None:
    levels = [int(tag[1]) for tag, _ in document.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_headline_tells_the_gain_its_interval_and_the_controls(written: Path, document: Document) -> None:
    rows = (written.parents[1] / "evaluate/summary.tsv").read_text().splitlines()
    row = next(row.split("\t") for row in rows if row.startswith("distilled\tridge\tmean"))
    gain, low, high = (f"{float(row[index]):.3f}" for index in (7, 8, 9))
    assert "The multiplex stain helped (+0." in document.words
    assert "one patient, one seed, 16 blocks of tissue." in document.words
    assert "This rests on 1 held-out patient, 1 training of each run and 16 blocks of tissue (a block" in document.words
    assert "counts once, for neighbouring patches are alike). So little may not speak" in document.words
    assert f"a difference of +{gain} (95 % interval {low} to {high})" in document.words
    assert re.search(r"the control “shuffled” −?0\.\d+ \(95 % interval .+? to .+?\), no difference\.", document.words)


def test_the_failed_pair_stands_first_with_its_reason_and_the_command_that_retries_it(document: Document) -> None:
    classes = [article["class"] for article in document.all("article")]
    assert classes == ["slide fail", "slide pass", "slide pass", "slide pass"]
    assert WARNING in document.words
    assert "--forcerun register -- results/register/c1/qc.json" in document.words
    assert [button["aria-label"] for button in document.all("button") if button.get("class") == "copy"] == [
        "Copy the command"
    ]


def test_numbers_come_with_their_units(document: Document) -> None:
    assert "Median residual before registration 212 µm" in document.words
    assert "Median residual after registration 1.13 µm" in document.words
    assert "steps: initial: after: median 212 µm" in document.words
    assert "1.6 × 1.6" in document.words


def test_the_limits_say_what_was_held_out_and_that_the_slides_are_synthetic(document: Document) -> None:
    limits = document.words.split("Limits")[-1]
    assert "held out by patient" in limits
    assert "Held out: a1 (1 patient)" in limits
    assert "The slides are synthetic." in limits


def test_equal_results_give_equal_bytes(written: Path) -> None:
    first, results = written.read_bytes(), written.parents[1]
    for threads in (1, 3):
        again = write(results, results / "slides.tsv", threads=threads, note="The slides are synthetic.")
        assert again.read_bytes() == first


def test_predicted_markers_stand_with_their_scores_their_scale_and_what_was_left_out(
    written: Path, document: Document
) -> None:
    told = json.loads((written.parents[1] / "predict/distilled/a1/markers.json").read_text())
    section = document.words.split("Predicted markers")[-1]
    for item in told["markers"]:
        scored = f"r {item['score']:.2f} ({item['low']:.2f} to {item['high']:.2f})"
        ends = [f"{item[end]:.2f}".replace("-", "−") for end in ("scale_low", "scale_high")]
        assert section.count(f"{item['marker']} , held-out {scored} {ends[0]} {ends[1]} SD") == 5
        assert section.count(f"{ends[0]} {ends[1]} SD scored on patient A .".replace(" .", ".")) == 5
    assert section.count("of features that the probe was fitted on (patients B, C; 1% of held-out patches do)") == 5
    assert "Not drawn: CD45 (not among predict.markers)" in section
    assert section.count("The prediction was fitted on patches of this slide") == 3
    hidden = [picture for picture in document.all("img") if "data-marker" in picture and "hidden" in picture]
    assert len(hidden) == 5 + 1, "of two markers one is shown first, predicted and, where a slide is held out, measured"
    assert {picture["data-marker"] for picture in hidden} == {"DAPI"}, "nuclei are plain in H&E"


def test_on_held_out_pairs_what_was_measured_stands_beside_the_prediction(written: Path, document: Document) -> None:
    alts = [item["alt"] for item in document.all("img") if item["alt"].startswith("measured")]
    assert sorted(alts) == ["measured DAPI over slide a1", "measured Pan-CK over slide a1"]
    picture = next(item for item in document.all("img") if item["alt"] == "measured DAPI over slide a1")
    with Image.open(BytesIO(base64.b64decode(picture["src"].partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGBA")).reshape(256, 4)
    assert (pixels[:3, 3] == 0).all(), "what is no pair is not drawn"
    values = np.log1p(PatchStore.open(written.parents[1] / "tile/a1.zarr").table.marker_mean[3:, 0].astype(np.float64))
    low, high = np.percentile(values, (2, 98))
    share = np.clip((values - low) / (high - low), 0, 1)
    np.testing.assert_array_equal(pixels[3:, :3], TABLE[np.rint(share * 254).astype(int)])
    assert "Left predicted from H&E, right measured" in document.words


def test_a_predicted_marker_has_the_colour_of_its_value_at_the_place_of_its_patch(
    written: Path, document: Document
) -> None:
    folder = written.parents[1] / "predict/distilled/d1"
    marker = next(
        item for item in json.loads((folder / "markers.json").read_text())["markers"] if item["marker"] == "DAPI"
    )
    picture = next(item for item in document.all("img") if item["alt"] == "predicted DAPI over slide d1")
    with Image.open(BytesIO(base64.b64decode(picture["src"].partition(",")[2]))) as image:
        pixels = np.asarray(image.convert("RGBA")).reshape(256, 4)
    assert (pixels[:, 3] == 255).all()
    values = read_values(folder / "patches.parquet", ["DAPI"])[:, 0].astype(np.float64)
    share = np.clip((values - marker["scale_low"]) / (marker["scale_high"] - marker["scale_low"]), 0, 1)
    np.testing.assert_array_equal(pixels[:, :3], TABLE[np.rint(share * 254).astype(int)])


def test_where_no_marker_is_good_enough_the_page_says_which_and_why(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path, COHORT[:2])
    folder = tmp_path / "predict/distilled/a1"
    folder.mkdir(parents=True)
    told = {"markers": [], "left_out": {"CD3": "held-out r 0.10 is below 0.3"}, "fitted_on_this_slide": False}
    (folder / "markers.json").write_text(json.dumps(told))
    document = Document(write(drawn.results, draw_sheet(tmp_path / "slides.tsv", COHORT[:2])).read_text())
    assert "Not drawn: CD3 (held-out r 0.10 is below 0.3)." in document.words
    assert not [picture for picture in document.all("img") if picture["alt"].startswith("predicted")]


def test_the_share_of_a_slide_outside_the_range_of_the_encoder_stands_under_its_map(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path, COHORT[:2])
    folder = draw_features(drawn, "distilled", 1.0, slides=COHORT[:2])
    with h5py.File(folder / "a1.h5", "r+") as file:
        file["distance"] = np.repeat(np.array([0.5, 1.5], np.float32), [64, 192])
    document = Document(write(drawn.results, draw_sheet(tmp_path / "slides.tsv", COHORT[:2])).read_text())
    assert "a1 , patient A: 75% of its patches lie outside the range of the encoder's training" in document.words
    assert document.words.count("outside the range of the encoder") == 1, "nothing is known of the other slide"


def test_slides_unlike_those_that_the_probe_was_fitted_on_are_named_and_not_drawn(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path, COHORT[:3])
    told = {"markers": [], "left_out": {"CD3": "r 0.1"}, "fitted_on_this_slide": False}
    unlike = told | {"left_out": {"CD3": "r 0.1", "CD8": "80% are unlike", "CD20": "80% are unlike"}}
    unlike |= {"out_of_range": ["CD8", "CD20"], "range": {"words": "80% of 9 patches lie outside."}}
    for slide, said in (("a1", unlike), ("b1", told)):
        folder = tmp_path / "predict/distilled" / slide
        folder.mkdir(parents=True)
        (folder / "markers.json").write_text(json.dumps(said))
    document = Document(write(drawn.results, draw_sheet(tmp_path / "slides.tsv", COHORT[:3])).read_text())
    assert "a1 : no map of CD8, CD20. 80% are unlike." in document.words
    assert "Not drawn: CD3 (r 0.1)." in document.words, "what is said of all slides leaves out what is one slide's"


def test_predictions_of_other_patches_are_a_stated_error(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    shutil.copytree(written.parents[1], results)
    path = results / "predict/distilled/a1/patches.parquet"
    pd.read_parquet(path).iloc[:-1].to_parquet(path)
    words = ["--results", str(results), "--sheet", str(results / "slides.tsv"), "--embedding", "distilled"]
    assert main(["report", *words, "--out", str(tmp_path / "index.html")]) == 1
    assert "slide a1" in (error := capsys.readouterr().err)
    assert "expected predictions of the store's 256 patches, found 255" in error


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from(GRIDS))
def test_the_map_shows_the_most_central_patch_of_every_part_that_has_any(
    seed: int, count: int, grid: tuple[int, int]
) -> None:
    places = np.random.default_rng(seed).uniform(0, 1, (count, 2))
    chosen = most_central(places, *grid)
    cells = [tuple(cell) for cell in np.floor(places * grid).astype(int).tolist()]
    assert len({cells[index] for index in chosen}) == len(chosen) == len(set(cells))
    for index in chosen:
        middle = np.asarray(cells[index]) + 0.5
        rivals = [other for other in range(count) if cells[other] == cells[index]]
        distances = np.hypot(*(places[rivals] * grid - middle).T)
        assert rivals[int(np.argmin(distances))] == index


def test_a_patch_far_out_does_not_leave_the_map_almost_empty() -> None:
    places = np.random.default_rng(0).uniform(0, 0.5, (2000, 2))
    places[0] = 0.99
    assert len(most_central(places, *GRIDS[0])) == 16
    assert set(representatives(places)) == set(most_central(places, *GRIDS[1]))


def test_the_evidence_table_tells_the_spread_of_seeds() -> None:
    several = replace(evidence("distilled", 0.1, "helped"), seeds=3, seed_low=0.55, seed_high=0.64)
    single = evidence("sparse-only", float("nan"), "")
    assert [row.seeds for row in evidence_rows([several, single])] == ["3: 0.55 to 0.64", "1"]


@pytest.mark.parametrize(
    ("spec", "title", "group"),
    [
        (ProbeSpec("sparse", "markers", "ridge", "pearson_r"), "Linear prediction (ridge)", ""),
        (ProbeSpec("sparse", "markers", "knn", "pearson_r"), "Nearest neighbours", ""),
        (ProbeSpec("sparse", "class", "linear", "recall"), "Which class: linear prediction (logistic)", "Which class"),
        (
            ProbeSpec("sparse", "class", "mlp", "auc"),
            "Which class: small network (MLP), area under the ROC curve",
            "Which class",
        ),
        (ProbeSpec("sparse", "cell", "knn", "recall"), "Which cell: nearest neighbours", "Which cell"),
        # A column may be called as anything else is.
        (ProbeSpec("sparse", "knn", "linear", "recall"), "Which knn: linear prediction (logistic)", "Which knn"),
        (
            ProbeSpec("dense", "markers", "ridge", "pearson_r"),
            "The paired slide itself: linear prediction (ridge)",
            "The paired slide itself",
        ),
        (
            ProbeSpec("dense", "cell", "linear", "recall"),
            "The paired slide itself: which cell: linear prediction (logistic)",
            "The paired slide itself",
        ),
    ],
)
def test_every_probe_has_a_title_and_figures_that_ask_for_the_same_are_folded_together(
    spec: ProbeSpec, title: str, group: str
) -> None:
    assert (probe_title(spec), probe_group(spec)) == (title, group)


def test_the_dense_side_is_shown_as_a_reference_and_never_as_a_contender(tmp_path: Path) -> None:
    results = tmp_path / "results"
    drawn = draw_stores(results)
    for run, noise in (("distilled", 0.5), ("sparse-only", 1.0)):
        draw_features(drawn, run, noise)
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only"), "--settings", '{"bootstrap": 50}']) == 0
    sheet, summary = draw_sheet(tmp_path / "slides.tsv"), results / "evaluate/summary.tsv"
    without = Document(write(results, sheet).read_text())
    assert "upper reference" not in without.words
    lines = summary.read_text().splitlines()
    for line in list(lines):
        cells = line.split("\t")
        if cells[:2] == ["distilled", "ridge"]:
            side = COLUMNS.index("side")
            changed = [cells[0], "dense-ridge", *cells[2:4], "0.99", *cells[5:7], *[""] * 4, *cells[11:]]
            lines.append("\t".join([*changed[:side], "dense", *changed[side + 1 :]]))
    summary.write_text("\n".join(lines) + "\n")
    document = Document(write(results, sheet).read_text())
    assert "The paired slide itself: linear prediction (ridge)" in document.words
    # Of one probe there is nothing to fold.
    assert "The paired slide itself: 1 ways" not in document.words
    assert "They are an upper reference and no contender" in document.words
    for part in ("In comparison with the same baseline", "The multiplex stain helped"):
        assert (part in document.words) == (part in without.words)


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    draw_stores(tmp_path, COHORT[:2])
    document = Document(write(tmp_path, draw_sheet(tmp_path / "slides.tsv", COHORT[:2])).read_text())
    sections = {section["id"] for section in document.all("section")}
    assert sections == {"cohort", "tiles", "limits"}
    links = {link["href"] for link in document.all("a") if "download" not in link}
    assert links == {"#content", "#cohort", "#tiles", "#limits"}
    assert "results/register/a1/qc.json" in document.words


def test_a_cohort_without_any_result_still_has_a_page(tmp_path: Path) -> None:
    document = Document(write(tmp_path, draw_sheet(tmp_path / "slides.tsv")).read_text())
    assert "results/inspect/a1.json" in document.words
    assert {section["id"] for section in document.all("section")} == {"cohort", "limits"}


def test_a_slide_without_a_result_is_shown_with_the_reason_in_its_log_and_the_command(tmp_path: Path) -> None:
    results, slides = tmp_path / "results", COHORT[:3]
    drawn = draw_stores(results, slides)
    draw_features(drawn, "distilled", 1.0, slides=slides[:1])
    (results / "inspect/b1.json").unlink()
    for slide in slides:
        draw_registration(drawn, slide)
    logs = tmp_path / "logs"
    (logs / "inspect").mkdir(parents=True)
    (logs / "embed/distilled").mkdir(parents=True)
    (logs / "inspect/b1.log").write_text("inspect b1\nerror: slide b1, file x.svs: expected <a>, found an empty file\n")
    (logs / "embed/distilled/b2.log").write_text("Traceback (most recent call last):\n  File x\nMemoryError: 3 GB\n\n")
    document = Document(write(results, draw_sheet(tmp_path / "slides.tsv", slides)).read_text())
    assert "b1 : nothing from inspect. slide b1, file x.svs: expected <a>, found an empty file." in document.words
    assert "results/inspect/b1.json" in document.words
    assert "b2 : nothing from embed. MemoryError: 3 GB." in document.words
    assert "results/embed/distilled/b2.h5" in document.words
    assert "a1 : nothing" not in document.words


def test_every_stage_that_failed_is_named_with_the_reason_in_its_log_and_the_command(tmp_path: Path) -> None:
    results, logs, slides = tmp_path / "results", tmp_path / "logs", COHORT[:2]
    drawn = draw_stores(results, slides)
    draw_features(drawn, "distilled", 1.0, slides=slides)
    draw_training(drawn, "distilled")
    (results / "train/distilled/encoder").mkdir()
    for slide in slides:
        draw_registration(drawn, slide)
    failed = {
        "train/shuffled": "run shuffled : nothing from train",
        "train/distilled": "",
        "embed_slides/distilled": "the cohort : nothing from embed-slides",
        "evaluate": "the cohort : nothing from evaluate",
        "evaluate/probes/distilled": "run distilled : nothing from evaluate-probe",
        "predict/distilled/b1": "b1 : nothing from predict",
    }
    for name in failed:
        (logs / f"{name}.log").parent.mkdir(parents=True, exist_ok=True)
        (logs / f"{name}.log").write_text(f"error: of {name}\n")
    (logs / "train/running.log").write_text("train running: epoch 1\n")
    said = Document(write(results, draw_sheet(tmp_path / "slides.tsv", slides)).read_text()).words
    assert said.count(": nothing from") == 5
    for name, told in failed.items():
        assert not told or f"{told}. of {name}. To try again: snakemake --cores all results/" in said
    assert "results/predict/distilled/b1" in said
    assert "results/evaluate/probes/distilled" in said


def test_the_page_names_all_that_it_was_made_from(written: Path, tmp_path: Path) -> None:
    def named(page: Path) -> dict[str, str]:
        told = next(
            meta["content"] for meta in Document(page.read_text()).all("meta") if meta.get("name") == "provenance"
        )
        inputs: dict[str, str] = json.loads(told)["inputs"]
        return inputs

    results = Path(shutil.copytree(written.parents[1], tmp_path / "results"))
    config = results / "train/shuffled/encoder/config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"more_from_less": {"settings": {"pairing": "shuffled"}}}))
    before = named(write(results, results / "slides.tsv"))
    assert before["train/shuffled/encoder/config.json"] == file_digest(config)
    assert {"evaluate/summary.tsv", "evaluate/details.json", "split/split.json", "split/patches.tsv"} <= set(before)
    assert all(
        file_digest(results / name) == wanted for name, wanted in before.items() if "zarr" not in name and "/" in name
    )


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    slides = tuple(
        DrawnSlide(name, f"{name} {evil}", fold, (f"{evil}</svg>", "CD3"), verdict="fail")
        for name, fold in (("a", 0), ("b", 1), ("c", 2))
    )
    drawn = draw_stores(tmp_path, slides)
    for run in ("<i>run</i>", "sparse-only"):
        draw_features(drawn, run, 2.0, slides=slides)
        draw_training(drawn, run)
    draw_vectors(drawn, "<i>run</i>", slides)
    draw_registration(drawn, slides[0], (evil,))
    assert main(["evaluate", *drawn.arguments("<i>run</i>", "sparse-only")]) == 0
    sheet = draw_sheet(tmp_path / "slides.tsv", slides)
    document = Document(write(tmp_path, sheet, "<i>run</i>", title=evil, note=evil).read_text())
    assert len(document.all("script")) == 1
    assert document.all("b") == document.all("i") == []
    assert document.words.count(evil) > 5


@pytest.mark.parametrize(
    ("kind", "names", "told", "untold"),
    [
        (
            "fluorescence",
            ("DAPI", "CD3"),
            ("the mean intensity of each marker", "Mean over markers", "the multiplex’s nuclei are green"),
            ("classes", "stains)", "Which class", "Measure"),
        ),
        (
            "brightfield",
            ("hematoxylin", "DAB"),
            ("the mean optical density of each stain", "Mean over stains", "that of the second stain green"),
            ("marker", "intensity", "classes", "Which class"),
        ),
        (
            "mask",
            ("tumour", "stroma"),
            (
                "the share of each class",
                "Mean over classes",
                "the mask’s classes",
                "Which class: linear prediction (logistic). Further up is better",
            ),
            ("marker", "intensity", "nuclei must stay", "Residual.", "stains"),
        ),
    ],
)
def test_the_page_speaks_of_the_dense_side_as_what_it_is(
    tmp_path: Path, kind: str, names: tuple[str, ...], told: tuple[str, ...], untold: tuple[str, ...]
) -> None:
    slides = tuple(DrawnSlide(name, name.upper(), fold, names, kind=kind) for fold, name in enumerate("abcd"))
    drawn = draw_stores(tmp_path, slides)
    for seed, run in enumerate(("distilled", "sparse-only")):
        draw_features(drawn, run, 1.0 + 3 * seed, slides=slides, seed=seed)
    for slide in slides:
        draw_registration(drawn, slide)
    assert main(["evaluate", *drawn.arguments("distilled", "sparse-only")]) == 0
    sheet = draw_sheet(tmp_path / "slides.tsv", slides)
    document = Document(write(tmp_path, sheet).read_text(encoding="utf-8"))
    for words in told:
        assert words in document.words, words
    for words in untold:
        assert words not in document.words, words
    swatches = [item["style"] for item in document.all("span") if "style" in item]
    assert len(swatches) == (0 if kind == "brightfield" else 2 * len(slides)), "classes, or markers in colour"
    shown = [item["data-shows"] for item in document.all("button") if "data-shows" in item]
    assert shown == (["overlay", "multiplex"] * len(slides) if kind == "fluorescence" else [])


def test_neighbouring_sections_are_not_asked_to_share_nuclei(tmp_path: Path) -> None:
    slide = replace(COHORT[0], kind="brightfield", markers=("hematoxylin", "DAB"))
    drawn = draw_stores(tmp_path, (slide,))
    draw_registration(drawn, slide)
    path = tmp_path / "register/a1/qc.json"
    path.write_text(path.read_text().replace("same-section", "serial"))
    words = Document(write(tmp_path, draw_sheet(tmp_path / "slides.tsv", (slide,))).read_text()).words
    assert "Neighbouring sections share outlines" in words
    assert "nuclei must stay where they are" not in words


@pytest.mark.parametrize("whole", [0.0, 0.5])
def test_a_broken_picture_is_a_stated_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: float) -> None:
    drawn = draw_stores(tmp_path, COHORT[:2])
    draw_registration(drawn, COHORT[0])
    path = tmp_path / "register/a1/residual.png"
    path.write_bytes(path.read_bytes()[: round(whole * path.stat().st_size)])
    sheet, out = draw_sheet(tmp_path / "slides.tsv", COHORT[:2]), tmp_path / "index.html"
    arguments = ["--results", str(tmp_path), "--sheet", str(sheet), "--embedding", "x", "--out", str(out)]
    assert main(["report", *arguments]) == 1
    assert "residual.png: expected a picture" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("evaluate/summary.tsv", "\t253\t", "\tmany\t", "words and numbers as evaluate writes them, found invalid"),
        ("evaluate/summary.tsv", "\t0.", "\tx.", "words and numbers as evaluate writes them, found could not convert"),
        ("evaluate/summary.tsv", "\t253\t1\t", "\t253\nx\t", "words and numbers as evaluate writes them, found 1"),
        ("split/split.json", '"folds": {', '"folds": [], "rest": {', "folds as split writes them, found"),
    ],
)
def test_a_table_that_somebody_altered_is_a_stated_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, old: str, new: str, told: str
) -> None:
    drawn = draw_stores(tmp_path)
    draw_features(drawn, "distilled", 1.0)
    assert main(["evaluate", *drawn.arguments("distilled")]) == 0
    path = tmp_path / name
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    assert path.read_text() != text
    sheet, out = draw_sheet(tmp_path / "slides.tsv"), tmp_path / "index.html"
    arguments = ["--results", str(tmp_path), "--sheet", str(sheet), "--embedding", "x", "--out", str(out)]
    assert main(["report", *arguments]) == 1
    assert f"file {path}: expected {told}" in capsys.readouterr().err
    assert not out.exists()


def evidence(run: str, difference: float, verdict: str) -> EvidenceRow:
    ends = UNKNOWN if run == "sparse-only" else Interval(difference - 0.02, difference + 0.02)
    score, counts = 0.5 + difference, {"train_patches": 900, "test_patches": 300, "test_slides": 2}
    row = EvidenceRow(run, marker_probe_spec("ridge"), "mean", score, Interval(0.4, 0.6), difference, ends, verdict)
    return replace(row, **counts)


@pytest.mark.parametrize(
    ("distilled", "shuffled", "answer"),
    [
        (("helped", 0.04), ("no difference", 0.0), "The multiplex stain helped (+0.040)"),
        (("no difference", 0.01), ("no difference", 0.0), "No difference was found (+0.010)"),
        (("harmed", -0.04), ("no difference", 0.0), "The multiplex stain did harm (−0.040)"),
        (("helped", 0.1), ("helped", 0.1), "A gain (+0.100), but not from the pairing"),
    ],
)
def test_the_answer_follows_the_verdicts_of_run_and_control(
    distilled: tuple[str, float], shuffled: tuple[str, float], answer: str
) -> None:
    rows = (
        evidence("distilled", distilled[1], distilled[0]),
        evidence("sparse-only", float("nan"), ""),
        evidence("shuffled", shuffled[1], shuffled[0]),
    )
    found = headline(Results((), None, {}, rows, "sparse-only", {}, None, blocks=40, patients=3), "distilled")
    assert found is not None
    assert found.answer == f"{answer}, 3 patients, one seed"
    rows = tuple(replace(row, seeds=3, blocks=25) for row in rows)
    found = headline(Results((), None, {}, rows, "sparse-only", {}, None, blocks=40, patients=3), "distilled")
    assert found is not None
    assert found.answer == f"{answer}, 3 patients, 3 seeds"
    assert found.sentences[1].startswith(
        "This rests on 3 held-out patients, 3 trainings of each run and 25 blocks of tissue (a block is"
    )


@pytest.mark.parametrize(
    ("patients", "seeds", "blocks", "caveat"),
    [
        (3, 3, 25, ""),
        (1, 3, 25, "one patient, 3 seeds"),
        (3, 1, 25, "3 patients, one seed"),
        (3, 3, 19, "3 patients, 3 seeds, 19 blocks of tissue"),
        (0, 3, 0, ""),
    ],
)
def test_one_patient_one_training_or_few_blocks_make_the_headline_modest(
    patients: int, seeds: int, blocks: int, caveat: str
) -> None:
    rows = tuple(
        replace(evidence(run, difference, verdict), seeds=seeds, blocks=blocks)
        for run, difference, verdict in (
            ("distilled", 0.1, "helped"),
            ("sparse-only", float("nan"), ""),
            ("shuffled", 0.0, "no difference"),
        )
    )
    found = headline(Results((), None, {}, rows, "sparse-only", {}, None, patients=patients), "distilled")
    assert found is not None
    # A difference whose whole interval is beyond the threshold is clear only where it rests on enough.
    expected = (
        f"The multiplex stain helped (+0.100), {caveat}" if caveat else "The multiplex stain clearly helped (+0.100)"
    )
    assert found.answer.startswith(expected)
    assert ("So little may not speak for other patients" in found.sentences[1]) == bool(caveat)


@pytest.mark.parametrize(
    ("verdict", "difference", "half", "answer"),
    [
        ("helped", 0.01, 0.005, "The multiplex stain helped slightly (+0.010)"),
        ("helped", 0.029, 0.005, "The multiplex stain helped slightly (+0.029)"),
        ("helped", 0.04, 0.02, "The multiplex stain helped (+0.040)"),
        ("helped", 0.06, 0.02, "The multiplex stain clearly helped (+0.060)"),
        ("harmed", -0.01, 0.005, "The multiplex stain did slight harm (−0.010)"),
        ("harmed", -0.06, 0.02, "The multiplex stain did clear harm (−0.060)"),
        ("no difference", 0.06, 0.1, "No difference was found (+0.060)"),
    ],
)
def test_the_headline_carries_the_size_of_the_difference(
    verdict: str, difference: float, half: float, answer: str
) -> None:
    assert SLIGHT == 0.03
    row = replace(
        evidence("distilled", difference, verdict), difference_within=Interval(difference - half, difference + half)
    )
    rows = (row, evidence("sparse-only", float("nan"), ""), evidence("shuffled", 0.0, "no difference"))
    rows = tuple(replace(one, seeds=3, blocks=30) for one in rows)
    found = headline(Results((), None, {}, rows, "sparse-only", {}, None, patients=3), "distilled")
    assert found is not None
    assert found.answer == f"{answer}, 3 patients, 3 seeds"


def test_blocks_of_slides_that_trained_are_not_called_held_out_slides() -> None:
    rows = (
        evidence("distilled", 0.1, "helped"),
        evidence("sparse-only", float("nan"), ""),
        evidence("shuffled", 0.0, "no difference"),
    )
    split = FoldSummary("block", "", ("a1", "b1"), ("A", "B"))
    results = Results((), split, {}, rows, "sparse-only", {}, None, blocks=40, patients=2)
    found = headline(results, "distilled")
    assert found is not None
    assert found.answer.endswith("2 patients, one seed, on slides that also trained")
    assert "held-out patches of 2 slides, whose other tissue trained the encoders" in found.sentences[0]
    assert found.sentences[1].startswith("This rests on 2 patients, 1 training of each run")
    for told in (*found.sentences, *limits(results, "")):
        assert "held-out slide" not in told
        assert "held-out patient" not in told


@pytest.mark.parametrize(("verdict", "answer"), [("helped", "A gain (+0.100)"), ("harmed", "A loss (+0.100)")])
def test_without_a_control_the_headline_says_that_in_place_of_the_verdict(verdict: str, answer: str) -> None:
    rows = (evidence("distilled", 0.1, verdict), evidence("sparse-only", float("nan"), ""))
    rows = tuple(replace(row, seeds=2) for row in rows)
    found = headline(Results((), None, {}, rows, "sparse-only", {}, None, blocks=40, patients=3), "distilled")
    assert found is not None
    assert (found.answer, found.kind) == (f"{answer}, but no control was compared, 3 patients, 2 seeds", "doubt")


@pytest.mark.parametrize(
    ("runs", "baseline", "note", "answer", "told"),
    [
        (("distilled", "shuffled"), "", "", "No comparison was made", "No run was named to compare the others with"),
        (("sparse-only",), "sparse-only", "", "No comparison was made", "is the only run that was evaluated"),
        (
            ("distilled", "sparse-only"),
            "sparse-only",
            "no interval: shown on 2 blocks",
            "No verdict",
            "shown on 2 blocks",
        ),
    ],
)
def test_no_verdict_is_never_silent(runs: tuple[str, ...], baseline: str, note: str, answer: str, told: str) -> None:
    rows = tuple(replace(evidence(run, float("nan"), ""), score=0.5, note=note) for run in runs)
    found = headline(Results((), None, {}, rows, baseline, {}, None), runs[0])
    assert found is not None
    assert found.answer == answer
    assert told in found.sentences[0]
    assert "0.50" in found.sentences[1]


def test_slides_of_patients_that_trained_the_encoder_are_marked_wherever_they_are_shown(document: Document) -> None:
    assert document.words.count("patient B, whose tissue trained the encoder") == 2 * 2
    assert document.words.count("patient C, whose tissue trained the encoder") == 2
    assert "b1 (its patient trained the encoder)" in document.words
    for held_out in ("patient A, whose", "patient D, whose", "a1 (its patient"):
        assert held_out not in document.words
    assert document.words.count(", training patient") == 3, "rows of the cohort's table"


def test_what_has_no_score_or_interval_is_listed_with_the_reason() -> None:
    row = replace(evidence("distilled", 0.1, ""), target="CD3", note="no interval: shown on 2 blocks of tissue")
    results = Results((), None, {}, (row, replace(row, target="CD8")), "", {}, None)
    assert missing(results) == ["Linear prediction (ridge), CD3 and CD8: no interval: shown on 2 blocks of tissue."]


@pytest.mark.parametrize(
    ("blocks", "low", "told"),
    [
        (
            4,
            0.4,
            "slides: the 4 blocks of tissue are set against each other, half by half; a block is tissue",
        ),
        (4, 0.4, "neighbouring patches are alike. So few can show large"),
        (40, 0.4, "neighbouring patches are alike. They do not cover"),
        (2, float("nan"), "There are no intervals and no verdicts: what is held out has too few blocks"),
    ],
)
def test_the_limits_say_on_how_much_tissue_the_intervals_rest(blocks: int, low: float, told: str) -> None:
    rows = (replace(evidence("distilled", 0.1, "helped"), within=Interval(low, 0.6)),)
    sentences = limits(Results((), None, {}, rows, "", {}, None, blocks=blocks), "")
    assert told in sentences[0]
    assert sentences[0].endswith("each run was trained once.")


def test_a_control_is_known_by_its_pairing_whatever_its_name(tmp_path: Path) -> None:
    rows = (
        evidence("distilled", 0.1, "helped"),
        evidence("sparse-only", float("nan"), ""),
        evidence("chance", 0.1, "helped"),
    )
    draw_stores(tmp_path)
    for run, pairing in (("distilled", "true"), ("chance", "shuffled")):
        path = tmp_path / "train" / run / "encoder/config.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"more_from_less": {"settings": {"pairing": pairing}}}))
    results = read_results(tmp_path, draw_sheet(tmp_path / "slides.tsv"), "distilled")
    found = headline(replace(results, evidence=rows, baseline="sparse-only"), "distilled")
    assert found is not None
    assert found.answer.startswith("A gain (+0.100), but not from the pairing")
    assert found.kind == "doubt"
    assert found.sentences[-1].startswith("The control “chance”")


def test_components_are_those_of_the_sample_and_colours_lie_where_the_patches_are(written: Path) -> None:
    results = written.parents[1]
    path, store = results / "embed/distilled/a1.h5", PatchStore.open(results / "tile/a1.zarr")
    components = fit_components({"a1": path}, patches=10_000)
    assert components is not None
    with h5py.File(path) as file:
        features = np.asarray(file["features"], dtype=np.float64)
    centred = features - features.mean(axis=0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(components.axes), np.abs(axes[:3]), atol=1e-6)
    np.testing.assert_allclose(components.explained, spread[:3] ** 2 / (spread**2).sum(), atol=1e-9)
    colours = patch_colours("a1", path, store, components)
    assert colours is not None
    assert colours.rgba.shape == (16, 16, 4)
    assert (colours.places.left, colours.places.top) == (0, 0)
    assert (colours.places.width, colours.places.height) == pytest.approx((1, 1))
    brightest = int(np.argmax(centred @ components.axes[0]))
    assert colours.rgba[divmod(brightest, 16)][0] == colours.rgba[..., 0].max()


def test_slide_vectors_lie_on_their_first_two_components(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 12))
    names, path = ["a", "b", "c", "d"], tmp_path / "slides.parquet"
    pd.DataFrame({"slide": names, "mean": vectors.tolist()}).to_parquet(path)
    found = slide_map(path, names)
    assert found is not None
    assert found[0] == names
    left, spread, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found[1]), np.abs(left[:, :2] * spread[:2]))
    np.testing.assert_allclose(found[2], spread[:2] ** 2 / (spread**2).sum())
    assert slide_map(path, names[:2]) is None


@pytest.mark.parametrize("broken", ["cut", "no vectors", "vectors of two widths"])
def test_slide_vectors_that_cannot_be_read_are_a_stated_error(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "slides.parquet"
    vectors = {"no vectors": {}, "vectors of two widths": {"mean": [[1.0], [1.0, 2.0]]}}.get(
        broken, {"mean": [[1.0]] * 2}
    )
    pd.DataFrame({"slide": ["a", "b"], **vectors}).to_parquet(path)
    if broken == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StatedError, match=r"slides\.parquet: expected slide vectors as embed-slides writes them"):
        slide_map(path, ["a", "b"])


def test_pictures_shrink_with_the_cohort_and_are_never_enlarged(tmp_path: Path) -> None:
    assert [longest_side_px(900, slides) for slides in (1, 8, 32, 100_000)] == [900, 900, 450, 224]
    Image.new("RGB", (120, 60), (200, 30, 30)).save(tmp_path / "small.png")
    assert photograph(opened(tmp_path / "small.png"), 900).width == 120
    assert (
        photograph(opened(tmp_path / "small.png"), 60).width,
        photograph(opened(tmp_path / "small.png"), 60).height,
    ) == (60, 30)


def test_a_large_picture_is_reduced_to_no_less_than_twice_what_is_shown() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (760, 1000, 3), np.uint8)
    whole = Image.fromarray(noise)
    small = reduced(whole, 100)
    assert small.size == (200, 152)
    np.testing.assert_allclose(np.asarray(small, float), noise.reshape(152, 5, 200, 5, 3).mean(axis=(1, 3)), atol=0.53)
    assert reduced(whole, 600) is whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 44 400 300", (400, 300)),
        ("", None),  # a picture of an earlier version
        ("0 44 400 301", None),  # beyond the picture
        ("0 44 0 300", None),
        ("0 44 400", None),
        ("a b c d", None),
    ],
)
def test_the_slide_is_found_inside_the_overlay(tmp_path: Path, text: str, expected: tuple[int, int] | None) -> None:
    page = Image.new("RGB", (720, 344), "white")
    page.paste(Image.new("RGB", (400, 300), (200, 30, 30)), (0, 44))
    about = PngImagePlugin.PngInfo()
    about.add_text(FIELD_KEY, text)
    page.save(tmp_path / "overlay.png", pnginfo=about)
    field = part_of(tmp_path / "overlay.png", FIELD_KEY)
    assert (field.size if field else None) == expected
    if field:
        assert field.getcolors() == [(400 * 300, (200, 30, 30))]


def test_a_small_slide_is_shown_as_sharp_as_its_patches(written: Path) -> None:
    store = PatchStore.open(written.parents[1] / "tile/a1.zarr")
    overview = Image.fromarray(store.overview)
    coarse = np.asarray(sparse_picture(store, overview, (128, 128)))
    np.testing.assert_array_equal(coarse, store.overview)
    sharp = np.asarray(sparse_picture(store, overview, (256, 256)))
    patches = store.read_sparse(slice(0, len(store)))
    np.testing.assert_array_equal(sharp[16:32, 48:64], patches[16 + 3])


def test_no_two_of_many_runs_look_alike() -> None:
    marks = {str(swatch(series, shape_of(series))) for series in range(24)}
    lines = {str(line_swatch(series)) for series in range(2 * COLOURS)}
    assert (len(marks), len(lines)) == (24, 2 * COLOURS)
    estimates = [Estimate(series, f"run {series}", 0.5, 0.4, 0.6) for series in (0, COLOURS)]
    drawn = str(forest([ForestRow("CD3", estimates)], name="", axis_label="r", zero_line=True))
    assert drawn.count("<circle") == 1, "the same colour, and another shape"


@pytest.mark.parametrize("slides", [COLOURS, COLOURS + 1])
def test_colours_of_patches_are_explained_where_each_slide_has_its_own(tmp_path: Path, slides: int) -> None:
    drawn_slides = tuple(DrawnSlide(f"s{index}", "P", index, columns=2, rows=2) for index in range(slides))
    drawn = draw_stores(tmp_path, drawn_slides)
    draw_features(drawn, "distilled", 1.0, slides=drawn_slides)
    page = write(tmp_path, draw_sheet(tmp_path / "slides.tsv", drawn_slides)).read_text()
    section = page.partition('id="embeddings"')[2].partition("</section>")[0]
    assert ("each colour a slide" in section) == ('class="swatch"' in section) == (slides == COLOURS)


def test_slides_too_many_to_be_labelled_are_named_under_the_pointer() -> None:
    points = {f"s{index}": np.array([[float(index), 0.0]]) for index in range(MOST_LABELS + 1)}
    drawn = str(scatter(points, [0.5, 0.5], name="", labelled=True))
    assert drawn.count("<title>") == len(points)
    assert drawn.count('class="label"') == 0
    del points["s0"]
    assert str(scatter(points, [0.5, 0.5], name="", labelled=True)).count('class="label"') == MOST_LABELS


def test_axes_have_round_ticks_inside_their_ends() -> None:
    assert Axis(0.03, 0.97, 0, 1).ticks(5) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert Axis(12, 2400, 0, 1, logarithmic=True).ticks() == [20, 50, 100, 200, 500, 1000, 2000]
    axis = linear([3.0, 5.0], 100, 200)
    assert 100 < axis(3.0) < axis(5.0) < 200
    assert [tick_label(value) for value in (0.0, -0.5, 5e-4, 1e-5, 20000)] == ["0", "−0.5", "0.0005", "1e-5", "2e4"]


def test_svg_text_is_escaped() -> None:
    assert tag("text", "<a>&", x=1.25) == '<text x="1.2">&lt;a&gt;&amp;</text>'


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("held_out.median_um", ("held out: median", "µm")),
        ("seconds", ("seconds", "s")),
        ("steps.affine.blocks", ("steps: affine: blocks", "")),
        ("residual_um.affine.median", ("residual: affine: median", "µm")),
    ],
)
def test_units_are_read_from_the_names_of_the_numbers(path: str, shown: tuple[str, str]) -> None:
    assert quantity(path) == shown


# In a browser -------------------------------------------------------------------------------------------------------

PROBE = """<!doctype html><body style="margin:0"><iframe id="f" style="width:{width}px;height:1500px;border:0"></iframe>
<pre id="told"></pre><script>
const told = {{errors: []}}, frame = document.getElementById("f");
frame.onload = () => {{
  const inner = frame.contentDocument, view = frame.contentWindow;
  view.addEventListener("error", (event) => told.errors.push(String(event.message)));
  told.pictures = [...inner.images].filter((picture) => picture.complete && picture.naturalWidth > 0).length;
  told.overflow = inner.scrollingElement.scrollWidth - {width};
  told.cells = [];
  const rows = "#cohort tbody tr:first-child > *, #evidence h3 + .scroll tbody tr:first-child > *";
  for (const cell of inner.querySelectorAll(rows)) {{
    const box = cell.getBoundingClientRect();
    told.cells.push([cell.dataset.label ?? "", box.left, box.right]);
  }}
  told.folded = [...inner.querySelectorAll("details.fold")].map((part) => part.open);
  view.dispatchEvent(new view.Event("beforeprint"));
  told.printed = [...inner.querySelectorAll("details.fold")].map((part) => part.open);
  view.dispatchEvent(new view.Event("afterprint"));
  told.after = [...inner.querySelectorAll("details.fold")].map((part) => part.open);
  inner.querySelector("button.copy").click();
  told.selected = view.getSelection().toString();
  const slider = inner.querySelector(".viewer input"), over = inner.querySelector(".viewer .over");
  const shape = (value) => {{
    slider.value = value; slider.dispatchEvent(new view.Event("input"));
    const style = view.getComputedStyle(over);
    return [style.clipPath, style.opacity];
  }};
  told.swipe = [shape(10), shape(90)];
  const layers = () => [...inner.querySelector(".viewer").querySelectorAll("[data-layer]")]
    .filter((part) => view.getComputedStyle(part).display !== "none").map((part) => part.dataset.layer);
  told.layers = [layers()];
  inner.querySelector("button[data-shows=multiplex]").click();
  told.layers.push(layers());
  inner.querySelector("button[data-shows=overlay]").click();
  inner.querySelector(".viewer button.fade").click();
  told.fade = [shape(10), shape(90)];
  const markers = inner.querySelector("#markers"), choice = markers.querySelector("select");
  const shown = () => [...new Set([...markers.querySelectorAll("[data-marker]")]
    .filter((part) => view.getComputedStyle(part).display !== "none").map((part) => part.dataset.marker))];
  told.markers = [shown()];
  choice.value = "DAPI"; choice.dispatchEvent(new view.Event("change"));
  told.markers.push(shown());
  const patch = inner.querySelector(".patch-map button");
  patch.focus();
  told.focused = inner.activeElement === patch;
  inner.querySelector("button.zoom").click();
  told.enlarged = inner.querySelector("dialog[open] img").src === inner.querySelector("button.zoom img").src;
  told.background = view.getComputedStyle(inner.body).backgroundColor;
  const asked = view.performance.getEntriesByType("resource").map((entry) => entry.name);
  told.requests = asked.filter((name) => !name.startsWith("data:"));
  document.getElementById("told").textContent = JSON.stringify(told);
}};
frame.src = "{name}";
</script>"""


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium on the path: the page was not looked at in a browser")
    return found


def run_browser(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--allow-file-access-from-files", "--enable-logging=stderr"]
    command += ["--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "background"), [(1, "rgb(251, 250, 247)"), (0, "rgb(22, 21, 26)")])
def test_the_page_works_in_a_browser(written: Path, tmp_path: Path, scheme: int, background: str) -> None:
    shutil.copy(written, tmp_path / "index.html")
    (tmp_path / "probe.html").write_text(PROBE.format(width=360, name="index.html"))
    found = run_browser(
        tmp_path,
        f"--blink-settings=preferredColorScheme={scheme}",
        "--dump-dom",
        f"file://{tmp_path}/probe.html",
    )
    match = re.search(r'<pre id="told">(.+?)</pre>', found.stdout)
    assert match, found.stderr[-2000:]
    told = json.loads(match[1].replace("&lt;", "<").replace("&amp;", "&"))
    assert told["errors"] == []
    assert "CONSOLE" not in found.stderr
    patches = len(re.findall(r'alt="patch \d+ of slide', written.read_text(encoding="utf-8")))
    assert told["pictures"] == PICTURES + patches
    assert told["markers"] == [["Pan-CK"], ["DAPI"]], "pictures and captions of all slides change together"
    assert told["focused"]
    assert told["overflow"] <= 0, "the page scrolls sideways at 360 px"
    labels = [label for label, _, _ in told["cells"]]
    assert {"pairs", "registration", "difference", "verdict"} <= set(labels)
    assert all(0 <= left < right <= 360 for label, left, right in told["cells"] if right), "every cell is in sight"
    assert told["folded"] == told["after"] == [False] * 4, "pictures of the registration are folded at 360 px"
    assert told["printed"] == [True] * 4
    assert told["selected"].endswith("--forcerun register -- results/register/c1/qc.json")
    assert told["layers"] == [["overlay"] * 2, ["multiplex"] * 3], "picture and caption, and a legend of the markers"
    (narrow, _), (wide, _) = told["swipe"]
    assert narrow != wide
    (_, faint), (_, strong) = told["fade"]
    assert (float(faint), float(strong)) == (pytest.approx(0.1), pytest.approx(0.9))
    assert told["background"] == background
    assert told["enlarged"]
    assert told["requests"] == []


@pytest.mark.slow
def test_the_swipe_changes_the_picture(written: Path, tmp_path: Path) -> None:
    page = written.read_text(encoding="utf-8")
    shown = []
    for value in (5, 95):
        name = f"at{value}"
        script = f"<script>document.querySelectorAll('.viewer input').forEach((i) => {{ i.value = {value}; \
i.dispatchEvent(new Event('input')); }}); location.hash = 'registration';</script>"
        (tmp_path / f"{name}.html").write_text(page.replace("</body>", f"{script}</body>"), encoding="utf-8")
        picture = tmp_path / f"{name}.png"
        page_url = f"file://{tmp_path}/{name}.html"
        run_browser(
            tmp_path, "--virtual-time-budget=5000", f"--screenshot={picture}", "--window-size=1000,6000", page_url
        )
        shown.append(np.asarray(Image.open(picture).convert("RGB"), dtype=np.int16))
    changed = (np.abs(shown[0] - shown[1]).max(axis=-1) > 40).sum()
    assert changed > 5000


def _saves(ratio: float, low: float, high: float) -> tuple[EvidenceRow, ...]:
    saved = {"fewer_labels": ratio, "fewer_labels_within": Interval(low, high), "seeds": 3, "blocks": 30}
    return (
        replace(evidence("distilled", 0.1, "helped"), **saved),
        replace(evidence("sparse-only", float("nan"), ""), seeds=3),
        replace(evidence("shuffled", 0.0, "no difference"), seeds=3),
    )


@pytest.mark.parametrize(("low", "told"), [(4.0, True), (0.0, False)])
def test_the_headline_tells_how_many_labels_are_saved_where_some_surely_are(low: float, told: bool) -> None:
    results = Results((), None, {}, _saves(8.0, low, 20.0), "sparse-only", {}, None, patients=3)
    found = headline(results, "distilled")
    assert found is not None
    sentence = (
        "“distilled” reaches the full score of “sparse-only” with 8.0 times fewer labels (95 % interval 4.0 to 20). "
        "The full score takes 900 labelled patches."
    )
    assert (sentence in found.sentences) == told


@pytest.mark.parametrize(
    ("ratio", "told"),
    [(8.3, "with 8.3 times fewer labels (95 % interval"), (0.0, "does not reach"), (1.0, "with as many labels")],
)
def test_what_labels_a_run_saves_is_told_below_the_curve(ratio: float, told: str) -> None:
    assert told in label_sentence(_saves(ratio, 0.0, 20.0)[0], "sparse-only")


def test_the_largest_ratio_of_labels_that_can_be_found_is_told_as_that_or_more() -> None:
    row = replace(_saves(64.0, 12.0, 64.0)[0], train_patches=6400)
    fewest = replace(row, spec=row.spec.on(100), train_patches=100)
    rows = (row, replace(row, spec=row.spec.on(800), train_patches=800), fewest)
    other_run = replace(fewest, run="shuffled", train_patches=10)
    assert most_fewer(row, (*rows, other_run)) == 64
    assert label_sentence(row, "sparse-only", 64) == (
        "“distilled” reaches the full score of “sparse-only” with 64 or more times fewer labels "
        "(95 % interval 12 to 64 or more)."
    )
    assert "with 64 times fewer labels" in label_sentence(row, "sparse-only")
    capped = replace(row, fewer_labels_within=Interval(64.0, 64.0))
    assert label_sentence(capped, "sparse-only", 64).endswith("(95 % interval 64 or more).")
    results = Results((), None, {}, (*rows, *_saves(64.0, 12.0, 64.0)[1:]), "sparse-only", {}, None, patients=3)
    found = headline(results, "distilled")
    assert found is not None
    assert any("64 or more times fewer labels" in told for told in found.sentences)


def test_the_headline_tells_what_was_found_on_markers_that_training_left_out() -> None:
    rows = _saves(8.0, 4.0, 20.0)
    unseen = replace(rows[0], target="mean of unseen", seen="no")
    single = replace(rows[0], target="CD45", seen="no")
    for extra, told in (((unseen, single), True), ((replace(unseen, seen="yes"), single), False), ((), False)):
        results = Results((), None, {}, (*rows, *extra), "sparse-only", {}, None, patients=3)
        found = headline(results, "distilled")
        assert found is not None
        assert any("On markers that its training never saw (CD45)" in one for one in found.sentences) == told


def test_of_thousands_of_targets_the_best_are_drawn_and_listed() -> None:
    names = [f"gene{number}" for number in range(500)]
    single = evidence("distilled", 0.1, "helped")
    rows = tuple(replace(single, target=name, score=number / 500) for number, name in enumerate(names))
    listed = evidence_rows(listed_targets((*rows, single)))
    assert {row.target for row in listed} == set(names[-24:])
    (part,) = evidence_parts(Results((), None, {}, (*rows, single), "sparse-only", {}, None), {"distilled": 0})
    assert part.shown == "The 24 best of 500 by held-out score are drawn."
    assert "gains on 500 and loses on 0 of 500" in part.counted
    assert len(part.scores.picture) < 20_000
    assert part.scores.csv.count("%0A") == 1 + 24 + 1, "header, targets, mean"
