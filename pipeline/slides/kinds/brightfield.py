"""Brightfield: the colours of an immunohistochemical slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv

from pipeline.sheet import SheetRow
from pipeline.slides.base import SlideHeader
from pipeline.slides.kinds.base import CHECKERBOARD_OF_STAINS, DenseKind, DenseWords
from pipeline.slides.record import SideRecord

# Absorption of hematoxylin, eosin and DAB in R, G, B (Ruifrok and Johnston 2001).
RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Inverted by scipy as in scikit-image, which training, that asks this kind too, does without.
_HED_FROM_RGB = inv(RGB_FROM_HED)
# The stains of immunohistochemistry; the third of the matrix, eosin, takes up what is neither.
STAINS = ("hematoxylin", "DAB")
_STAIN_COLUMNS = (0, 2)


class Brightfield(DenseKind):
    """R, G, B of 8 bits; a patch's values are the mean optical densities of the stains."""

    name = "brightfield"
    shows = "colours"
    nuclei = "hematoxylin"
    words = DenseWords(
        "second stain",
        "stain",
        "stains",
        "Stain densities",
        "the mean optical density of each stain",
        "the mean optical density",
        "Swipe between the H&E and the overlay: nuclei must stay where they are. In the overlay the hematoxylin of the "
        "H&E is magenta, that of the second stain green, and where both lie on each other it pales to white.",
        CHECKERBOARD_OF_STAINS,
    )

    def contradictions(self, row: SheetRow, header: SlideHeader) -> Iterator[tuple[str, str]]:
        """Yield what was expected and found of an image that is not RGB of 8 bits, or has a markers file."""
        if not header.is_rgb:
            found = f"{len(header.channels)} channels ({', '.join(header.channels[:4])})"
            yield "an RGB image, for dense_kind is brightfield", found
        elif header.dtype != "uint8":
            expected = "an RGB image of 8 bits, or dense_kind fluorescence, which takes its samples as channels"
            yield expected, header.dtype
        elif row.markers:
            yield "no markers CSV for an RGB image, which is brightfield unless dense_kind is fluorescence", row.markers

    def value_names(self, side: SideRecord) -> tuple[str, ...]:
        """Return the stains."""
        return STAINS

    def stored_channels(self, values: int) -> int:
        """Return 3: R, G, B."""
        return 3

    def patch_values(self, side: SideRecord, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, 2) mean optical densities (of base 10) of the stains, negative amounts of a pixel as 0.

        By colour deconvolution (Ruifrok and Johnston 2001).
        """
        return np.stack([_stain_densities(patch) for patch in stored])

    def beside(self, values: Sequence[str]) -> str:
        """Return the words of an encoder's card."""
        return "a brightfield stain"


def _stain_densities(rgb_cyx: NDArray[Any]) -> NDArray[np.float32]:
    # One table of logarithms instead of one logarithm per pixel.
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    density = table[rgb_cyx].reshape(3, -1)
    amounts = _HED_FROM_RGB.T[list(_STAIN_COLUMNS)].astype(np.float32) @ density
    return np.asarray(np.maximum(amounts, 0).mean(axis=1), dtype=np.float32)
