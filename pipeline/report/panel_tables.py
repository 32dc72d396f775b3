"""Format the check of the dense channels for the page: findings first, then every measure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.panel.panel_file import CheckedMarker, PanelCheck
from pipeline.report.results import Results

NONE = "—"


@dataclass(frozen=True)
class PanelRow:
    """One channel, formatted."""

    marker: str
    background: str
    median: str
    high: str
    saturated: str
    structure: str
    autofluorescence: str
    closest: str
    seam: str
    finding: str


@dataclass(frozen=True)
class PanelTable:
    """One slide: its channels, or why they were not checked."""

    slide: str
    imaged: str
    mpp: str
    note: str
    named: list[tuple[str, str]]
    rows: list[PanelRow]


def panel_tables(results: Results) -> list[PanelTable]:
    """Return the checks in sheet order, slides with something wrong first."""
    tables = [_table(slide.panel) for slide in results.slides if slide.panel]
    return sorted(tables, key=lambda table: not table.named)


def subtracted_slides(results: Results) -> list[str]:
    """Return the slides of whose patches autofluorescence was subtracted."""
    return [slide.slide for slide in results.slides if slide.store and "background" in slide.store.attributes.recipe]


def _table(check: PanelCheck) -> PanelTable:
    return PanelTable(
        slide=check.slide,
        imaged=f"{check.imaged:.0%}",
        mpp=f"{check.mpp:.3g}",
        note=check.note,
        named=[(item.marker, f"{f.what}: {f.message}") for item in check.named for f in item.findings],
        rows=[_row(item) for item in check.markers],
    )


def _row(item: CheckedMarker) -> PanelRow:
    r = item.autofluorescence_r
    return PanelRow(
        marker=item.marker,
        background=_level(item.background),
        median=_level(item.percentiles["50"]),
        high=_level(item.percentiles["99.9"]),
        saturated=f"{item.saturated:.2%}",
        structure=f"{item.structure:.2f}",
        autofluorescence=NONE if r is None else _signed(r),
        closest=f"{item.closest} {_signed(item.closest_r)}" if item.closest else NONE,
        seam=f"{item.seam:.1%} every {item.seam_um:.0f} µm" if item.seam else NONE,
        finding=", ".join(dict.fromkeys(finding.what for finding in item.findings)) or NONE,
    )


def _level(value: float) -> str:
    """Return a brightness, in whole numbers where four figures would need an exponent."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
