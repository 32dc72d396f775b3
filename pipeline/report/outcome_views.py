"""What slide vectors tell of patients, as the template shows it: figures and a table per outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.outcomes.row import OutcomeRow
from pipeline.report.figure_numbers import Plot, forest_plot
from pipeline.report.figures import Estimate, ForestRow, forest, signed
from pipeline.report.results import Results
from pipeline.report.views import NOTHING, Badge, badge

_PROBES = {
    "mean": "mean of patches",
    "mean_std": "mean and spread",
    "prototypes": "shares of types",
    "attention": "attention",
}
# The measure, and what a score without any knowledge would be.
_MEASURES = {
    "auc": ("area under the ROC curve", "0.5 is guessing"),
    "pearson_r": ("Pearson r", "0 is guessing"),
    "c_index": ("concordance", "0.5 is guessing"),
}


@dataclass(frozen=True)
class OutcomeLine:
    """One line of the table, formatted."""

    run: str
    probe: str
    score: str
    within: str
    difference: str
    difference_within: str
    verdict: Badge | None
    seeds: str


@dataclass(frozen=True)
class OutcomeView:
    """One outcome.

    Attributes:
        name: of the outcome.
        patients: of whom it is known, in words.
        measure: what the score is.
        guess: what a score without any knowledge would be.
        note: why nothing is scored; empty where something is.
        scores: of every run and probe; None where nothing is scored.
        differences: to the baseline; None where nothing was compared.
        lines: the numbers.
    """

    name: str
    patients: str
    measure: str
    guess: str
    note: str
    scores: Plot | None
    differences: Plot | None
    lines: list[OutcomeLine]


def outcome_views(results: Results, series: dict[str, int]) -> list[OutcomeView]:
    """Return what is shown of each outcome."""
    return [
        _view([row for row in results.outcomes if row.outcome == name], results.outcome_baseline, series)
        for name in dict.fromkeys(row.outcome for row in results.outcomes)
    ]


def _view(rows: Sequence[OutcomeRow], baseline: str, series: dict[str, int]) -> OutcomeView:
    first = rows[0]
    measure, guess = _MEASURES.get(first.measure, (first.measure, ""))
    scored = [row for row in rows if math.isfinite(row.score)]
    compared = [row for row in scored if math.isfinite(row.difference)]
    scores = _forest(scored, f"{first.outcome}: scores with intervals", measure, series, difference=False)
    name = f"{first.outcome}: differences to {baseline}"
    differences = _forest(compared, name, f"difference in {measure}", series, difference=True)
    return OutcomeView(
        name=first.outcome,
        patients=f"{first.patients} patients{f' ({first.counts})' if first.counts else ''}",
        measure=measure,
        guess=guess,
        note=first.note,
        scores=scores,
        differences=differences,
        lines=[_line(row) for row in scored],
    )


def _forest(
    rows: Sequence[OutcomeRow], name: str, axis_label: str, series: dict[str, int], *, difference: bool
) -> Plot | None:
    """Return a row per probe with an estimate per run; None of nothing."""
    if not rows:
        return None
    drawn = [
        ForestRow(_PROBES.get(probe, probe), [_estimate(row, series, difference) for row in rows if row.probe == probe])
        for probe in dict.fromkeys(row.probe for row in rows)
    ]
    picture = forest(drawn, name=name, axis_label=axis_label, zero_line=difference)
    return forest_plot(
        picture, f"outcome-{rows[0].outcome}-{'differences' if difference else 'scores'}", drawn, axis_label
    )


def _estimate(row: OutcomeRow, series: dict[str, int], difference: bool) -> Estimate:
    ends = row.difference_within if difference else row.within
    return Estimate(series[row.run], row.run, row.difference if difference else row.score, ends.low, ends.high)


def _line(row: OutcomeRow) -> OutcomeLine:
    return OutcomeLine(
        run=row.run,
        probe=_PROBES.get(row.probe, row.probe),
        score=signed(row.score),
        within=_interval(row.within.low, row.within.high, 2),
        difference=signed(row.difference, 3, plus=True) if math.isfinite(row.difference) else NOTHING,
        difference_within=_interval(row.difference_within.low, row.difference_within.high, 3),
        verdict=badge(row.verdict),
        seeds=f"{row.seeds}: {_interval(row.seed_low, row.seed_high, 2)}" if row.seeds > 1 else str(row.seeds),
    )


def _interval(low: float, high: float, decimals: int) -> str:
    return f"{signed(low, decimals)} to {signed(high, decimals)}" if math.isfinite(low) else NOTHING
