"""Real tissue that was torn, lost, folded or broken into fragments: registered piece by piece, or told as lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from damaged_tissue import CASES, outcome, tissue
from known_truth import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def _outcome(real_data: Path, folder: Path, case: str) -> Outcome:
    return outcome(CASES[case](*tissue(real_data), 0), folder)


# A fold of 250 um may hide as much again beside it, 7 % of this small section.
@pytest.mark.parametrize(
    ("case", "kept_good"),
    [("torn", 0.95), ("torn_twice", 0.95), ("fragments", 0.95), ("turned", 0.95), ("folded", 0.9)],
)
def test_parts_that_moved_are_registered_by_themselves(
    real_data: Path, tmp_path: Path, case: str, kept_good: float
) -> None:
    found = _outcome(real_data, tmp_path, case)
    assert found.within >= 0.9
    assert found.kept_wrong <= 0.02
    assert found.kept_good >= kept_good
    assert found.verdict == "warn"
    assert any("registered separately" in reason for reason in found.reasons)


def test_lost_tissue_has_no_pairs_and_is_named(real_data: Path, tmp_path: Path) -> None:
    found = _outcome(real_data, tmp_path, "lost")
    assert found.within >= 0.95
    assert found.kept_wrong <= 0.02
    assert found.kept_good >= 0.95
    assert found.verdict == "warn"
    assert any("matches nothing on the dense slide (lower" in reason for reason in found.reasons)
