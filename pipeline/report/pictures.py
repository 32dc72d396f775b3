"""Encode pictures as data URIs: scaled down, compressed, the same bytes for the same input."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from imagecodecs import PngError, png_decode
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import StatedError

_FULL_SIZE_SLIDES = 8
_SMALLEST_PX = 224
_PLAIN, _FINE, _FINE_PX = 72, 86, 400  # quality of WebP, and the side from which lines are worth the bytes


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        uri: the data URI.
        width: in pixels.
        height: in pixels.
    """

    uri: str
    width: int
    height: int


def longest_side_px(wanted: int, slides: int) -> int:
    """Return the longest side of a picture, shrunk with the root of the cohort's size to bound the page."""
    shrunk = wanted * math.sqrt(_FULL_SIZE_SLIDES / max(slides, _FULL_SIZE_SLIDES))
    return min(wanted, max(_SMALLEST_PX, round(shrunk)))


def fitted(size_px: tuple[int, int], side_px: int) -> tuple[int, int]:
    """Return a width and height with the longest side at most `side_px`, in the same proportions."""
    factor = min(1.0, side_px / max(size_px))
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))


def photograph(image: Image.Image | NDArray[np.uint8], side_px: int) -> Picture:
    """Return a picture of tissue as WebP, at most `side_px` on its longest side; never enlarged."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return _encoded(_shrunk(picture.convert("RGB"), side_px), "WEBP", quality=_PLAIN, method=2)


def drawing(image: Image.Image, side_px: int) -> Picture:
    """Return a map or a grid as WebP of higher quality, whose thin lines stay clean; small ones have none left."""
    quality = _FINE if side_px >= _FINE_PX else _PLAIN
    return _encoded(_shrunk(image.convert("RGB"), side_px), "WEBP", quality=quality, method=2)


def exact(rgba: NDArray[np.uint8]) -> Picture:
    """Return pixels (h, w, 4) as they are, as PNG."""
    return _encoded(Image.fromarray(rgba), "PNG", optimize=True)


def palette(index: NDArray[np.uint8], colours: NDArray[np.uint8], *, transparent: int) -> Picture:
    """Return pixels (h, w) by their place in a palette (256, 3), as PNG; one place is transparent."""
    image = Image.fromarray(index, mode="P")
    image.putpalette(colours.tobytes())
    return _encoded(image, "PNG", optimize=True, transparency=transparent)


def opened(path: Path) -> Image.Image:
    """Return the picture in a PNG of 8 bits, which imagecodecs decodes in half of Pillow's time.

    Raises:
        StatedError: if it cannot be read as one.
    """
    try:
        return Image.fromarray(png_decode(path.read_bytes())).convert("RGB")
    except (OSError, ValueError, PngError) as error:
        raise StatedError(file=path, expected="a picture", found=str(error)) from None


def reduced(image: Image.Image, side_px: int) -> Image.Image:
    """Return the picture by whole blocks of pixels, at least twice `side_px` long where it was.

    Cheap to scale further.
    """
    factor = max(image.size) // (2 * side_px)
    return image.reduce(factor) if factor > 1 else image


def _shrunk(image: Image.Image, side_px: int) -> Image.Image:
    size_px = fitted(image.size, side_px)
    return image if size_px == image.size else image.resize(size_px, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> Picture:
    stream = BytesIO()
    image.save(stream, kind, **options)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind.lower()};base64,{text}", *image.size)
