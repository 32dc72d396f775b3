"""Write the drawn images as the files that scanners and multiplex pipelines write."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyvips
import tifffile
from numpy.typing import NDArray

_TILE_PX = 256
_JPEG_QUALITY = 90
_COARSEST_PX = 512


def write_he(path: Path, image: NDArray[np.uint8], mpp: float) -> None:
    """Write a tiled JPEG pyramid (TIFF) whose levels halve exactly; OpenSlide opens it and reads its mpp.

    Args:
        path: the file to write.
        image: (height, width, 3), sides multiples of 32.
        mpp: um per pixel.
    """
    height, width, bands = image.shape
    picture = pyvips.Image.new_from_memory(image.tobytes(), width, height, bands, "uchar")
    # libvips counts pixels per millimetre.
    picture = picture.copy(interpretation="srgb", xres=1000 / mpp, yres=1000 / mpp)
    picture.tiffsave(
        str(path),
        compression="jpeg",
        Q=_JPEG_QUALITY,
        tile=True,
        tile_width=_TILE_PX,
        tile_height=_TILE_PX,
        pyramid=True,
        region_shrink="mean",
        resunit="cm",
        keep="none",
    )


def write_multiplex(path: Path, image: NDArray[np.uint16], *, channels: Sequence[str], mpp: float, name: str) -> None:
    """Write a pyramidal OME-TIFF, one plane per channel, coarser levels in SubIFDs, each the mean of 2 x 2 pixels.

    Args:
        path: the file to write.
        image: (channels, height, width), sides multiples of 32.
        channels: names in the order of the planes.
        mpp: um per pixel.
        name: name of the slide; it makes the file's identifier too, so that equal slides are equal files.
    """
    levels = _pyramid(image)
    metadata = {
        "axes": "CYX",
        "Name": name,
        "Channel": {"Name": list(channels)},
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'more-from-less/{name}')}",
    }
    with tifffile.TiffWriter(path, ome=True) as writer:
        for index, level in enumerate(levels):
            writer.write(
                _tiles(level),
                shape=level.shape,
                dtype=level.dtype,
                tile=(_TILE_PX, _TILE_PX),
                compression="zlib",
                compressionargs={"level": 1},
                predictor=True,
                photometric="minisblack",
                resolution=(10_000 / (mpp * 2**index),) * 2,
                resolutionunit="CENTIMETER",
                subifds=len(levels) - 1 if index == 0 else 0,
                subfiletype=0 if index == 0 else 1,
                metadata=metadata if index == 0 else None,
            )


def _pyramid(image: NDArray[np.uint16]) -> list[NDArray[np.uint16]]:
    levels = [image]
    while max(levels[-1].shape[1:]) > _COARSEST_PX and all(side % 2 == 0 for side in levels[-1].shape[1:]):
        height, width = levels[-1].shape[1:]
        halved = [cv2.resize(plane, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for plane in levels[-1]]
        levels.append(np.stack(halved))
    return levels


def _tiles(image: NDArray[np.uint16]) -> Iterator[NDArray[np.uint16]]:
    for plane in image:
        for top in range(0, plane.shape[0], _TILE_PX):
            for left in range(0, plane.shape[1], _TILE_PX):
                yield plane[top : top + _TILE_PX, left : left + _TILE_PX]
