"""Coverage-guided fuzzing of every door, for a few seconds each; longer by hand, as tests/fuzz/run.py says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cohort import REPOSITORY
from fuzz.doors import DOORS


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_a_fuzzed_door_lets_nothing_out_but_results_and_stated_errors(door: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    fuzz = REPOSITORY / "tests" / "fuzz" / "run.py"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))}
    argv = [sys.executable, str(fuzz), door, str(tmp_path), "-max_total_time=3"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done" in done.stderr
