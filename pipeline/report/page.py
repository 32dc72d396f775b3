"""Hold what the page shows, as plain values for the template."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.aggregates import MEAN
from pipeline.report import evidence_views, pairs, probe_words, views
from pipeline.report.failures import Failure
from pipeline.report.figure_numbers import Plot
from pipeline.report.headline import Headline
from pipeline.report.label_curves import LabelCurve
from pipeline.report.outcome_views import OutcomeView
from pipeline.report.panel_tables import PanelTable
from pipeline.report.patch_map import PatchMap
from pipeline.report.pictures import Picture
from pipeline.report.slide_views import MapView, MarkersView
from pipeline.slides.kinds.base import DenseWords

# Longer cohorts have a box to look for slides.
_FEW_SLIDES = 12

Legend = list[tuple[str, Markup]]


@dataclass(frozen=True)
class Page:
    """Everything the template shows; empty parts are left out of the page."""

    title: str
    note: str
    version: str
    embedding: str
    baseline: str
    dense: DenseWords
    summary: str
    headline: Headline | None
    headline_figure: Plot | None
    cohort: list[views.CohortRow]
    failures: list[Failure]
    sizes_explained: str
    folds_explained: str
    runs: Legend
    runs_explained: list[tuple[str, str]]
    panels: list[PanelTable]
    subtracted: list[str]
    evidence: list[evidence_views.EvidencePart]
    evidence_means: list[evidence_views.ScoreView]
    evidence_rows: list[evidence_views.ScoreView]
    evidence_missing: list[str]
    label_curves: list[LabelCurve]
    outcomes: list[OutcomeView]
    outcome_baseline: str
    outcome_runs: Legend
    retrieval: str
    pairs: list[pairs.PairView]
    drop_reasons: list[tuple[int, str]]
    tiles: Plot | None
    tile_rows: list[tuple[str, list[int]]]
    regions: list[tuple[str, Picture]]
    trained: Legend
    curves: list[Plot]
    scatter: Plot | None
    scatter_legend: Legend
    patch_map: PatchMap | None
    slide_scatter: Plot | None
    maps: list[MapView]
    markers: list[MarkersView]
    drawn_markers: list[str]
    left_out: tuple[tuple[str, str], ...]
    out_of_range: tuple[tuple[str, str, str], ...]
    limits: list[str]

    @property
    def has_filter(self) -> bool:
        """Whether there are so many slides that one has to look for them."""
        return len(self.cohort) > _FEW_SLIDES

    @property
    def asks_classes(self) -> bool:
        """Whether there are probes that ask for the class of a patch."""
        return any(row.measure != probe_words.MEASURES["pearson_r"] for row in self.evidence_means)

    @property
    def evidence_groups(self) -> list[tuple[str, list[evidence_views.EvidencePart]]]:
        """The figures of the probes, by the title under which they are folded, in the order of the table."""
        groups: dict[str, list[evidence_views.EvidencePart]] = {}
        for part in self.evidence:
            groups.setdefault(part.group, []).append(part)
        return list(groups.items())

    @property
    def asks_dense_side(self) -> bool:
        """Whether there are probes of the dense side's own features."""
        return any(part.group == probe_words.DENSE_GROUP for part in self.evidence)

    @property
    def parts_means(self) -> bool:
        """Whether there are means over markers that some run left out."""
        return any(row.target != MEAN for row in self.evidence_means)

    @property
    def tells_seen(self) -> bool:
        """Whether anything tells which markers the trainings saw."""
        return any(row.seen != views.NOTHING for row in self.evidence_means)

    @property
    def averaged(self) -> str:
        """What the means of the evidence are taken over."""
        many = self.dense.many
        return f"{many} or classes" if self.asks_classes and many != "classes" else many

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Anchor and title of the sections that are there, in the page's order."""
        present = (
            ("cohort", "Cohort", True),
            ("evidence", "Evidence", self.evidence),
            ("outcomes", "Patients", self.outcomes),
            ("panel", "Panel", self.panels),
            ("registration", "Registration", self.pairs),
            ("tiles", "Patches", self.tiles),
            ("training", "Training", self.curves),
            ("embeddings", "Embeddings", self.scatter),
            ("markers", f"Predicted {self.dense.many}", self.markers or self.left_out or self.out_of_range),
            ("limits", "Limits", True),
        )
        return [(anchor, title) for anchor, title, there in present if there]
