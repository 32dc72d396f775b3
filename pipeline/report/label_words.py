"""How many labels a run saves, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.evaluation.evidence_row import EvidenceRow

# Of the largest ratio: the table of scores rounds both.
_ROUNDING = 1e-3


def most_fewer(row: EvidenceRow, rows: Sequence[EvidenceRow]) -> float:
    """Return the largest ratio that evaluate can find: that of all labels to the fewest that were fitted.

    A run that needs as many times fewer labels may need fewer still. Infinite where no fewer labels were fitted.
    """
    fitted = [
        one.train_patches
        for one in rows
        if (one.run, one.target, one.spec.on(None)) == (row.run, row.target, row.spec)
        if 0 < one.train_patches < row.train_patches
    ]
    return row.train_patches / min(fitted) if fitted else math.inf


def times(ratio: float, most: float = math.inf) -> str:
    """Return a ratio with two figures; below 1 more labels are needed than there are, or an unknown number."""
    if ratio < 1:
        return "none fewer"
    number = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return f"{number} or more" if ratio >= most * (1 - _ROUNDING) else number


def label_sentence(row: EvidenceRow, baseline: str, most: float = math.inf) -> str:
    """Return how many labels a run saves, in a sentence; empty where that was not measured.

    Args:
        row: of the run, on all labels.
        baseline: the run whose full score is to be reached.
        most: the largest ratio that could be found.
    """
    ratio, low, high = row.fewer_labels, row.fewer_labels_within.low, row.fewer_labels_within.high
    if not math.isfinite(ratio):
        return ""
    if ratio == 0:
        return f"“{row.run}” does not reach the full score of “{baseline}” with any number of labels."
    ends = list(dict.fromkeys((times(low, most), times(high, most))))
    around = f" (95 % interval {' to '.join(ends)})" if math.isfinite(low) else ""
    how = f"{times(ratio, most)} times fewer labels" if ratio >= 1.05 else "as many labels"
    return f"“{row.run}” reaches the full score of “{baseline}” with {how}{around}."
