"""Predictions as a pyramidal OME-TIFF that lies right over its slide: one channel per marker, the same corner.

Its pixels are a power of two of level-0 pixels wide, and at least eight of them make a patch; so tools that place
images by their physical size, or by a downsample, put it where it belongs. Values are spread over 16 bits, from the
lower to the upper end of the marker's colour scale, and 0 is not a patch: not every viewer can show floating-point
numbers with holes. The numbers themselves are in the table.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.evaluation.probe_file import UNIT, UNIT_EXPLAINED
from pipeline.prediction.colours import shades
from pipeline.prediction.table import Predictions
from pipeline.store.patch_store import PatchStore, StoreAttributes

Plane = NDArray[np.uint16]

PIXELS_PER_PATCH = 8
_TILE_PX = 256
_COARSEST_PX = 512
_FULL = 65535


def write_marker_image(predictions: Predictions, store: PatchStore, path: Path, identity: str) -> None:
    """Write the image; `identity` tells it from others, so that equal predictions are equal files."""
    known = store.attributes
    downsample = pixel_level0_px(known)
    index = patch_index(store, downsample)
    levels = _levels(index.shape)
    size_um = known.mpp_level0 * downsample
    metadata = {
        "axes": "CYX",
        "Name": f"{predictions.slide}, predicted from H&E",
        "Description": _description(predictions),
        "Channel": {"Name": [f"{item.marker}, held-out {item.scored()}" for item in predictions.markers]},
        "PhysicalSizeX": size_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": size_um,
        "PhysicalSizeYUnit": "µm",
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'more-from-less/predict/{identity}')}",
    }
    with tifffile.TiffWriter(path, ome=True) as writer:
        for level in range(levels):
            shape = index.shape[0] >> level, index.shape[1] >> level
            writer.write(
                _tiles(predictions, index, level),
                shape=(len(predictions.markers), *shape),
                dtype=np.uint16,
                tile=(_TILE_PX, _TILE_PX),
                compression="zlib",
                photometric="minisblack",
                resolution=(10_000 / (size_um * 2**level),) * 2,
                resolutionunit="CENTIMETER",
                subifds=levels - 1 if level == 0 else 0,
                subfiletype=0 if level == 0 else 1,
                metadata=metadata if level == 0 else None,
            )


def pixel_level0_px(known: StoreAttributes) -> int:
    """Return side of the image's pixels in level-0 pixels.

    The largest power of two that parts a patch in eight or more.
    """
    side = known.size_px * known.mpp / known.mpp_level0
    return int(2 ** max(0, math.floor(math.log2(side / PIXELS_PER_PATCH))))


def patch_index(store: PatchStore, downsample: int) -> NDArray[np.int32]:
    """Return (h, w) int32: the row of the patch that holds each pixel's centre, -1 for none, over the whole slide.

    Sides are filled up with -1 until all levels of the pyramid halve exactly.
    """
    known = store.attributes
    width, height = (-(-side // downsample) for side in known.size_level0_px)
    multiple = 2 ** (_levels((height, width)) - 1)
    index = np.full((-(-height // multiple) * multiple, -(-width // multiple) * multiple), -1, dtype=np.int32)
    # The first pixel whose centre is not left of (above) an edge at e level-0 pixels is ceil(e / downsample - 1/2).
    position, side = store.table.position_px, known.size_px * known.mpp / known.mpp_level0
    first = np.ceil(position / downsample - 0.5).astype(np.int64)
    end = np.ceil((position + side) / downsample - 0.5).astype(np.int64)
    for row, ((x, y), (x_end, y_end)) in enumerate(zip(first.tolist(), end.tolist(), strict=True)):
        index[y:y_end, x:x_end] = row
    return index


def halved(plane: Plane) -> Plane:
    """Return every 2 x 2 pixels as the mean of those that hold a value; 0 where none does."""
    blocks = plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).astype(np.uint32)
    count = (blocks > 0).sum(axis=(1, 3))
    mean = blocks.sum(axis=(1, 3)) / np.maximum(count, 1)
    return np.asarray(np.rint(mean), dtype=np.uint16)


def _levels(shape: tuple[int, int]) -> int:
    """Return how many levels halve the image until it is no more than 512 pixels long."""
    return 1 + max(0, math.ceil(math.log2(max(shape) / _COARSEST_PX)))


def _tiles(predictions: Predictions, index: NDArray[np.int32], level: int) -> Iterator[Plane]:
    """Yield the tiles of one level, channel by channel, so that one plane at a time is in memory."""
    for column, marker in enumerate(predictions.markers):
        grey = np.rint(1 + shades(predictions.values[:, column], marker) * (_FULL - 1)).astype(np.uint16)
        # The last entry is that of -1: no patch.
        plane = np.append(grey, np.uint16(0))[index]
        for _ in range(level):
            plane = halved(plane)
        for top in range(0, plane.shape[0], _TILE_PX):
            for left in range(0, plane.shape[1], _TILE_PX):
                yield plane[top : top + _TILE_PX, left : left + _TILE_PX]


def _description(predictions: Predictions) -> str:
    scales = "; ".join(
        f"{item.marker} {item.scale_low:.3f} to {item.scale_high:.3f} {UNIT}" for item in predictions.markers
    )
    return (
        "Predicted from H&E by a linear probe, not measured. r: Pearson correlation on held-out "
        f"slides with its 95 % interval. {UNIT}: {UNIT_EXPLAINED}. 0: no patch. 1 to {_FULL}: {scales}. "
        f"{predictions.range}"
    )
