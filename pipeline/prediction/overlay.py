"""The picture of a slide's predictions, `markers.png`: the H&E, how unlike the patches fitted on its patches are, and
each marker over the H&E with its score, the patients that the score comes from, and its scale.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.evaluation.probe_file import UNIT_EXPLAINED, MarkerProbe
from pipeline.prediction.colours import MAP_NAME, coloured
from pipeline.prediction.out_of_range import scored_on
from pipeline.prediction.table import Predictions
from pipeline.store.patch_indices import PatchPlaces, patch_places
from pipeline.store.patch_store import PatchStore
from pipeline.training.feature_range import outside_share

_COLUMNS = 3
_COLUMN_INCHES, _PICTURE_INCHES = 4.8, 3.5  # the scale and its label take the rest
_PANEL_PX = 600
_DPI = 120
_OPACITY = 0.78
_UNLIKE_NAME, _FARTHEST = "Reds", 2.0


def write_overlay(predictions: Predictions, store: PatchStore, path: Path) -> None:
    """Draw the panels; axes are in mm on the slide.

    Args:
        predictions: of the slide.
        store: its patches.
        path: the PNG to write.
    """
    places = patch_places(store)
    shown = _shrunk(store.overview)
    # Colours over a coloured ground mislead; grey keeps the tissue's structure only.
    grey = np.asarray(cv2.cvtColor(cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    distance = predictions.distance
    first = 1 if distance is None else 2
    panels = first + len(predictions.markers)
    columns = min(_COLUMNS, panels)
    rows = -(-panels // columns)
    aspect = float(np.clip(shown.shape[0] / shown.shape[1], 0.4, 1.6))
    size = columns * _COLUMN_INCHES, rows * (_PICTURE_INCHES * aspect + 0.75) + 0.8
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    width_px, height_px = store.attributes.size_level0_px
    extent_mm = np.array([width_px, height_px]) * store.attributes.mpp_level0 / 1000
    for axis in axes.flat:
        axis.set_visible(False)
    _panel(axes.flat[0], shown, extent_mm, f"H&E of {predictions.slide}")
    if distance is not None:
        picture = grey if places is None else tinted(grey, places, _unlikeness(distance))
        _panel(axes.flat[1], picture, extent_mm, f"unlike the patches fitted on: {outside_share(distance):.0%} outside")
        scale = ScalarMappable(Normalize(0, _FARTHEST), _UNLIKE_NAME)
        figure.colorbar(scale, ax=axes.flat[1], shrink=0.8, label="distance, 1 = limit", extend="max")
    for column, marker in enumerate(predictions.markers):
        axis = axes.flat[column + first]
        picture = grey if places is None else painted(grey, places, predictions.values[:, column], marker)
        _panel(axis, picture, extent_mm, f"{marker.marker}: held-out {marker.scored()}\n{scored_on(marker)}")
        scale = ScalarMappable(Normalize(marker.scale_low, marker.scale_high), MAP_NAME)
        figure.colorbar(scale, ax=axis, shrink=0.8, label="predicted, SD", extend="both")
    note = f"Predicted from H&E by a linear probe, not measured. SD: {UNIT_EXPLAINED}. {predictions.range}"
    figure.supxlabel(
        "\n".join(textwrap.wrap(note, round(size[0] * 14))), fontsize=9, x=0.01, ha="left", parse_math=False
    )
    figure.savefig(path, format="png", metadata={"Software": None})


def _panel(axis: Axes, picture: NDArray[np.uint8], extent_mm: NDArray[np.float64], title: str) -> None:
    axis.set_visible(True)
    axis.imshow(picture, extent=(0, extent_mm[0], extent_mm[1], 0), interpolation="nearest")
    axis.set_title(title, fontsize=10, loc="left", parse_math=False)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("mm", fontsize=8)


def painted(
    ground: NDArray[np.uint8], places: PatchPlaces, values: NDArray[np.float32], marker: MarkerProbe
) -> NDArray[np.uint8]:
    """Return the ground with every patch tinted by its value."""
    return tinted(ground, places, coloured(values, marker))


def tinted(ground: NDArray[np.uint8], places: PatchPlaces, patch_colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the ground with every patch tinted in its colour, (N, 3)."""
    height, width = ground.shape[:2]
    row_of = _cells(height, places.top, places.height, places.shape[0])
    column_of = _cells(width, places.left, places.width, places.shape[1])
    # One cell more than there are, without a patch, is that of all pixels beside the grid.
    patch = np.full((places.shape[0] + 1, places.shape[1] + 1), -1, dtype=np.int64)
    patch[places.row, places.column] = np.arange(len(places.row))
    shown = patch[np.ix_(row_of, column_of)]
    colours = patch_colours[shown].astype(np.float32)
    mixed = np.rint(ground + _OPACITY * (colours - ground)).astype(np.uint8)
    return np.where((shown >= 0)[..., None], mixed, ground)


def _unlikeness(distance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return colours (N, 3): white at 0, the map's middle at the limit."""
    shares = np.clip(distance / _FARTHEST, 0, 1)
    colours = matplotlib.colormaps[_UNLIKE_NAME](shares.astype(np.float64))[:, :3]
    return np.asarray(np.rint(colours * 255), dtype=np.uint8)


def _cells(size_px: int, start: float, extent: float, count: int) -> NDArray[np.int64]:
    """Return (size_px,) the cell that each pixel's centre lies in, of `count` cells from `start`; `count` for none."""
    share = ((np.arange(size_px) + 0.5) / size_px - start) / extent
    cell = np.floor(share * count).astype(np.int64)
    return np.where((cell >= 0) & (cell < count), cell, count)


def _shrunk(overview: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the overview at `_PANEL_PX` on its longest side: smaller, or larger so that patches have room."""
    height, width = overview.shape[:2]
    factor = _PANEL_PX / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(overview, size, interpolation=how), dtype=np.uint8)
