"""Write the truth of a drawn slide: its cells, landmarks and map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.provenance import record, write_json
from pipeline.tools.demo.cells import DrawnCells
from pipeline.tools.demo.cohort import SlidePlan
from pipeline.tools.demo.deformation import Points, TrueMap


def write_truth(
    folder: Path, plan: SlidePlan, true_map: TrueMap | None, cells: DrawnCells, landmarks_um: Points
) -> None:
    """Write `cells.csv`, `landmarks.csv` and `transform.json`; without a dense side its columns are empty."""
    folder.mkdir(parents=True)
    table = pd.DataFrame({"x_um": cells.position_um[:, 0], "y_um": cells.position_um[:, 1]})
    table["dense_x_um"], table["dense_y_um"] = _dense_columns(true_map, cells.position_um)
    table["phenotype"], table["radius_um"] = cells.names(), cells.radius_um
    _write_table(folder / "cells.csv", table)
    points = pd.DataFrame({"sparse_x_um": landmarks_um[:, 0], "sparse_y_um": landmarks_um[:, 1]})
    points["dense_x_um"], points["dense_y_um"] = _dense_columns(true_map, landmarks_um)
    _write_table(folder / "landmarks.csv", points)
    write_json(folder / "transform.json", _in_words(plan, true_map))


def _dense_columns(true_map: TrueMap | None, points_um: Points) -> tuple[Any, Any]:
    if true_map is None:
        return float("nan"), float("nan")
    dense = true_map.to_dense(points_um)
    return dense[:, 0], dense[:, 1]


def _write_table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


def _in_words(plan: SlidePlan, true_map: TrueMap | None) -> dict[str, Any]:
    described: dict[str, Any] = {"slide": plan.name, "patient": plan.patient, "map": None}
    if true_map is not None:
        described["map"] = {
            "direction": "sparse frame to dense frame; um from the centre of level-0 pixel (0, 0), x right, y down",
            "formula": "q = matrix p + offset_um + sum over waves of amplitude_um * sin(wave_per_um . p + phase_rad)",
            "matrix": true_map.matrix.tolist(),
            "offset_um": true_map.offset_um.tolist(),
            "waves": [
                {"amplitude_um": amplitude, "wave_per_um": wave, "phase_rad": phase}
                for amplitude, wave, phase in zip(
                    true_map.amplitude_um.tolist(),
                    true_map.wave_per_um.tolist(),
                    true_map.phase.tolist(),
                    strict=True,
                )
            ],
        }
    return described | {"provenance": record("demo", plan, {}, ("numpy", "opencv-python-headless", "scipy"))}
