"""Draw one slide of the cohort: images of both sides, and the truth behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.tools.demo.architecture import draw_architecture
from pipeline.tools.demo.cells import DrawnCells, draw_cells
from pipeline.tools.demo.cohort import SlidePlan, whole_size_px
from pipeline.tools.demo.deformation import Points, TrueMap, draw_map
from pipeline.tools.demo.fibres import draw_fibres
from pipeline.tools.demo.he import render_he
from pipeline.tools.demo.multiplex import render_multiplex
from pipeline.tools.demo.truth import write_truth
from pipeline.tools.demo.writing import write_he, write_multiplex

_LANDMARKS_PER_MM2 = 160
_DENSE_MARGIN_UM = 60.0


@dataclass(frozen=True)
class Drawing:
    """One slide as drawn.

    Attributes:
        plan: what was asked for.
        he: (height, width, 3) uint8.
        multiplex: (channels, height, width) uint16, None where it was not drawn.
        true_map: from the sparse to the dense frame; None without a dense partner.
        cells: all cells, sparse frame.
        landmarks_um: (N, 2) points in tissue, sparse frame.
    """

    plan: SlidePlan
    he: NDArray[np.uint8]
    multiplex: NDArray[np.uint16] | None
    true_map: TrueMap | None
    cells: DrawnCells
    landmarks_um: Points


def draw(plan: SlidePlan, *, with_dense: bool = True) -> Drawing:
    """Draw a slide; the plan, its name above all, decides every pixel.

    Args:
        plan: a row of the cohort, or one with a smaller field of view.
        with_dense: whether to draw the dense partner where the plan has one.
    """
    seeds = np.random.default_rng(list(f"demo slide {plan.name}".encode())).spawn(7)
    tissue = draw_architecture(plan.field_um, seeds[0])
    cells = draw_cells(tissue, seeds[1])
    fibres = draw_fibres(tissue, seeds[2])
    he = render_he(plan, tissue, cells, fibres, seeds[3])
    inside = tissue.tissue_points_um()
    landmarks = _landmarks(inside, seeds[4])
    if plan.dense is None:
        return Drawing(plan, he, None, None, cells, landmarks)
    true_map, extent_um = draw_map(plan.dense, seeds[5], inside, _DENSE_MARGIN_UM)
    multiplex = None
    if with_dense:
        size_px = (whole_size_px(extent_um[0], plan.dense.mpp), whole_size_px(extent_um[1], plan.dense.mpp))
        multiplex = np.empty((len(plan.dense.panel), size_px[1], size_px[0]), np.uint16)
        for index, plane in enumerate(render_multiplex(plan.dense, tissue, cells, fibres, true_map, size_px, seeds[6])):
            multiplex[index] = plane
    return Drawing(plan, he, multiplex, true_map, cells, landmarks)


def draw_files(plan: SlidePlan, out_sparse: Path, out_dense: Path | None, out_truth: Path) -> None:
    """Draw a slide and writes its H&E, its multiplex image (if asked for) and the folder of its truth.

    Raises:
        StatedError: if a dense image is asked for and the plan has none.
    """
    if out_dense is not None and plan.dense is None:
        raise StatedError(slide=plan.name, expected="a slide with a dense partner for --out-dense", found="H&E only")
    drawing = draw(plan, with_dense=out_dense is not None)
    with finished(out_sparse) as temporary:
        write_he(temporary, drawing.he, plan.mpp)
    if out_dense is not None and plan.dense is not None and drawing.multiplex is not None:
        with finished(out_dense) as temporary:
            write_multiplex(temporary, drawing.multiplex, channels=plan.dense.panel, mpp=plan.dense.mpp, name=plan.name)
    with finished(out_truth) as temporary:
        write_truth(temporary, plan, drawing.true_map, drawing.cells, drawing.landmarks_um)


def _landmarks(inside_um: Points, rng: np.random.Generator) -> Points:
    """Return points spread over the tissue, anywhere between the nodes that they are drawn from."""
    area_mm2 = len(inside_um) * 64 / 1e6
    count = min(len(inside_um), round(_LANDMARKS_PER_MM2 * area_mm2))
    chosen = rng.choice(len(inside_um), count, replace=False)
    return inside_um[np.sort(chosen)] + rng.uniform(-4, 4, (count, 2))
