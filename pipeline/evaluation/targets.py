"""What the probes predict: what the dense side tells of a patch in a few numbers, made comparable between slides.

Fluorescence: mean intensity of each marker. Brightfield: mean optical density of each stain. Mask: share of each class.

Intensities are in each slide's own units: exposure, gain and background differ between scans. They are
taken as log(1 + x), which tames the long right tail, and each training slide is brought to mean 0 and
standard deviation 1 from its own training rows. Held-out slides are scored one by one with measures that do
not see a slide's offset and scale, so their truth serves the measure only and never reaches a probe.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DESCRIPTION = (
    "of fluorescence log(1 + mean intensity of the marker in the patch), of brightfield the mean optical density of "
    "the stain, of a mask the share of the class; for fitting, standardised within each training slide "
    "from its training patches; held-out slides are scored one by one, and the slides' scores are averaged with "
    "the number of patches as weight"
)


def comparable(values: Floats, dense_kind: str) -> Floats:
    """log(1 + x) of intensities (n, T), negative ones (background-corrected images have them) taken as 0.

    Densities and shares, of the other kinds, are on scales of their own already and stay as they are.
    """
    return np.log1p(np.clip(values, 0, None)) if dense_kind == "fluorescence" else values


def standardised(values: Floats) -> Floats:
    """The values of one slide (n, T), each column with mean 0 and standard deviation 1; nan where it is constant."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    usable = spread > 1e-9 * np.maximum(np.abs(mean), 1e-300)
    return np.where(usable, (values - mean) / np.where(usable, spread, 1), np.nan)
