"""What the levels of a pyramid mean: their true downsample, which file formats store only as rounded sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.slides.base import Level


def true_downsample(size_xy: tuple[int, int], level_size_xy: tuple[int, int]) -> float | None:
    """Level-0 pixels per pixel of a level, from the two sizes.

    Writers halve (or quarter) the image and round the size that results: 4443 px become 2221 px at a downsample of
    exactly 2, not 4443 / 2221 = 2.0005. The ratio of sizes, and the mean of both ratios that OpenSlide reports,
    would place the far end of that level 1 px off. So a power of two, then another whole number, is taken wherever
    both sizes are what rounding up or down makes of it; otherwise the ratio of the longer side.

    Returns:
        The downsample, or None where no single factor explains both sizes: then it is not the same field.
    """
    (width, height), (level_width, level_height) = size_xy, level_size_xy
    if not (0 < level_width <= width and 0 < level_height <= height):
        return None
    ratio = width / level_width if width >= height else height / level_height
    for whole in (2 ** round(math.log2(ratio)), round(ratio)):
        if _rounds_to(width, level_width, whole) and _rounds_to(height, level_height, whole):
            return float(whole)
    lowest = max(width / (level_width + 1), height / (level_height + 1))
    highest = min(width / max(level_width - 1, 0.5), height / max(level_height - 1, 0.5))
    return ratio if lowest < highest else None


def levels_of(sizes_xy: Sequence[tuple[int, int]]) -> tuple[tuple[int, Level], ...]:
    """The levels that sizes describe, finest first, each with its index in `sizes_xy`.

    The first size is level 0. Sizes that are not the same field scaled down, or repeat one, are left out.
    """
    found: list[tuple[int, Level]] = []
    for index, size in enumerate(sizes_xy):
        downsample = true_downsample(sizes_xy[0], size)
        if downsample is not None and (not found or size[0] < found[-1][1].size_xy[0]):
            found.append((index, Level(size, downsample)))
    return tuple(found)


def _rounds_to(size: int, level_size: int, whole: int) -> bool:
    return size // whole <= level_size <= -(-size // whole)
