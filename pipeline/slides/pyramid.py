"""Derive the downsample of pyramid levels, which files store as rounded or padded sizes, or as a tag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.slides.base import Level

# Two resolutions that differ by less are one: a tag that was copied from level to level.
SAME_UM = 0.02
# A stated ratio this close to a whole number is that number, stored as a fraction of 32 bits.
_WHOLE = 0.01
_MAX_FACTOR = 4096


@dataclass(frozen=True)
class StoredLevel:
    """An image of a file that may be a level.

    Attributes:
        size_xy: width and height in pixels.
        tile_xy: of its tiles; None where it has none.
        um: um per pixel, or another length, by its own tag; None where it has none.
        is_level: whether the file's structure makes it a level of this image, so that only its scale is in question.
        stated_downsample: by the library that reads it, for levels whose sizes no single factor explains.
    """

    size_xy: tuple[int, int]
    tile_xy: tuple[int, int] | None = None
    um: float | None = None
    is_level: bool = True
    stated_downsample: float | None = None


# How the pixels of a stored level correlate with those of a finer one, by the index of each and the downsample of
# each; None where neither shows anything.
Compare = Callable[[int, int, float, float], float | None]
# Measured on H&E: levels correlate by 0.7 or more, even of single pixels picked 8 apart and stored as poor JPEG; other
# tissue by less than 0.2.
SAME_PIXELS = 0.5


def true_downsample(size_xy: tuple[int, int], level_size_xy: tuple[int, int]) -> float | None:
    """Return the level-0 pixels per pixel of a level, from the two sizes.

    Writers halve (or quarter) the image and round the size that results: 4443 px become 2221 px at a downsample of
    exactly 2, not 4443 / 2221 = 2.0005. The ratio of sizes, and the mean of both ratios that OpenSlide reports,
    would place the far end of that level 1 px off. So a power of two, then another whole number, is taken wherever
    both sizes are what rounding up or down makes of it; otherwise the ratio of the longer side.

    Returns:
        The downsample, or None where no single factor explains both sizes: then it is not the same field.
    """
    whole = _whole_downsample(size_xy, level_size_xy)
    if whole is not None:
        return whole
    (width, height), (level_width, level_height) = size_xy, level_size_xy
    if not (0 < level_width <= width and 0 < level_height <= height):
        return None
    lowest = max(width / (level_width + 1), height / (level_height + 1))
    highest = min(width / max(level_width - 1, 0.5), height / max(level_height - 1, 0.5))
    return _ratio(size_xy, level_size_xy) if lowest < highest else None


def possible_downsamples(base: StoredLevel, level: StoredLevel) -> tuple[float, ...]:
    """Return the downsamples that a level can have, the likeliest first; none where it is not the same field.

    The level's own tag decides where it differs from that of level 0 and fits the sizes. Otherwise sizes do: rounded
    ones first, then sizes that are rounded up to whole tiles, which several factors may explain.
    """
    if not all(0 < small <= large for small, large in zip(level.size_xy, base.size_xy, strict=True)):
        return ()
    stated = _stated_downsample(base, level)
    if stated is not None:
        return (stated,)
    whole = _whole_downsample(base.size_xy, level.size_xy)
    exact = whole is not None and tuple(whole * small for small in level.size_xy) == base.size_xy
    if whole is not None and exact and math.log2(whole).is_integer():
        return (whole,)
    ratio = true_downsample(base.size_xy, level.size_xy)
    rounded = [] if whole is None else [whole]
    found = list(dict.fromkeys([*rounded, *_padded_downsamples(base, level), *([] if ratio is None else [ratio])]))
    return tuple(found) or (() if level.stated_downsample is None else (level.stated_downsample,))


def kept_levels(stored: Sequence[StoredLevel], compare: Compare) -> tuple[tuple[int, Level], ...]:
    """Return the levels among stored images, finest first, each with its index.

    The first image is level 0. What is not the same field scaled down, repeats a size or has no certain downsample is
    left out; pixels are compared only where structure or tags leave a doubt.
    """
    base = stored[0]
    found = [(0, Level(base.size_xy, 1.0))]
    for index in sorted(range(1, len(stored)), key=lambda i: -math.prod(stored[i].size_xy)):
        level, (finer, last) = stored[index], found[-1]
        if level.size_xy[0] >= stored[finer].size_xy[0]:
            continue
        possible = possible_downsamples(base, level)
        certain = len(possible) == 1 and (level.is_level or _stated_downsample(base, level) is not None)
        downsample = possible[0] if certain else None
        if possible and not certain:
            same = {x: compare(index, finer, x, last.downsample) for x in possible if x > last.downsample}
            downsample = _best(same, possible)
        if downsample is not None and downsample > last.downsample:
            found.append((index, Level(field_xy(base.size_xy, level.size_xy, downsample), downsample)))
    return tuple(found)


def notes_on_levels(stored: Sequence[StoredLevel], kept: Sequence[tuple[int, Level]]) -> tuple[str, ...]:
    """Return a line on each level that is left out though the file's structure makes it one."""
    there, sizes = {index for index, _ in kept}, {stored[index].size_xy for index, _ in kept}
    dropped = [x.size_xy for i, x in enumerate(stored) if x.is_level and i not in there and x.size_xy not in sizes]
    return tuple(f"leaves out the level of {w} x {h} px, whose downsample is not certain" for w, h in dropped)


def recorded_levels(stored: Sequence[StoredLevel], levels: Sequence[Level]) -> tuple[tuple[int, Level], ...] | None:
    """Return levels that were found before, each with the index of its image; None where they are not all there."""
    base = stored[0].size_xy
    found: list[tuple[int, Level]] = []
    for level in levels:
        left = [(i, x.size_xy) for i, x in enumerate(stored) if i not in dict(found)]
        same = [i for i, size in left if field_xy(base, size, level.downsample) == level.size_xy]
        if not same:
            return None
        # A finer level, cut to this size, would fit as well.
        found.append((min(same, key=lambda i: math.prod(stored[i].size_xy)), level))
    return tuple(found) or None


def field_xy(size_xy: tuple[int, int], stored_xy: tuple[int, int], downsample: float) -> tuple[int, int]:
    """Return width and height of the part of a level that shows the slide: padding to whole tiles does not."""
    # Other factors come from rounded sizes, so that a pixel more is rounding, which readers find their tiles by.
    slack = 0 if float(downsample).is_integer() else 1
    width, height = (math.ceil(size / downsample) for size in size_xy)
    return (
        width if stored_xy[0] > width + slack else stored_xy[0],
        height if stored_xy[1] > height + slack else stored_xy[1],
    )


def _best(same: dict[float, float | None], possible: tuple[float, ...]) -> float | None:
    """Return the downsample whose pixels match best; without any structure to compare, the only possible one."""
    measured = {x: value for x, value in same.items() if value is not None}
    if not measured:
        return possible[0] if len(possible) == 1 else None
    best = max(measured, key=lambda x: measured[x])
    return best if measured[best] >= SAME_PIXELS else None


def _stated_downsample(base: StoredLevel, level: StoredLevel) -> float | None:
    if base.um is None or level.um is None or level.um <= base.um * (1 + SAME_UM):
        return None
    ratio = level.um / base.um
    whole = round(ratio)
    stated = float(whole) if abs(ratio - whole) <= _WHOLE * whole else ratio
    tile_xy = level.tile_xy or (1, 1)
    sides = zip(base.size_xy, level.size_xy, tile_xy, strict=True)
    # A pixel of rounding either way, and up to one tile of padding.
    fits = all(size / stated - 1 - size * _WHOLE / stated < small < size / stated + tile + 1 + size * _WHOLE / stated
               for size, small, tile in sides)  # fmt: skip
    if not fits:
        return None
    whole_by_size = _whole_downsample(base.size_xy, level.size_xy)
    close = whole_by_size is not None and abs(whole_by_size - stated) <= SAME_UM * stated
    return whole_by_size if close else stated


def _padded_downsamples(base: StoredLevel, level: StoredLevel) -> Iterator[float]:
    """Yield the whole factors, powers of two before others, whose size rounded up to whole tiles is the level's."""
    if level.tile_xy is None or any(s % t for s, t in zip(level.size_xy, level.tile_xy, strict=True)):
        return
    lowest = max(1, math.floor(_ratio(base.size_xy, level.size_xy) / 2))
    wholes = [
        whole
        for whole in range(max(2, lowest), min(_MAX_FACTOR, max(base.size_xy)) + 1)
        if all(
            math.ceil(math.ceil(size / whole) / tile) * tile == small
            for size, small, tile in zip(base.size_xy, level.size_xy, level.tile_xy, strict=True)
        )
    ]
    powers = [whole for whole in wholes if whole & (whole - 1) == 0]
    yield from (float(whole) for whole in powers or wholes)


def _whole_downsample(size_xy: tuple[int, int], level_size_xy: tuple[int, int]) -> float | None:
    if not all(0 < small <= large for small, large in zip(level_size_xy, size_xy, strict=True)):
        return None
    ratio = _ratio(size_xy, level_size_xy)
    for whole in (2 ** round(math.log2(ratio)), round(ratio)):
        if all(_rounds_to(*sides, whole) for sides in zip(size_xy, level_size_xy, strict=True)):
            return float(whole)
    return None


def _ratio(size_xy: tuple[int, int], level_size_xy: tuple[int, int]) -> float:
    """Return the ratio of the longer side."""
    longer = 0 if size_xy[0] >= size_xy[1] else 1
    return size_xy[longer] / level_size_xy[longer]


def _rounds_to(size: int, level_size: int, whole: int) -> bool:
    return size // whole <= level_size <= -(-size // whole)
