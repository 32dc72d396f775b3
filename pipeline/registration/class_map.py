"""Draw the classes of a mask on the grid of its H&E slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.matching import dense_under, laid_on
from pipeline.registration.transform import Transform

# Told apart over H&E, which is pink and violet; the ninth class has the colour of the first again.
CLASS_COLOURS = (
    (0, 150, 110),
    (0, 104, 200),
    (214, 120, 0),
    (250, 205, 40),
    (120, 60, 20),
    (40, 200, 225),
    (110, 170, 20),
    (60, 60, 66),
)
_TINT = 0.45
_BORDER_PX = 2


def class_colour(index: int) -> tuple[int, int, int]:
    """Return red, green and blue of the class of this index."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def classes_on(
    mask: NuclearSource, labels: Sequence[int], transform: Transform, grid: NuclearImage
) -> NDArray[np.uint8]:
    """Return what a mask says at the pixels of a sparse image, for a picture of it.

    It is read from the level of the pyramid that is just fine enough, which need not agree with level 0 along borders.

    Args:
        mask: the mask.
        labels: of its classes.
        transform: from the sparse slide to the mask.
        grid: the sparse image.

    Returns:
        uint8 (H, W): i + 1 where label i covers most of the pixel, 0 where none does.
    """
    image = dense_under(mask, transform, grid, max(grid.mpp, mask.mpp))
    number, most = np.zeros(grid.inside.shape, np.uint8), np.full(grid.inside.shape, 0.5, np.float32)
    if image is None:
        return number
    for index, label in enumerate(labels):
        share = laid_on(replace(image, values=(image.values == label).astype(np.float32)), transform, grid)
        here = share.inside & (share.values >= most)
        number[here], most[here] = index + 1, share.values[here]
    return number


def painted(number: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8: every pixel in the colour of its class, white where there is none."""
    table = np.full((256, 3), 255, np.uint8)
    table[1:] = [class_colour(index) for index in range(255)]
    return table[number]


def outlined(rgb: NDArray[np.uint8], number: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the H&E (H, W, 3) tinted in the colours of the classes, their borders in full colour."""
    # A border belongs to the class inside it: pixels whose neighbourhood holds a lower number, or none.
    inner = cv2.erode(number, np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8))
    colour, some = painted(number), (number > 0)[..., None]
    share = np.where((inner != number)[..., None], 1.0, _TINT) * some
    mixed: NDArray[np.uint8] = np.rint(rgb + share * (colour.astype(np.float32) - rgb)).astype(np.uint8)
    return mixed
