"""The ridge probe that is kept for use depends on the keys that its rule hands on, and on no others."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from drawn_results import draw_features, draw_stores

from pipeline.evaluation.probe_fitting import save_probe
from pipeline.settings import PROBE_KEYS, EvaluateSettings


def test_a_probe_asks_for_no_other_key(tmp_path: Path) -> None:
    drawn = draw_stores(tmp_path)
    draw_features(drawn, "distilled", 1.0)
    defaults = EvaluateSettings()
    # Any other key that is asked for is an AttributeError.
    only: Any = SimpleNamespace(**{key: getattr(defaults, key) for key in PROBE_KEYS})
    places = (drawn.results / "tile", drawn.results / "split/patches.tsv", drawn.results / "embed", "distilled")
    for name, settings in (("few", only), ("all", defaults)):
        save_probe(*places, settings, tmp_path / name)
    assert (tmp_path / "few/probe.safetensors").read_bytes() == (tmp_path / "all/probe.safetensors").read_bytes()
    recorded = json.loads((tmp_path / "few/probe.json").read_text())["provenance"]["settings"]
    assert set(recorded) == {*PROBE_KEYS, "panel"}
