"""Equal runs are told apart about as often as promised, on drawn tissue: the benchmark `calibration`, made small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scipy.stats import binom

PATH = Path(__file__).resolve().parents[1] / "benchmarks/calibration.py"
REPEATS = 120
# A rate of 0.07, the most that is promised, passes all but one time in 100,000.
MOST = int(binom.isf(1e-5, REPEATS, 0.07)) / REPEATS


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", PATH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "blocks"), [("independent", 8), ("ragged", 25), ("correlated", 25), ("seeds", 8)])
def test_equal_runs_are_seldom_told_apart(calibration: ModuleType, name: str, blocks: int) -> None:
    case = next(case for case in calibration.CASES if case.name == name)
    found = calibration.rates(case, blocks, REPEATS, 1.0, 3, 500.0)
    assert found.pop("none") == 0
    assert max(found.values()) <= MOST


def test_tissue_that_is_alike_across_blocks_is_what_widens_intervals(calibration: ModuleType) -> None:
    """Without positions blocks count as unrelated: correlated tissue then gives false verdicts more often."""
    case = next(case for case in calibration.CASES if case.name == "smooth")
    held, inside = calibration.tissue(case, 25, 500.0)
    assert held.tissue is not None
    field = calibration.Field(inside.shape, case)
    share = held.tissue
    rng = calibration.np.random.default_rng(0)
    weight = calibration.np.full(inside.size, 1 / inside.size)
    found = [share.correlation(one.reshape(-1) * weight, weight) for one in field.draw(rng, 20)]
    # White noise smoothed over 250 um has a correlation of 0.05 at 866 um; a slide of 2.5 mm tells it roughly.
    assert 400 < calibration.np.median([one.range_um for one in found]) < 1300
    assert calibration.np.median([one.inflation for one in found]) > 1.5
    plain = [share.correlation(rng.normal(size=inside.size) * weight, weight) for _ in range(40)]
    assert calibration.np.median([one.inflation for one in plain]) == 1


def test_a_clearly_better_run_is_found_on_eight_blocks(calibration: ModuleType) -> None:
    case = next(case for case in calibration.CASES if case.name == "independent")
    # Errors half as large: far beyond what the noise of 200 patches hides.
    assert calibration.rates(case, 8, 20, 0.5, 1, 500.0)["mean"] > 0.9


def test_four_blocks_give_no_verdict(calibration: ModuleType) -> None:
    assert calibration.rates(calibration.CASES[0], 4, 3, 1.0, 0, 500.0)["none"] == 1
