"""Read OME-Zarr images (NGFF 0.4 and 0.5) of any number of channels in place by zarr.

Pixels are the numbers that the arrays hold; a chunk that is not stored shows the fill value, as the format says.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from pipeline.elsewhere.address import file_name
from pipeline.slides.base import DTYPES, RGB, Level, Pixels, Shows, SlideHeader
from pipeline.slides.closing import WithoutJpegTiles
from pipeline.slides.colour_names import may_be_colours
from pipeline.slides.level_content import Read, compare_by
from pipeline.slides.pyramid import StoredLevel, kept_levels, notes_on_levels, recorded_levels
from pipeline.slides.window import clip_window
from pipeline.slides.zarr_chunks import ChunkReader
from pipeline.slides.zarr_folder import stored_chunks
from pipeline.slides.zarr_images import LevelArray, Place, ZarrImage, chosen_image, images_of

# Of a pixel of the level: translations are rounded, and pixels picked 2 apart lie a quarter from averaged ones.
_LARGEST_SHIFT = 0.1
_SAME_PLACE = 1e-3
# As far as the ratio of two rounded sizes is from the downsample.
_SAME_SCALE = 0.02


class ZarrSlide(WithoutJpegTiles):
    """One image, with its pyramid, of an OME-Zarr folder.

    Args:
        path: the folder, or the address of one elsewhere.
        slide: name of the slide, for errors.
        image: name or number of the image, where the folder holds several; empty takes the largest.
        levels: as found before, so that they need not be judged anew; empty judges them, and counts stored chunks.
        shows: what to take channels for that may be colours; see `pipeline.slides.base.Shows`.

    Raises:
        StatedError: if the folder holds no image of a kind that the program works with, or several that may be meant.
    """

    def __init__(
        self, path: Place, slide: str = "", image: str = "", levels: Sequence[Level] = (), shows: Shows = "file"
    ) -> None:
        images = images_of(path)
        chosen = chosen_image(images, image, path)
        placed, messages = _placed(chosen)
        arrays = [chosen.levels[index] for index in placed]
        stored = [_stored(chosen, index) for index in placed]
        self._chunks = ChunkReader(arrays, path, slide)
        compare = compare_by(lambda index: self._reader(index, arrays[index]), stored[0].size_xy)
        kept = recorded_levels(stored, levels) or kept_levels(stored, compare)
        self._indices = tuple(index for index, _ in kept)
        channels, remarks = _channels(chosen, shows)
        notes = (*messages, *remarks)
        if not levels:
            shown = [arrays[index] for index in self._indices]
            notes += notes_on_levels(stored, kept) + _notes_on_scales(stored, kept)
            notes += (_notes_on_chunks(shown, path) if isinstance(path, Path) else ()) + _notes_on_others(
                images, chosen
            )
        mpp = chosen.described.mpp
        found = tuple(level for _, level in kept)
        name = path if isinstance(path, Path) else Path(file_name(path))
        self.header = SlideHeader(name, "zarr", mpp.um, found, channels, arrays[0].dtype, mpp.remark, notes)

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """Return pixels (height, width, channels) of a window; see `pipeline.slides.base.Slide`."""
        header = self.header
        wanted = list(range(len(header.channels)) if channels is None else channels)
        window = clip_window(corner_xy, size_xy, header.levels[level].size_xy)
        (left, top), (right, bottom) = window.start_xy, window.stop_xy
        width, height = size_xy
        if header.is_rgb:
            out = np.full((height, width, len(wanted)), 255, header.dtype)
        else:
            out = np.moveaxis(np.zeros((len(wanted), height, width), header.dtype), 0, -1)
        if not window.is_empty:
            target = np.moveaxis(out, -1, 0)[:, top:bottom, left:right]
            self._chunks.paint(self._indices[level], target, window.corner_xy, wanted)
        return out

    def close(self) -> None:
        """Forget the chunks that are kept; zarr holds no file open."""
        self._chunks.close()

    def _reader(self, index: int, array: LevelArray) -> Read:
        """Return what reads windows of a level's first channel."""

        def read(corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> Pixels:
            out: Pixels = np.zeros((1, size_xy[1], size_xy[0]), array.dtype)
            window = clip_window(corner_xy, size_xy, array.size_xy)
            (left, top), (right, bottom) = window.start_xy, window.stop_xy
            if not window.is_empty:
                self._chunks.paint(index, out[:, top:bottom, left:right], window.corner_xy, [0])
            return np.moveaxis(out, 0, -1)

        return read


def _placed(image: ZarrImage) -> tuple[list[int], tuple[str, ...]]:
    """Return the levels whose pixels lie where averaging level 0 puts them, and a line on each other one.

    Averaging moves the first pixel's centre by half of what the pixel grows. Some writers state that as a translation,
    many leave it out: then all levels have the same. Any other is of another field, or of picked pixels.
    """
    first = image.described.levels[0]
    placed, messages = [], []
    for index, level in enumerate(image.described.levels):
        # In x and y, in pixels of this level.
        shifts = [a - b for a, b in zip(level.translation_xy, first.translation_xy, strict=True)]
        stated = [shift / scale for shift, scale in zip(shifts, level.scale_xy, strict=True)]
        averaged = [(scale - base) / 2 / scale for scale, base in zip(level.scale_xy, first.scale_xy, strict=True)]
        off = [a - b for a, b in zip(stated, averaged, strict=True)]
        if any(abs(shift) > _SAME_PLACE for shift in stated) and any(abs(shift) > _LARGEST_SHIFT for shift in off):
            messages.append(
                f"leaves out level {level.path}, whose translation puts its pixels {off[0]:.3g}, {off[1]:.3g} of them "
                "(x, y) from where averaging level 0 does"
            )
        else:
            placed.append(index)
    return placed, tuple(messages)


def _stored(image: ZarrImage, index: int) -> StoredLevel:
    """Return a level with the length of its pixels, in which two levels are compared only with each other."""
    return StoredLevel(image.levels[index].size_xy, um=sum(image.described.levels[index].scale_xy) / 2)


def _channels(image: ZarrImage, shows: Shows) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the channels are called, and what to tell of them."""
    level, names = image.levels[0], image.described.channels
    count, remarks = level.shape_cyx[0], []
    if names and len(names) != count:
        remarks.append(f"{len(names)} names in the file for {count} channels, so that none is used")
        names = ()
    kind = np.dtype(level.array.dtype).name
    if DTYPES[kind] != kind:
        remarks.append(f"pixels of {kind} read as {DTYPES[kind]}")
    found = tuple(name or f"C{index}" for index, name in enumerate(names or ("",) * count))
    is_colour = shows == "colours" and may_be_colours(found, kind)
    return RGB if is_colour else found, tuple(remarks)


def _notes_on_scales(stored: Sequence[StoredLevel], kept: Sequence[tuple[int, Level]]) -> tuple[str, ...]:
    """Return a line on each level whose scale says another downsample than its size does."""
    messages = []
    for index, level in kept:
        stated = (stored[index].um or 0) / (stored[0].um or 1)
        if abs(stated - level.downsample) > _SAME_SCALE * level.downsample:
            width, height = stored[index].size_xy
            scale = f"{stated:g} times level 0 by its scale"
            messages.append(f"level of {width} x {height} px: {scale}, takes {level.downsample:g} by its size")
    return tuple(messages)


def _notes_on_chunks(arrays: Sequence[LevelArray], path: Path) -> tuple[str, ...]:
    """Return a line on the chunks that are not stored, which is how the format stores areas of one value."""
    messages = []
    for level in arrays:
        sides = level.array.shards or level.array.chunks
        whole = prod(-(-side // step) for side, step in zip(level.array.shape, sides, strict=True))
        absent = whole - stored_chunks(path / level.name)
        if absent > 0:
            messages.append(f"{absent} of {whole} in level {level.name}")
    if not messages:
        return ()
    fill = arrays[0].array.fill_value
    return (
        f"chunks that are not stored show {0 if fill is None else fill}, as the format says: {', '.join(messages)}",
    )


def _notes_on_others(images: Sequence[ZarrImage], chosen: ZarrImage) -> tuple[str, ...]:
    """Return a line on each other image of the folder, and on label images."""
    messages = [f"leaves out image {image}, which is not image {chosen}" for image in images if image is not chosen]
    if chosen.labels:
        messages.append(f"leaves out the label images {', '.join(chosen.labels)}; each can be named as a mask")
    return tuple(messages)
