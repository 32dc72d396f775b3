"""List, pair and read the files of a published set as its layout prescribes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import StatedError

# What Pillow raises on broken files; a broken PNG is a SyntaxError, cut headers are the others.
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, Image.DecompressionBombError,
)  # fmt: skip


def folder_of(path: Path, layout: str) -> Path:
    """Return the folder itself.

    Args:
        path: where it must be.
        layout: of the set, for the error.

    Raises:
        StatedError: if there is none.
    """
    if not path.is_dir():
        raise StatedError(file=path, expected=f"a folder, as in {layout}", found="a file" if path.exists() else "none")
    return path


def images_in(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the images of a folder by their names without the suffix, in the order of these.

    Raises:
        StatedError: if there are none.
    """
    found = {path.name.removesuffix(suffix): path for path in sorted(folder.glob(f"*{suffix}"))}
    if not found:
        raise StatedError(file=folder, expected=f"files named *{suffix}", found="none")
    return found


def check_partners(
    sparse: Mapping[str, Path], partners: Mapping[str, Path], folder: Path, *, kind: str = "dense image"
) -> None:
    """Raise StatedError unless every H&E image has a partner of its name, and the other way round.

    Args:
        sparse: the images by name.
        partners: what must go with them, by name.
        folder: of these.
        kind: what they are.
    """
    lone_images, lone_partners = sorted(set(sparse) - set(partners)), sorted(set(partners) - set(sparse))
    for lonely, missing in ((lone_images, kind), (lone_partners, "H&E image")):
        if lonely:
            raise StatedError(
                file=folder,
                expected=f"one {missing} for each of the others, by name",
                found=f"none for {lonely[0]}" + (f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""),
            )


def read_rgb(path: Path, side_px: int) -> NDArray[np.uint8]:
    """Return (P, P, 3) uint8 of an RGB image.

    Raises:
        StatedError: if it cannot be read, or has another size or kind of pixel.
    """
    return _read(path, side_px, ("RGB",), "an RGB image")


def read_grey(path: Path, side_px: int) -> NDArray[np.uint8]:
    """Return (P, P) uint8 of an image of one channel; of an indexed one, the indices.

    Raises:
        StatedError: if it cannot be read, or has another size or kind of pixel.
    """
    return _read(path, side_px, ("L", "P", "1"), "an image of one 8-bit channel")


def side_of(path: Path) -> int:
    """Return side of a square image in pixels.

    Raises:
        StatedError: if it cannot be read or is not square.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except _UNREADABLE as error:
        raise StatedError(file=path, expected="an image", found=str(error)) from None
    if width != height:
        raise StatedError(file=path, expected="a square image", found=f"{width} x {height} px")
    return width


def _read(path: Path, side_px: int, modes: Sequence[str], expected: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            found = f"{image.size[0]} x {image.size[1]} px, {image.mode}"
            fits = image.size == (side_px, side_px) and image.mode in modes
            pixels = np.array(image, dtype=np.uint8) if fits else None
    except _UNREADABLE as error:
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    if pixels is None:
        raise StatedError(file=path, expected=f"{expected} of {side_px} x {side_px} px", found=found)
    return pixels
