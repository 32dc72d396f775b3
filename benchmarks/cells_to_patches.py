"""Seconds from a table of segmented cells to the values of all patches of a slide.

Usage: python benchmarks/cells_to_patches.py [--cells N] [--markers N] [--size-px PX] [--check]. Draws a table as CSV
and as Parquet (places, intensities of the markers, six classes) and a smooth deformation, and does with each what tile
does: read and check it, carry the cells through the transform, and combine them in every patch of 128 um of a slide of
20 x 20 mm. Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform
from pipeline.slides.kinds.cells import Cells
from pipeline.tiling.grid import lattice
from pipeline.tiling.point_patches import PointPatches

MPP, SIZE_PX, EXTENT_UM = 0.5, 256, 20_000.0
GOAL_S = 20.0


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--markers", type=int, default=18)
    parser.add_argument("--size-px", type=int, default=SIZE_PX, help="side of a patch of 0.5 um per pixel")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    rows = []
    print(f"{'format':>9}{'MB':>7}{'read_s':>8}{'carry_s':>9}{'patches':>9}{'patch_s':>9}{'all_s':>8}{'cpu_s':>8}")
    with tempfile.TemporaryDirectory() as name:
        table = drawn_table(parsed.cells, parsed.markers)
        csv.write_csv(table, Path(name, "cells.csv"))
        parquet.write_table(table, Path(name, "cells.parquet"))
        del table
        for path in (Path(name, "cells.csv"), Path(name, "cells.parquet")):
            rows.append(row := timed(path, parsed.size_px))
            print(
                f"{row['format']:>9}{row['mb']:>7.0f}{row['read_s']:>8.2f}{row['carry_s']:>9.2f}{row['patches']:>9}"
                f"{row['patch_s']:>9.2f}{row['all_s']:>8.2f}{row['cpu_s']:>8.2f}"
            )
    met = all(row["all_s"] <= GOAL_S for row in rows)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {"benchmark": "cells_to_patches", "cells": parsed.cells, "rows": rows, "peak_mb": round(peak_mb)}
    print(json.dumps(found | {"met": met}))
    return 1 if parsed.check and not met else 0


def drawn_table(cells: int, markers: int) -> pa.Table:
    """Return places in um, intensities and a class of each cell."""
    rng = np.random.default_rng(0)
    columns = {"CellID": np.arange(cells)}
    columns |= {f"marker {number}": rng.gamma(2, 200, cells).astype(np.float32) for number in range(markers)}
    columns |= {name: rng.uniform(0, EXTENT_UM - 100, cells) for name in ("X_centroid", "Y_centroid")}
    columns["class"] = np.array(list("ABCDEF"))[rng.integers(0, 6, cells)]
    return pa.table(columns)


def timed(path: Path, size_px: int) -> dict[str, float]:
    """Return the seconds of each step."""
    kind = Cells()
    cpu = time.process_time()
    start = time.perf_counter()
    table = kind.read_table(path)
    read = time.perf_counter()
    transform = drawn_transform()
    drawn = time.perf_counter()
    points = PointPatches("slide", path, kind, table, transform.to_sparse(table.position), MPP)
    carried = time.perf_counter()
    side_px = round(EXTENT_UM / MPP)
    grid = lattice((side_px, side_px), size_px=size_px, mpp=MPP, mpp_level0=MPP)
    counted = sum(float(points.patch(grid, corner).pixels[-7, 0, 0]) for corner in grid.position_px)
    done, cpu = time.perf_counter(), time.process_time() - cpu
    if not 0.98 * len(table.position) < counted <= len(table.position):
        raise SystemExit(f"{counted:.0f} of {len(table.position)} cells in patches")
    seconds = {"read_s": read - start, "carry_s": carried - drawn, "patch_s": done - carried}
    size = {"mb": path.stat().st_size / 1e6, "patches": len(grid.position_px)}
    return {"format": path.suffix[1:], **size, **seconds, "all_s": sum(seconds.values()), "cpu_s": cpu}


def drawn_transform() -> Transform:
    """Return a turn by a degree and a smooth deformation of 10 um."""
    angle = np.deg2rad(1)
    affine = np.array([[np.cos(angle), -np.sin(angle), 50.0], [np.sin(angle), np.cos(angle), -50.0]])
    grid = DisplacementGrid.covering((0.0, 0.0), (EXTENT_UM, EXTENT_UM), 200.0)
    nodes = grid.nodes_um()
    values = 10 * np.stack([np.sin(nodes[:, 1] / 3000), np.cos(nodes[:, 0] / 3000)], axis=1)
    extent = np.array([[0.0, 0.0], [EXTENT_UM, EXTENT_UM]])
    return Transform.with_inverse(affine, grid.with_values(values), extent)


if __name__ == "__main__":
    raise SystemExit(main())
