"""Hold the results of a cohort from which the report is made; missing parts are empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.outcomes.row import OutcomeRow
from pipeline.panel.panel_file import PanelCheck
from pipeline.slides.record import SlideRecord
from pipeline.store.patch_store import PatchStore

PICTURES = ("overlay", "checkerboard", "residual", "deformation")


@dataclass(frozen=True)
class Registration:
    """What register left of one pair.

    Attributes:
        verdict: `pass`, `warn` or `fail`.
        reasons: why, in sentences.
        mode: `same-section` or `serial`; empty where it does not say.
        numbers: all numbers of qc.json by their path in it (`held_out_residual_um.median`), in file order.
        pictures: path by name, of those of `PICTURES` that are there.
    """

    verdict: str
    reasons: tuple[str, ...]
    mode: str
    numbers: Mapping[str, float]
    pictures: Mapping[str, Path]


@dataclass(frozen=True)
class SlideResults:
    """One row of the sheet and what there is of it; None where a stage left nothing.

    Attributes:
        slide: its name.
        patient: patient ID.
        has_dense: whether the sheet names a dense partner.
        record: what inspect wrote.
        registration: what register wrote.
        store: the store that tile wrote, open.
        pairs: usable pairs by the split; None without a split.
        folds: those that its patches are in.
        panel: what panel wrote of its dense side.
    """

    slide: str
    patient: str
    has_dense: bool
    record: SlideRecord | None
    registration: Registration | None
    store: PatchStore | None
    pairs: int | None
    folds: tuple[int, ...]
    panel: PanelCheck | None = None


@dataclass(frozen=True)
class FoldSummary:
    """How the folds came about.

    Attributes:
        by: `patient`, `slide` or `block`.
        note: one sentence for the reader.
        held_out_slides: slides with patches in fold 0.
        held_out_patients: their patients.
    """

    by: str
    note: str
    held_out_slides: tuple[str, ...]
    held_out_patients: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """A cohort's results.

    Attributes:
        slides: in sheet order.
        split: None where there is none.
        curves: by run, the lines of metrics.jsonl.
        evidence: rows of the summary, in its order.
        baseline: the run that the others are compared with; empty where there is none.
        features: by slide, the features of the reported embedding.
        vectors: its slides.parquet, where there is one.
        predictions: by slide, the folder of its predicted markers.
        retrieval: by run, how well dense patches are found from H&E, as evaluate's details have it.
        blocks: of tissue in the held-out slides, which the intervals rest on; 0 where nothing tells.
        patients: held-out ones that were scored; 0 where nothing tells.
        embedding: the run or encoder that the page is about.
        outcomes: rows of the summary of outcomes, in its order.
        outcome_baseline: the run that these are compared with; empty where there is none.
        controls: runs that were not trained on true pairs, and how they were paired, by what their encoders say.
    """

    slides: tuple[SlideResults, ...]
    split: FoldSummary | None
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    evidence: tuple[EvidenceRow, ...]
    baseline: str
    features: Mapping[str, Path]
    vectors: Path | None
    predictions: Mapping[str, Path] = field(default_factory=dict)
    retrieval: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    outcomes: tuple[OutcomeRow, ...] = ()
    outcome_baseline: str = ""
    blocks: int = 0
    patients: int = 0
    embedding: str = ""

    @property
    def trained_patients(self) -> frozenset[str]:
        """Patients whose pairs trained the encoder that the page is about; none for an encoder from elsewhere."""
        if self.embedding not in self.curves and all(row.run != self.embedding for row in self.evidence):
            return frozenset()
        return frozenset(slide.patient for slide in self.slides if slide.pairs and any(slide.folds))
