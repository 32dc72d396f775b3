"""Define a slide for the rest of the program: one interface, whatever library reads the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError

Pixels = NDArray[Any]

# What a file's samples are to be taken for, where they may be either: what the file says they are, the colours of a
# brightfield image, or channels that have nothing to do with each other.
Shows = Literal["file", "colours", "channels"]

# Pixel types of files, and the one in which every value of theirs is read exactly.
DTYPES = {
    "uint8": "uint8", "uint16": "uint16", "float32": "float32",
    "bool": "uint8", "int8": "float32", "int16": "float32", "float16": "float32",
}  # fmt: skip
# Of what a file makes one decode at once: a tile, a strip, a chunk.
MAX_SEGMENT_BYTES = 2 * 2**30
RGB = ("R", "G", "B")


class CorruptTileError(StatedError):
    """One tile of a slide cannot be decoded; the others may be."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        size_xy: width and height in pixels of this level.
        downsample: level-0 pixels per pixel of this level (1.0 for level 0).
    """

    size_xy: tuple[int, int]
    downsample: float


@dataclass(frozen=True)
class SlideHeader:
    """What a file says of itself.

    Attributes:
        path: the file, or the folder of OME-Zarr.
        reader: name of the library that reads it: `openslide`, `tifffile` or `zarr`.
        mpp: micrometres per level-0 pixel; None where the file does not say.
        levels: finest first; never empty.
        channels: names in file order; `("R", "G", "B")` for a brightfield image.
        dtype: numpy name of the pixel type, `uint8`, `uint16` or `float32`.
        mpp_remark: why the file's um per pixel is not taken, or how it was; empty where there is nothing to say.
        notes: further lines that the user should know, as on images of the file that are left out.
        bounds_xy: upper-left level-0 pixel of the scanned part (`openslide.bounds-x`, `-y`), from which QuPath counts.
    """

    path: Path
    reader: str
    mpp: float | None
    levels: tuple[Level, ...]
    channels: tuple[str, ...]
    dtype: str
    mpp_remark: str = ""
    notes: tuple[str, ...] = ()
    bounds_xy: tuple[int, int] = (0, 0)

    @property
    def size_xy(self) -> tuple[int, int]:
        """Width and height of level 0 in pixels."""
        return self.levels[0].size_xy

    @property
    def is_rgb(self) -> bool:
        """Whether the image is an ordinary colour image, as H&E is."""
        return self.channels == RGB


class Slide(Protocol):
    """An open slide; safe to read from several threads."""

    header: SlideHeader

    def read_region(
        self,
        level: int,
        corner_xy: tuple[int, int],
        size_xy: tuple[int, int],
        channels: Sequence[int] | None = None,
    ) -> Pixels:
        """Return pixels (height, width, channels) of a window, in the dtype of the header.

        Args:
            level: index into `header.levels`.
            corner_xy: upper-left pixel of the window, in pixels of THAT level; may lie outside.
            size_xy: width and height in pixels of that level.
            channels: indices to read, in this order; None reads all.

        What lies outside the slide is white (255) in RGB images and 0 in others.
        The array may be a strided view of channel planes: `np.moveaxis(a, -1, 0)` costs nothing.
        """
        ...

    def is_corrupt(self, level: int, corner_xy: tuple[int, int], size_xy: tuple[int, int]) -> bool:
        """Return whether a window that was read before shows a tile that could not be decoded.

        Such a tile does not fail the reading of an overview; who keeps pixels must ask. A reader that raises
        instead says False.
        """
        ...

    def jpeg_transform(self, level: int) -> int | None:
        """Return what the JPEG tiles of a level must say of their colours to show what `read_region` does.

        Returns:
            The transform of `pipeline.slides.jpeg_tiles`; None where this reader decodes no such tiles itself.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def level_for(levels: Sequence[Level], downsample: float) -> int:
    """Return index of the coarsest level that is still at least as fine as `downsample` asks for.

    A level coarser by up to one per mille counts as fine enough: vendors round their level sizes.
    """
    fine = [i for i, level in enumerate(levels) if level.downsample <= downsample * 1.001]
    return max(fine, key=lambda i: levels[i].downsample, default=int(np.argmin([x.downsample for x in levels])))
