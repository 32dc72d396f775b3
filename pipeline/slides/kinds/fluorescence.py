"""Fluorescence: a channel of intensities per marker, of which one shows nuclei."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.kinds.base import CHECKERBOARD_OF_STAINS, DenseKind, DenseWords


class Fluorescence(DenseKind):
    """Intensities of markers; a patch's values are their means in the slide's own units."""

    name = "fluorescence"
    shows = "channels"
    nuclei = "channel"
    words = DenseWords(
        "multiplex stain",
        "marker",
        "markers",
        "Marker intensities",
        "the mean intensity of each marker",
        "log(1 + mean intensity)",
        "Swipe between the H&E and the overlay: nuclei must stay where they are. In the overlay hematoxylin is "
        "magenta, the multiplex’s nuclei are green, and where both lie on each other it pales to white, or stays green "
        "where the hematoxylin is faint. Look at single nuclei: magenta beside green, always on the same side, is a "
        "shift.",
        CHECKERBOARD_OF_STAINS,
    )

    def comparable(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return log(1 + x); negative ones, which background-corrected images have, are taken as 0."""
        return log_of(values)


def log_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(1 + x) of values, negative ones taken as 0."""
    return np.log1p(np.clip(values, 0, None))
