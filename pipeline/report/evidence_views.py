"""Format the evidence for the template: forest plots of every probe, and tables of scores."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.evaluation.aggregates import MEAN, MEANS
from pipeline.evaluation.details import BEST_TARGETS, best_targets
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.report.figure_numbers import Plot, forest_plot
from pipeline.report.figures import Estimate, ForestRow, forest, signed
from pipeline.report.probe_words import MEASURES, probe_group, probe_name, probe_title
from pipeline.report.results import Results
from pipeline.report.views import NOTHING, Badge, badge
from pipeline.report.words import listed

# More targets than that are drawn and listed by their best: genes are thousands.
MOST_ROWS = 64
_SEEN = {"yes": "in training", "no": "not in training", "some": "some in training"}


@dataclass(frozen=True)
class ScoreView:
    """One line of the evidence table, formatted."""

    run: str
    probe: str
    target: str
    measure: str
    score: str
    within: str
    difference: str
    difference_within: str
    verdict: Badge | None
    train_patches: int
    test_patches: int
    seeds: str
    seen: str


@dataclass(frozen=True)
class EvidencePart:
    """The two forest plots of one probe.

    Attributes:
        title: the probe in words.
        group: under which title its figures are folded together with those of others; empty for none.
        guess: what a score without any knowledge would be.
        scores: of every run, with the numbers.
        differences: to the baseline; None where nothing was compared.
        counted: on how many targets each run gained and lost, in words; empty where nothing was compared.
        shown: which targets are drawn, where they are not all, in words.
    """

    title: str
    group: str
    guess: str
    scores: Plot
    differences: Plot | None
    counted: str
    shown: str


def evidence_rows(rows: Sequence[EvidenceRow]) -> list[ScoreView]:
    """Return the evidence table, formatted."""
    return [
        ScoreView(
            row.run,
            probe_name(row.spec),
            row.target,
            MEASURES.get(row.metric, row.metric),
            _value(row.score),
            _interval(row.within.low, row.within.high),
            signed(row.difference, 3, plus=True) if math.isfinite(row.difference) else NOTHING,
            _interval(row.difference_within.low, row.difference_within.high, 3),
            badge(row.verdict),
            row.train_patches,
            row.test_patches,
            f"{row.seeds}: {_interval(row.seed_low, row.seed_high)}" if row.seeds > 1 else str(row.seeds),
            _SEEN.get(row.seen, NOTHING),
        )
        for row in rows
    ]


def listed_targets(rows: Sequence[EvidenceRow]) -> list[EvidenceRow]:
    """Return the rows of single targets on all labels; of probes of thousands those of the best."""
    found = []
    for spec in dict.fromkeys(row.spec for row in rows if row.spec.labels is None):
        own = [row for row in rows if row.spec == spec and not row.is_mean]
        kept = set(_drawn_targets(own))
        found += [row for row in own if row.target in kept]
    return found


def evidence_parts(results: Results, series: dict[str, int]) -> list[EvidencePart]:
    """Return the forest plots of every probe on all labels; those on fewer are drawn as curves."""
    scales = {"recall": "recall (mean: balanced accuracy)", "auc": "area under the ROC curve"}
    guesses = {"recall": "guessing reaches 1 / the number of classes in the mean", "auc": "0.5 is guessing"}
    parts = []
    for spec in dict.fromkeys(row.spec for row in results.evidence if row.spec.labels is None):
        rows = [row for row in results.evidence if row.spec == spec]
        if not any(math.isfinite(row.score) for row in rows):
            continue  # of a probe that could not be fitted, told in words
        title, scale = probe_title(spec), scales.get(spec.metric, "Pearson r")
        differences, counted = None, ""
        if any(math.isfinite(row.difference) for row in rows):  # the baseline keeps its line, empty
            name = f"{title}: differences to {results.baseline}"
            differences = _forest(spec, rows, series, name, f"difference in {scale}", difference=True)
            counted = _counted(rows)
        scores = _forest(spec, rows, series, f"{title}: scores with intervals", scale, difference=False)
        guess = guesses.get(spec.metric, "0 none")
        parts.append(EvidencePart(title, probe_group(spec), guess, scores, differences, counted, _shown(rows)))
    return parts


def headline_figure(results: Results, series: dict[str, int], spec: ProbeSpec) -> Plot | None:
    """Return the differences to the baseline, mean over markers, one row per run; None where nothing was compared."""
    rows = [
        ForestRow(row.run, [_difference(row, series)])
        for row in results.evidence
        if row.spec == spec and row.target == MEAN and math.isfinite(row.difference)
    ]
    if not rows:
        return None
    name = f"Differences to {results.baseline} in mean Pearson r"
    picture = forest(rows, name=name, axis_label="difference in mean Pearson r", zero_line=True, width=340)
    lines = [replace(row, label=MEAN) for row in rows]  # in the picture the runs stand for themselves
    return forest_plot(picture, "headline", lines, "difference in mean Pearson r")


def _forest(
    spec: ProbeSpec,
    rows: Sequence[EvidenceRow],
    series: dict[str, int],
    name: str,
    axis_label: str,
    *,
    difference: bool,
) -> Plot:
    means = [target for target in MEANS if any(row.target == target for row in rows)]
    drawn = []
    for target in [*means, *_drawn_targets(rows)]:  # the means first; markers keep their order
        own = [row for row in rows if row.target == target]
        fitted, tested = (max(getattr(row, name) for row in own) for name in ("train_patches", "test_patches"))
        estimates = [_difference(row, series) if difference else _score(row, series) for row in own]
        drawn.append(ForestRow(target, estimates, f"{fitted} | {tested}", strong=target in MEANS))
    picture = forest(drawn, name=name, axis_label=axis_label, zero_line=True, counts="fitted | tested on")
    return forest_plot(picture, f"{spec.name}-{'differences' if difference else 'scores'}", drawn, axis_label)


def _drawn_targets(rows: Sequence[EvidenceRow]) -> list[str]:
    """Return the targets that are drawn: all in their order or, of many, the best by held-out score."""
    targets = list(dict.fromkeys(row.target for row in rows if not row.is_mean))
    return targets if len(targets) <= MOST_ROWS else best_targets(rows)


def _shown(rows: Sequence[EvidenceRow]) -> str:
    """Return which targets are drawn, where they are not all."""
    count = len({row.target for row in rows if not row.is_mean})
    return f"The {BEST_TARGETS} best of {count} by held-out score are drawn." if count > MOST_ROWS else ""


def _counted(rows: Sequence[EvidenceRow]) -> str:
    """Return on how many targets each run gained and lost."""
    changes = []
    for run in dict.fromkeys(row.run for row in rows if math.isfinite(row.difference)):
        verdicts = Counter(row.verdict for row in rows if row.run == run and not row.is_mean and row.verdict)
        changes.append(f"“{run}” gains on {verdicts['helped']} and loses on {verdicts['harmed']} of {verdicts.total()}")
    return f"{listed(changes)} that are compared." if changes else ""


def _score(row: EvidenceRow, series: dict[str, int]) -> Estimate:
    return Estimate(series[row.run], row.run, row.score, row.within.low, row.within.high)


def _difference(row: EvidenceRow, series: dict[str, int]) -> Estimate:
    ends = row.difference_within
    return Estimate(series[row.run], row.run, row.difference, ends.low, ends.high)


def _value(value: float) -> str:
    return signed(value) if math.isfinite(value) else NOTHING


def _interval(low: float, high: float, decimals: int = 2) -> str:
    return f"{signed(low, decimals)} to {signed(high, decimals)}" if math.isfinite(low) else NOTHING
