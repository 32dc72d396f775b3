"""What a store keeps of the dense side, by its kind: the pixels, and what they tell of a patch in a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb

from pipeline.errors import StatedError
from pipeline.slides.record import SideRecord
from pipeline.store.targets import per_library

# The stains of immunohistochemistry; the third of the matrix, eosin, takes up what is neither.
STAINS = ("hematoxylin", "DAB")
_STAIN_COLUMNS = (0, 2)


def value_names(side: SideRecord) -> tuple[str, ...]:
    """Return names of the values of a patch: markers, stains, classes or genes."""
    if side.kind == "mask":
        return tuple(name for _, name in side.classes)
    return STAINS if side.kind == "brightfield" else side.channels


def stored_channels(side: SideRecord) -> int:
    """Return number of channels that a store keeps."""
    return 1 if side.kind == "mask" else len(side.channels)


def stored_size_px(side: SideRecord, size_px: int) -> int:
    """Return side of a patch of it that a store keeps, of patches of `size_px`."""
    return 1 if side.kind == "counts" else size_px


def stored_dtype(side: SideRecord) -> str:
    """Return pixel type that a store keeps."""
    return "uint8" if side.kind == "mask" else side.dtype


def stored_pixels(side: SideRecord, planes: NDArray[Any]) -> NDArray[Any]:
    """Return what a store keeps of patches (n, C, P, P).

    Of a mask, labels (n, 1, P, P) uint8, i + 1 for class i, 0 for none.

    Raises:
        StatedError: if a mask has a label that is not named, or several classes in one pixel.
    """
    if side.kind != "mask":
        return planes
    if planes.shape[1] > 1:
        marked = planes > 0
        if (marked.sum(axis=1) > 1).any():
            raise StatedError(
                file=side.path, expected="a mask of at most one class per pixel", found="pixels in several channels"
            )
        return np.where(marked.any(axis=1), marked.argmax(axis=1) + 1, 0).astype(np.uint8)[:, None]
    number = np.zeros(int(np.iinfo(planes.dtype).max) + 1, dtype=np.uint8)
    known = np.zeros(len(number), dtype=np.bool_)
    known[0] = True
    for index, (label, _) in enumerate(side.classes, start=1):
        number[label], known[label] = index, True
    if not known[planes].all():
        unknown = np.unique(planes[~known[planes]])
        raise StatedError(
            file=side.path,
            expected=f"the labels {', '.join(str(label) for label, _ in side.classes)} of the markers CSV, 0 for none",
            found=", ".join(map(str, unknown[:8].tolist())),
        )
    return np.asarray(number[planes])


def patch_values(side: SideRecord, stored: NDArray[Any]) -> NDArray[np.float32]:
    """Return (n, T) float32, a column per name of `value_names`, of patches (n, C, P, P) as stored.

    Fluorescence: means in the slide's own units. Brightfield: mean optical densities (of base 10) of the stains
    by colour deconvolution (Ruifrok and Johnston 2001), negative amounts of a pixel as 0. Mask: share of each class.
    Counts: see `per_library`.
    """
    if side.kind == "mask":
        counts = [np.bincount(patch.ravel(), minlength=len(side.classes) + 1)[1:] for patch in stored]
        return (np.stack(counts) / np.prod(stored.shape[1:])).astype(np.float32)
    if side.kind == "brightfield":
        return np.stack([_stain_densities(patch) for patch in stored])
    if side.kind == "counts":
        return per_library(stored)[:, :, 0, 0]
    return np.asarray(stored.mean(axis=(2, 3), dtype=np.float64), dtype=np.float32)


def _stain_densities(rgb_cyx: NDArray[Any]) -> NDArray[np.float32]:
    # One table of logarithms instead of one logarithm per pixel.
    table = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    density = table[rgb_cyx].reshape(3, -1)
    amounts = hed_from_rgb.T[list(_STAIN_COLUMNS)].astype(np.float32) @ density
    return np.asarray(np.maximum(amounts, 0).mean(axis=1), dtype=np.float32)
