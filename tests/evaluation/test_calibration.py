"""Equal runs are told apart about as often as promised, on drawn tissue: the benchmark `calibration`, made small."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.evaluation.tissue_correlation import Correlation

PATH = Path(__file__).resolve().parents[2] / "benchmarks/calibration.py"
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
    case = next(case for case in calibration.CASES if case.name == "smooth")
    held, inside = calibration.tissue(case, 100, 500.0)
    rng, count = np.random.default_rng(0), inside.size
    share = np.full(count, 1 / count)

    def found(fields: np.ndarray) -> list[Correlation]:
        flat = fields.reshape(len(fields), count)
        return [held.tissue.correlation(one, share) for one in (flat - flat.mean(axis=1, keepdims=True)) * share]

    smooth = found(calibration.Field(inside.shape, case).draw(rng, 20))
    # White noise smoothed over 250 um has a correlation of 0.05 at 866 um; a slide of 5 mm tells it roughly.
    assert 600 < np.median([one.range_um for one in smooth]) < 1300
    assert 1.5 < np.median([one.inflation for one in smooth]) < 6
    assert np.median([one.widening(100) for one in smooth]) > 1.2
    plain = found(rng.normal(size=(40, count)))
    assert np.median([one.inflation for one in plain]) == 1
    assert np.median([one.range_um for one in plain]) == 0


def test_a_clearly_better_run_is_found_on_eight_blocks(calibration: ModuleType) -> None:
    case = next(case for case in calibration.CASES if case.name == "independent")
    # Errors half as large: far beyond what the noise of 200 patches hides.
    assert calibration.rates(case, 8, 20, 0.5, 1, 500.0)["mean"] > 0.9


def test_four_blocks_give_no_verdict(calibration: ModuleType) -> None:
    assert calibration.rates(calibration.CASES[0], 4, 3, 1.0, 0, 500.0)["none"] == 1
