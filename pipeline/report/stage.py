"""Stage report: collect the views, render the template, write one self-contained file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import pipeline
from pipeline.prediction.colours import TABLE
from pipeline.progress import progress
from pipeline.provenance import file_digest, finished, record
from pipeline.report import evidence_views, pairs, views, words
from pipeline.report.composite import chosen_inks
from pipeline.report.dense_words import cohort_words
from pipeline.report.embedding_maps import Components, fit_components, slide_map
from pipeline.report.failures import failures
from pipeline.report.figure_numbers import Plot, scatter_plot
from pipeline.report.figures import COLOURS, Floats, line_swatch, scatter, shape_of, swatch
from pipeline.report.headline import HEADLINE_PROBE, SIZES_EXPLAINED, headline, runs_explained
from pipeline.report.label_curves import label_curves
from pipeline.report.marker_maps import left_out_markers, marker_switch, most_markers, slides_out_of_range
from pipeline.report.outcome_views import outcome_views
from pipeline.report.page import Legend, Page
from pipeline.report.panel_tables import panel_tables, subtracted_slides
from pipeline.report.patch_map import PatchMap, patch_map
from pipeline.report.pictures import longest_side_px
from pipeline.report.reading import read_results
from pipeline.report.results import Results
from pipeline.report.slide_views import SlideViews, slide_views
from pipeline.settings import ReportSettings

# The colour scale of predicted markers, lowest to highest.
_STOPS = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in TABLE[::15].tolist())
RAMP = f":root {{ --ramp: linear-gradient(to right, {_STOPS}); }}"


@dataclass(frozen=True)
class _EmbeddingViews:
    """The figures of the embedding; empty where there are no features."""

    scatter: Plot | None
    legend: Legend
    patch_map: PatchMap | None
    slide_scatter: Plot | None


def write_report(
    results: Path, sheet: Path, embedding: str, settings: ReportSettings, out: Path, logs: Path, threads: int = 2
) -> None:
    """Write the report of a cohort: one HTML file that needs nothing else.

    Args:
        results: the results folder; stages that left nothing there are left out of the page.
        sheet: the sheet of slides.
        embedding: name of the embedding to map, and of the run that the headline is about.
        settings: of the stage.
        out: the page.
        logs: the folder of the stages' logs, which tell why a slide failed.
        threads: that draw slides at once; the page does not depend on them.

    Raises:
        StatedError: if something that is there cannot be read.
    """
    shown = read_results(results, sheet, embedding)
    page = build_page(shown, results, embedding, settings, logs, threads)
    provenance = record(
        "report", settings, _sources(results, sheet, shown, embedding), ("jinja2", "matplotlib", "numpy")
    )
    with finished(out) as temporary:
        temporary.write_text(render(page, provenance), encoding="utf-8")


def build_page(
    results: Results, folder: Path, embedding: str, settings: ReportSettings, logs: Path, threads: int
) -> Page:
    """Return what the page shows of the results in a folder."""
    series = _series(results)
    side_px = longest_side_px(settings.picture_px, len(results.slides))
    tiled = [slide for slide in results.slides if slide.store]
    drop_reasons = views.drop_reasons_met(tiled)
    components = fit_components(results.features, settings.map_patches)
    embedded = _embedding_views(results, components)
    slides = _drawn(results, components, side_px, threads)
    # First those with what was measured beside them, which is what a reader looks for.
    shown = sorted((view.markers for view in slides if view.markers), key=lambda view: not view.measured)
    return Page(
        title=settings.title,
        note=settings.note,
        version=pipeline.__version__,
        embedding=embedding,
        baseline=results.baseline,
        dense=cohort_words(results),
        summary=words.summary(results),
        headline=headline(results, embedding),
        headline_figure=evidence_views.headline_figure(results, series, HEADLINE_PROBE),
        cohort=[views.cohort_row(slide, slide.patient in results.trained_patients) for slide in results.slides],
        failures=failures(results, folder, embedding, logs),
        sizes_explained=SIZES_EXPLAINED,
        folds_explained=words.folds_explained(results) if results.split else "",
        runs_explained=runs_explained(results),
        runs=_legend({row.run: series[row.run] for row in results.evidence}),
        panels=panel_tables(results),
        subtracted=subtracted_slides(results),
        evidence=evidence_views.evidence_parts(results, series),
        evidence_means=evidence_views.evidence_rows(
            [row for row in results.evidence if row.is_mean and row.spec.labels is None]
        ),
        evidence_rows=evidence_views.evidence_rows(evidence_views.listed_targets(results.evidence)),
        label_curves=label_curves(results, series),
        outcomes=outcome_views(results, series),
        outcome_baseline=results.outcome_baseline,
        outcome_runs=_legend({row.run: series[row.run] for row in results.outcomes}),
        evidence_missing=words.missing(results),
        retrieval=words.retrieval(results),
        pairs=pairs.by_urgency(view.pair for view in slides if view.pair),
        drop_reasons=drop_reasons,
        tiles=views.tiles_figure(tiled),
        tile_rows=[(slide.slide, [views.tile_counts(slide)[place][1] for place, _ in drop_reasons]) for slide in tiled],
        regions=[(view.slide, view.regions) for view in slides if view.regions],
        trained=[(run, line_swatch(series[run])) for run in sorted(results.curves, key=series.__getitem__)],
        curves=views.training_curves(results, series),
        scatter=embedded.scatter,
        scatter_legend=embedded.legend,
        patch_map=embedded.patch_map,
        slide_scatter=embedded.slide_scatter,
        maps=[view.embedding for view in slides if view.embedding],
        markers=shown,
        drawn_markers=marker_switch([view.maps for view in shown], _nuclear(results)),
        left_out=left_out_markers(results),
        out_of_range=slides_out_of_range(results),
        limits=words.limits(results, settings.note),
    )


def render(page: Page, provenance: dict[str, Any]) -> str:
    """Return the HTML of a page, its provenance in its head; every text in it is escaped."""
    folder = files("pipeline.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
    return template.render(
        page=page,
        provenance=json.dumps(provenance, sort_keys=True),
        style=Markup((folder / "style.css").read_text(encoding="utf-8") + RAMP),
        script=Markup((folder / "script.js").read_text(encoding="utf-8")),
    )


def _drawn(results: Results, components: Components | None, side_px: int, threads: int) -> list[SlideViews]:
    """Return the pictures of every slide, in sheet order."""
    most, inks = most_markers(len(results.slides)), chosen_inks(results.slides)
    # Decoding, scaling and encoding pictures leave Python to other threads meanwhile.
    with ThreadPoolExecutor(max(1, threads)) as pool:
        drawn = pool.map(lambda slide: slide_views(slide, results, components, side_px, most, inks), results.slides)
        return list(progress(drawn, label="slides", unit="slides", total=len(results.slides)))


def _embedding_views(results: Results, components: Components | None) -> _EmbeddingViews:
    if components is None:
        return _EmbeddingViews(None, [], None, None)
    drawn = {slide: points for slide, points in components.points.items() if len(points)}
    shares = [float(share) for share in components.explained]
    slides = [slide.slide for slide in results.slides if slide.slide in results.features]
    trained = {slide.slide for slide in results.slides if slide.patient in results.trained_patients}
    located = slide_map(results.vectors, slides) if results.vectors else None
    return _EmbeddingViews(
        scatter=scatter_plot(
            scatter(drawn, shares, name="Patches on the first two principal components", labelled=False),
            "embedding-patches",
            drawn,
        ),
        # Dots have no shapes: beyond the number of colours, slides could not be distinguished.
        legend=[
            (f"{slide}{' (its patient trained the encoder)' if slide in trained else ''}", swatch(index, 0))
            for index, slide in enumerate(drawn)
        ]
        if len(drawn) <= COLOURS
        else [],
        slide_scatter=_slide_scatter(*located) if located else None,
        patch_map=patch_map(results, components),
    )


def _slide_scatter(slides: list[str], points: Floats, explained: Floats) -> Plot:
    located = {name: point[None] for name, point in zip(slides, points, strict=True)}
    shares = [float(share) for share in explained]
    picture = scatter(located, shares, name="Slides on the first two principal components", labelled=True)
    return scatter_plot(picture, "embedding-slides", located)


def _nuclear(results: Results) -> frozenset[str]:
    """Return the names of the channels that show nuclei."""
    stores = [slide.store.attributes for slide in results.slides if slide.store]
    return frozenset(known.markers[known.nuclear_channel] for known in stores if known.nuclear_channel is not None)


def _series(results: Results) -> dict[str, int]:
    """Return a number per run, the same in every figure: in the order of evidence, of outcomes, then of trainings."""
    asked = [*(row.run for row in results.evidence), *(row.run for row in results.outcomes)]
    runs = dict.fromkeys([*asked, *results.curves])
    return {run: index for index, run in enumerate(runs)}


def _legend(series: dict[str, int]) -> Legend:
    """Run by colour and shape, in the order of their numbers."""
    return [(name, swatch(index, shape_of(index))) for name, index in sorted(series.items(), key=lambda item: item[1])]


def _sources(folder: Path, sheet: Path, results: Results, embedding: str) -> dict[str, str]:
    """Hash by name of the sheet and of what there is in the results folder.

    A store is hashed by its attributes, features by the table of slide vectors, which names each file's hash, and
    pictures by the qc.json or markers.json that they lie beside: neither pixels nor features are read through for it.
    """
    names = [f"inspect/{item.slide}.json" for item in results.slides]
    names += [f"panel/{item.slide}.json" for item in results.slides]
    names += [f"register/{item.slide}/qc.json" for item in results.slides]
    names += ["split/patches.tsv", "split/split.json", *(f"train/{run}/metrics.jsonl" for run in results.curves)]
    # An encoder's description says whether its run is a control, and so what the page calls it.
    names += [path.relative_to(folder).as_posix() for path in sorted(folder.glob("train/*/encoder/config.json"))]
    names += ["evaluate/summary.tsv", "evaluate/details.json", f"embed/{embedding}/slides.parquet"]
    names += ["outcomes/summary.tsv", "outcomes/details.json"]
    names += [f"predict/{embedding}/{item.slide}/markers.json" for item in results.slides]
    found = {"sheet": file_digest(sheet)}
    found |= {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
    stores = {f"tile/{item.slide}.zarr": item.store.path / "zarr.json" for item in results.slides if item.store}
    return found | {name: file_digest(path) for name, path in stores.items()}
