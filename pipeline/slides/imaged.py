"""Find the area of a slide that was never imaged: there all pixels of large squares hold exactly one value.

A file leaves out tiles, or fills the fields that were not taken with 0, with white or with some other constant. No
camera does that. Yet where an image was cut off at its darkest or brightest values, empty tissue holds one value too:
in runs of every size, small ones among them. These small runs tell the one kind of image from the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Pixels

# Sides in pixels of the smallest square that counts: of the values that readers and writers fill in, and of any other.
# Odd ones, for OpenCV's opening by an even square moves the mask by a pixel.
FILLED_SIDE_PX = 15
_CONSTANT_SIDE_PX = 63
_SPECK_SIDE_PX = 5
# Distance of the nodes of a lattice of which each such square holds at least one.
_NODES_PX = 8
# From this share of small runs among the other pixels on, the slide's own values reach the one that is looked for.
LARGEST_SPECKS = 0.002


@dataclass(frozen=True, eq=False)
class Void:
    """The pixels of a window that were never imaged.

    Attributes:
        mask: (height, width) bool.
        specks: share of the other pixels that lie in runs of the same value which are too small to count.
    """

    mask: NDArray[np.bool_]
    specks: float


def void_of(pixels: Pixels, *, is_rgb: bool) -> Void | None:
    """Return the part of a window that was never imaged; None where all of it was.

    Args:
        pixels: (height, width, channels), as stored or averaged over squares of pixels.
        is_rgb: whether the readers show absent tiles white.
    """
    mask = np.zeros(pixels.shape[:2], dtype=np.bool_)
    small = np.zeros_like(mask)
    for value, side in _candidates(pixels, (0, 255) if is_rgb else (0,)):
        held = _holding(pixels, value)
        runs = _opened(held, side)
        if runs.any():
            mask |= runs
            small |= _opened(held, _SPECK_SIDE_PX)
    if not mask.any():
        return None
    others = np.count_nonzero(~mask)
    return Void(mask, np.count_nonzero(small & ~mask) / others if others else 0.0)


def _candidates(pixels: Pixels, filled: Sequence[int]) -> list[tuple[list[float], int]]:
    """Return values of all channels that large squares may hold, and the side of the smallest such square.

    They are read at the nodes of a lattice, of which every square of the smallest side holds some.
    """
    step = _NODES_PX
    nodes = pixels[step // 2 :: step, step // 2 :: step]
    alike = (nodes == nodes[..., :1]).all(axis=-1)
    one_channel = nodes[..., 0][alike]
    found = [([float(value)] * nodes.shape[-1], FILLED_SIDE_PX) for value in filled if (one_channel == value).any()]
    rows, columns = (side - 1 for side in nodes.shape[:2])
    if min(rows, columns) * step >= _CONSTANT_SIDE_PX - step:
        steady = (nodes[1:, 1:] == nodes[:-1, 1:]).all(axis=-1) & (nodes[1:, 1:] == nodes[1:, :-1]).all(axis=-1)
        values, counts = np.unique(nodes[1:, 1:][steady], axis=0, return_counts=True)
        known = [value for value, _ in found]
        least = (_CONSTANT_SIDE_PX // step - 2) ** 2
        held = [value for value, count in zip(values.tolist(), counts, strict=True) if count >= least]
        found += [(value, _CONSTANT_SIDE_PX) for value in held if value not in known]
    return found


def _holding(pixels: Pixels, value: Sequence[float]) -> NDArray[np.bool_]:
    """Return where all channels hold the value."""
    held = np.asarray(pixels[..., 0] == value[0], dtype=np.bool_)
    for channel, wanted in enumerate(value[1:], 1):
        if not held.any():
            break
        held &= pixels[..., channel] == wanted
    return held


def _opened(mask: NDArray[np.bool_], side_px: int) -> NDArray[np.bool_]:
    """Return the pixels that a square of this side covers while it stays within the mask; beyond the border is mask."""
    square = np.ones((side_px, side_px), dtype=np.uint8)
    padded = cv2.copyMakeBorder(mask.view(np.uint8), *(side_px,) * 4, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, square)
    return np.asarray(opened[side_px:-side_px, side_px:-side_px] > 0, dtype=np.bool_)
