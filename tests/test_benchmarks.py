"""What the scripts in benchmarks/ share: how goals are judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from drawn_slide import Rate, judged

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_a_goal_against_a_peer_that_is_absent_is_not_met(capsys: pytest.CaptureFixture[str]) -> None:
    found, missed = judged({"ours": [Rate(10.0, 10.0)]}, [("ours", "peer", 1.0)], "patches")
    assert missed == ["ours / peer: not measured"]
    assert found["ratios"] == [{"ratio": "ours / peer", "clock": None, "cpu": None, "goal": 1.0, "met": False}]
    assert "NOT MEASURED" in capsys.readouterr().out


@pytest.mark.parametrize(("theirs", "missed"), [(5.0, []), (8.0, ["ours / peer"])])
def test_a_goal_is_judged_by_the_median_of_ratios_within_a_turn(theirs: float, missed: list[str]) -> None:
    # The third turn is slow for both: the ratio of medians would differ from the median of ratios.
    ours = [Rate(10.0, 10.0), Rate(10.0, 10.0), Rate(1.0, 1.0)]
    peer = [Rate(theirs, theirs), Rate(theirs, theirs), Rate(theirs / 10, theirs / 10)]
    _, found = judged({"ours": ours, "peer": peer}, [("ours", "peer", 1.5)], "patches")
    assert found == missed


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_on_a_processor_and_does_not_pass_there() -> None:
    words = [sys.executable, str(BENCHMARKS / "gpu.py"), "--tiny", "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "all goals: not measured on a GPU" in found["missed"]
    assert found["resume"]["largest_difference"] == 0, "a training that was stopped ends in other weights"
    assert "largest_difference_of_2_processes" in found["resume"]
    assert {"train, test_resnet", "embed, test_resnet", "loss", "decode"} <= found.keys()
