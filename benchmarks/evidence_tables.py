"""Tables and goals of `evidence.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from few_labels import LabelRatio, Task, compared, label_ratio

from pipeline.evaluation.aggregates import MEAN
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.scores import Scores

BASELINE = "sparse-only"
UNSEEN = ("CD45", "CD20", "E-cadherin", "PD-1", "Ki67", "alpha-SMA")
# For the comparison with few labels; it was named before anything was measured.
FEW = 100
GAIN = 0.05

ByLabels = Mapping[int, Sequence[Scores]]
Curves = dict[str, dict[int, EvidenceRow]]


def print_curves(task: Task, scores: Mapping[str, ByLabels]) -> Curves:
    """Print the mean over markers by number of labels; returns its rows by run and number of labels."""
    found: Curves = {run: {} for run in scores}
    for labels in task.draws:
        rows = compared(task, {run: own[labels] for run, own in scores.items()}, labels, BASELINE)
        for run in scores:
            found[run][labels] = rows[run, MEAN]
    print("mean Pearson r of all markers, by number of labelled patches (lowest and highest seed)")
    _print_header(task)
    for run, rows_of in found.items():
        print(f"{run:14}" + "".join(f"{_score(row):>25}" for row in rows_of.values()))
    print(f"difference to {BASELINE}")
    for run, rows_of in found.items():
        if run != BASELINE:
            print(f"{run:14}" + "".join(f"{_difference(row):>25}" for row in rows_of.values()))
    return found


def print_ratios(task: Task, scores: Mapping[str, ByLabels]) -> dict[str, LabelRatio]:
    """Print and return how many times fewer labels each run needs for the baseline's full score."""
    most = max(task.draws)
    found = {
        run: label_ratio(task, own, scores[BASELINE][most])
        for run, own in scores.items()
        if BASELINE in scores and run != BASELINE
    }
    print(f"times fewer labels than {BASELINE}'s {most} for its score with those, 1.0 meaning as many or more")
    for run, one in found.items():
        print(f"{run:14}{one.ratio:8.1f} [{one.low:.1f} {one.high:.1f}]")
    return found


def print_markers(task: Task, scores: Mapping[str, ByLabels]) -> None:
    """Print each marker with few labels."""
    rows = compared(task, {run: own[FEW] for run, own in scores.items()}, FEW, BASELINE)
    runs = [run for run in scores if run != "random"]
    print(f"Pearson r with {FEW} labelled patches, and the difference to {BASELINE}")
    print(f"{'':18}" + "".join(f"{run:>31}" for run in runs))
    for target in (*task.cohort.markers, MEAN):
        cells = [rows[run, target] for run in runs]
        print(f"{target:18}" + "".join(f"{f'{row.score:.3f} {_difference(row)}':>31}" for row in cells))


def print_unseen(task: Task, scores: Mapping[str, ByLabels]) -> dict[str, dict[int, EvidenceRow]]:
    """Print the mean over the markers that `unseen` never saw, and over the others; returns rows of the former."""
    groups = {
        f"the six that `unseen` never saw ({', '.join(UNSEEN)})": UNSEEN,
        "the other markers": tuple(name for name in task.cohort.markers if name not in UNSEEN),
    }
    found: dict[str, dict[int, EvidenceRow]] = {}
    runs = [run for run in (BASELINE, "three-branch", "unseen", "with-target") if run in scores]
    for title, markers in groups.items():
        rows = {
            labels: compared(task, {run: scores[run][labels] for run in runs}, labels, BASELINE, markers)
            for labels in task.draws
        }
        print(f"mean Pearson r of {title}, and the difference to {BASELINE}")
        _print_header(task, 31)
        for run in runs:
            cells = [own[run, MEAN] for own in rows.values()]
            print(f"{run:14}" + "".join(f"{row.score:.3f} {_difference(row)}".rjust(31) for row in cells))
        if markers == UNSEEN:
            found = {run: {labels: own[run, MEAN] for labels, own in rows.items()} for run in runs}
    return found


def judged(
    task: Task,
    scores: Mapping[str, ByLabels],
    curves: Curves,
    ratios: Mapping[str, LabelRatio],
    unseen: Mapping[str, Mapping[int, EvidenceRow]],
) -> list[dict[str, object]]:
    """Print and return the goals, each with what was found; nothing is met by a run that is not there."""
    most, goals = max(task.draws), []

    def judge(goal: str, runs: Sequence[str], look: Callable[[], tuple[bool, str]]) -> None:
        absent = [run for run in runs if run not in scores]
        met, found = (False, f"not measured, without {', '.join(absent)}") if absent else look()
        goals.append({"goal": goal, "found": found, "met": met})
        print(f"{goal}: {found}  {'met' if met else 'MISSED'}")

    def gain(row: EvidenceRow) -> tuple[bool, str]:
        return row.difference >= GAIN and row.difference_within.low > 0, _difference(row)

    def markers_ahead(run: str) -> tuple[bool, str]:
        rows = compared(task, {name: scores[name][FEW] for name in (BASELINE, run)}, FEW, BASELINE)
        ahead = sum(rows[run, marker].difference_within.low > 0 for marker in task.cohort.markers)
        return 3 * ahead >= 2 * len(task.cohort.markers), f"{ahead} of {len(task.cohort.markers)}"

    def fewer_labels(one: LabelRatio) -> tuple[bool, str]:
        return one.ratio >= 5 and one.low > 2, f"{one.ratio:.1f} [{one.low:.1f} {one.high:.1f}]"

    def as_supervised() -> tuple[bool, str]:
        pair = {run: scores[run][most] for run in ("supervised", "with-target")}
        row = compared(task, pair, most, "supervised")["with-target", MEAN]
        return row.difference_within.low > -0.005, _difference(row)

    def nowhere_ahead() -> tuple[bool, str]:
        ahead = [str(labels) for labels, row in curves["shuffled"].items() if row.verdict == "helped"]
        return not ahead, f"ahead with {', '.join(ahead)}" if ahead else "nowhere"

    for run in ("three-branch", "with-target"):
        both = (BASELINE, run)
        judge(f"{run}: {FEW} labels, +{GAIN} at least, interval above 0", both, lambda run=run: gain(curves[run][FEW]))
        judge(f"{run}: {FEW} labels, two markers of three ahead", both, lambda run=run: markers_ahead(run))
        judge(f"{run}: 5 times fewer labels, interval above 2", both, lambda run=run: fewer_labels(ratios[run]))
    judge("with-target not behind supervised, interval above -0.005", ("supervised", "with-target"), as_supervised)
    never = f"markers never seen: {FEW} labels, +{GAIN} at least, interval above 0"
    judge(never, (BASELINE, "unseen"), lambda: gain(unseen["unseen"][FEW]))
    judge("shuffled not ahead with any number of labels", (BASELINE, "shuffled"), nowhere_ahead)
    return goals


def _print_header(task: Task, width: int = 25) -> None:
    print(f"{'labels':14}" + "".join(f"{labels:>{width}}" for labels in task.draws))


def _score(row: EvidenceRow) -> str:
    return f"{row.score:.3f} ({min(row.per_seed):.3f} {max(row.per_seed):.3f})"


def _difference(row: EvidenceRow) -> str:
    if math.isnan(row.difference):
        return ""
    ends: Interval = row.difference_within
    mark = {"helped": "*", "harmed": "-"}.get(row.verdict, " ")
    return f"{row.difference:+.3f} [{ends.low:+.3f} {ends.high:+.3f}]{mark}"
