"""Places of the dense slide that two parts of the tissue claim: along a fold, not along a tear nor on glass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.displacement import DisplacementGrid
from pipeline.registration.transform import Transform
from pipeline.tiling.layers import layered_share

SIDE_UM = 100.0
SEAM_UM = 1000.0


def _jumping(by_um: float, degrees: float = 0.0) -> Transform:
    """Return a map that moves all that lies right of the seam on by some um, then turns."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    grid = DisplacementGrid.covering((-64.0, -64.0), (2064.0, 864.0), 16.0)
    moved = np.where(grid.nodes_um()[:, :1] >= SEAM_UM, by_um, 0.0) * turn[:, 0]
    return Transform(np.column_stack([turn, [300.0, 200.0]]), grid.with_values(moved))


def _squares(first_um: float = 50.0, last_um: float = 2000.0) -> NDArray[np.float64]:
    x, y = np.arange(first_um, last_um, SIDE_UM), np.arange(50.0, 800.0, SIDE_UM)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def test_a_fold_hides_as_much_on_both_sides_as_it_takes_in() -> None:
    """The map turns over 300 um: those left and those right of the seam lie on the same places."""
    for degrees in (0.0, 33.0):
        centre = _squares()
        share = layered_share(_jumping(-300.0, degrees), centre, SIDE_UM)
        away = np.abs(centre[:, 0] - SEAM_UM)
        assert share[away < 250].min() > 0.8
        assert share[away > 400].max() == 0


def test_a_tear_and_a_smooth_map_hide_nothing() -> None:
    for by_um in (0.0, 150.0):
        assert layered_share(_jumping(by_um), _squares(), SIDE_UM).max() == 0
    assert layered_share(Transform.identity(), _squares(), SIDE_UM).max() == 0


def test_glass_between_fragments_that_came_closer_hides_nothing() -> None:
    """Two fragments 700 um apart of which one moved by 400 um: only the glass between them would overlap."""
    centre = np.concatenate([_squares(last_um=650.0), _squares(first_um=1400.0)])
    assert layered_share(_jumping(-400.0), centre, SIDE_UM).max() == 0


def test_a_slide_without_patches_has_no_shares() -> None:
    assert len(layered_share(_jumping(-300.0), np.zeros((0, 2)), SIDE_UM)) == 0
