"""Choose the rows of `details.json`: all or, of thousands of targets, the means, the best and counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.evaluation.evidence_row import EvidenceRow, details

MOST_TARGETS = 256  # beyond which only the best are listed
BEST_TARGETS = 24  # listed of more targets, by held-out score


def told_rows(rows: Sequence[EvidenceRow]) -> dict[str, Any]:
    """Return `rows` for JSON and, where single targets are left out of them, `left_out` with what they amount to.

    `summary.tsv` holds every row in any case. The best targets are those of the highest mean score over the runs,
    probe by probe.
    """
    targets = {(row.spec, row.target) for row in rows if not row.is_mean}
    many = {spec for spec, count in Counter(spec for spec, _ in targets).items() if count > MOST_TARGETS}
    best = {spec: set(best_targets([row for row in rows if row.spec == spec])) for spec in many}
    kept = [row for row in rows if row.is_mean or row.spec not in many or row.target in best[row.spec]]
    content: dict[str, Any] = {"rows": [details(row) for row in kept]}
    left_out = [row for row in rows if not row.is_mean and row.spec in many and row.target not in best[row.spec]]
    if left_out:
        content["left_out"] = [
            {
                "run": run,
                "probe": probe,
                "targets": len(own),
                "scored": sum(math.isfinite(row.score) for row in own),
                "verdicts": dict(Counter(row.verdict for row in own if row.verdict)),
            }
            for (run, probe), own in _by_probe(left_out).items()
        ]
    return content


def best_targets(rows: Sequence[EvidenceRow], most: int = BEST_TARGETS) -> list[str]:
    """Return the targets of one probe with the highest score, mean over the runs, best first."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if not row.is_mean and math.isfinite(row.score):
            scores.setdefault(row.target, []).append(row.score)
    return sorted(scores, key=lambda name: -sum(scores[name]) / len(scores[name]))[:most]


def _by_probe(rows: Sequence[EvidenceRow]) -> dict[tuple[str, str], list[EvidenceRow]]:
    found: dict[tuple[str, str], list[EvidenceRow]] = {}
    for row in rows:
        found.setdefault((row.run, row.probe), []).append(row)
    return found
