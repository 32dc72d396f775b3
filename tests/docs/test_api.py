"""The examples of docs/api.md run as they stand, in one process and in order, on the results of a small cohort."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohort import REPOSITORY


def test_the_examples_of_the_api_run_in_order(
    small_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small_results, tmp_path / "cohort")
    monkeypatch.chdir(tmp_path / "cohort")
    page = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    names: dict[str, Any] = {"__name__": "api"}
    for block in blocks:
        exec(compile(block, "api.md", "exec"), names)
    np.testing.assert_allclose(names["back_um"], names["points_um"], atol=1e-6)
    assert names["dense"].shape[:2] == (8, len(names["store"].attributes.markers))
    assert [side.shape[0] for side in names["batch"]] == [4, 4]
    assert np.isfinite(names["features"]).all()
