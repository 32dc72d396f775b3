"""Parts that a joined map moves without a jump, as the reader of a verdict sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.areas import TissueBlocks
from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.parts import described
from pipeline.registration.piecewise import LabelGrid
from pipeline.registration.transform import GRID_SPACING_UM, Transform

ROWS, COLUMNS, SPACING_UM = 20, 40, 100.0
WIDTH_UM = COLUMNS * SPACING_UM
FOLD_UM, TAKEN_UM = 1900.0, 300.0


def _grid() -> DisplacementGrid:
    return DisplacementGrid.covering((-64.0, -64.0), (WIDTH_UM + 64, ROWS * SPACING_UM + 64), GRID_SPACING_UM)


def _nodes(label: NDArray[np.int64]) -> LabelGrid:
    """Return the grid whose nodes take their label from their column."""
    grid = _grid()
    _, height, width = grid.values_um.shape
    x = grid.origin_um[0] + np.arange(width) * grid.spacing_um
    column = np.clip(np.rint(x / SPACING_UM).astype(int), 0, COLUMNS - 1)
    return LabelGrid(grid.origin_um, grid.spacing_um, np.tile(label[column], (height, 1)))


def _blocks(agrees: NDArray[np.bool_]) -> TissueBlocks:
    whole = np.ones((ROWS, COLUMNS), np.bool_)
    return TissueBlocks(np.zeros(2), SPACING_UM, whole, np.tile(agrees, (ROWS, 1)), whole.astype(np.float32))


def test_both_sides_of_a_fold_are_whole_though_the_map_of_the_rest_holds_far_from_it_on_both() -> None:
    """The rest bends over 1.6 mm from one side to the other; beside the fold two pieces hold, each with its side."""
    grid = _grid()
    over = np.clip((grid.nodes_um()[:, 0] - FOLD_UM) / 1600 + 0.5, 0, 1)
    rest = Transform(np.eye(2, 3), grid.with_values(np.column_stack([-TAKEN_UM * over, np.zeros_like(over)])))
    left, right = Transform(np.eye(2, 3)), Transform(np.array([[1.0, 0, -TAKEN_UM], [0, 1, 0]]))
    x = np.arange(COLUMNS) * SPACING_UM
    label = np.where(x < 1000, 0, np.where(x < FOLD_UM + 150, 1, np.where(x < 2900, 2, 0)))
    found = described([rest, left, right], _nodes(label), _blocks((x <= FOLD_UM) | (x >= FOLD_UM + TAKEN_UM)))
    assert len(found) == 1
    assert abs(found[0].shift_um - TAKEN_UM) < 5
    assert abs(found[0].degrees) < 0.5
    assert abs(found[0].area.share - 0.47) < 0.05
    assert found[0].area.place == "right half"


def test_a_part_that_turned_is_one_part() -> None:
    angle = np.deg2rad(12.0)
    turned = Transform(np.array([[np.cos(angle), -np.sin(angle), 500.0], [np.sin(angle), np.cos(angle), 0.0]]))
    label = np.where(np.arange(COLUMNS) < 25, 0, 1)
    found = described([Transform(np.eye(2, 3)), turned], _nodes(label), _blocks(np.ones(COLUMNS, np.bool_)))
    assert [round(part.degrees, 1) for part in found] == [12.0]


def test_of_a_mosaic_with_one_column_put_down_wrong_only_that_column_moved() -> None:
    lower = Transform(np.array([[1.0, 0, 0], [0, 1, 70.0]]))
    label = np.where((np.arange(COLUMNS) >= 16) & (np.arange(COLUMNS) < 22), 1, 0)
    found = described([Transform(np.eye(2, 3)), lower], _nodes(label), _blocks(np.ones(COLUMNS, np.bool_)))
    assert [round(part.shift_um) for part in found] == [70]
    assert abs(found[0].area.share - 6 / COLUMNS) < 0.05
    assert found[0].straight_edge == "x = 1550 um and x = 2150 um"


def test_an_edge_across_the_axes_of_the_dense_slide_is_no_stitching() -> None:
    """The same column on a dense slide that is turned by 25 degrees: a mosaic is laid along its own axes."""
    angle = np.deg2rad(25.0)
    base = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0]])
    label = np.where((np.arange(COLUMNS) >= 16) & (np.arange(COLUMNS) < 22), 1, 0)
    moved = Transform(base + np.array([[0, 0, 0], [0, 0, 70.0]]))
    found = described([Transform(base), moved], _nodes(label), _blocks(np.ones(COLUMNS, np.bool_)))
    assert [(round(part.shift_um), part.straight_edge) for part in found] == [(70, "")]


def test_a_part_that_moved_farther_than_fields_do_is_no_stitching() -> None:
    away = Transform(np.array([[1.0, 0, 400.0], [0, 1, 0]]))
    label = np.where(np.arange(COLUMNS) < 25, 0, 1)
    found = described([Transform(np.eye(2, 3)), away], _nodes(label), _blocks(np.ones(COLUMNS, np.bool_)))
    assert [(round(part.shift_um), part.straight_edge) for part in found] == [(400, "")]


def test_blocks_that_agree_by_chance_are_no_parts() -> None:
    agrees = np.arange(COLUMNS) < 25
    blocks = _blocks(agrees)
    blocks.agrees[[3, 9, 15], [30, 33, 36]] = True
    label = np.where(agrees, 0, 1)
    far = Transform(np.array([[1.0, 0, 700.0], [0, 1, 0]]))
    assert described([Transform(np.eye(2, 3)), far], _nodes(label), blocks) == []
