"""PanNuke: H&E with nuclei of five kinds (Gamper and others, arXiv 2003.10778), in three folds of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.tools.datasets.patch_set import Pair, PatchSet

SIDE_PX = 256
MPP = 0.25
# The sixth channel of the masks is the background.
NUCLEI = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
LAYOUT = "Fold {n}/images/fold{n}/images.npy and types.npy, Fold {n}/masks/fold{n}/masks.npy"
_FOLDS = (1, 2, 3)


def read_pannuke(source: Path) -> list[PatchSet]:
    """Return the folds that are there, each one store; the label is the tissue.

    The dense side is a mask of the kinds of nuclei; where two of them overlap, the first counts.

    Raises:
        StatedError: if folders or arrays are not as published.
    """
    folds = [fold for fold in _FOLDS if (source / f"Fold {fold}").is_dir()]
    if not folds:
        raise StatedError(file=source, expected=LAYOUT, found="no folder Fold 1, Fold 2 or Fold 3")
    return [_fold(source, fold) for fold in folds]


def _fold(source: Path, fold: int) -> PatchSet:
    images_file = source / f"Fold {fold}" / "images" / f"fold{fold}" / "images.npy"
    types_file = images_file.with_name("types.npy")
    masks_file = source / f"Fold {fold}" / "masks" / f"fold{fold}" / "masks.npy"
    images = _array(images_file, 3)
    masks = _array(masks_file, len(NUCLEI) + 1)
    types = _open(types_file)
    if not len(images) == len(masks) == len(types) or types.ndim != 1 or types.dtype.kind != "U":
        raise StatedError(
            file=images_file.parent,
            expected="as many images as masks and names of tissues",
            found=f"{len(images)}, {len(masks)} and {types.shape} of {types.dtype}",
        )

    def read(number: int) -> Pair:
        pixels = np.asarray(images[number])
        # Published as floating point numbers that are whole, 0 to 255.
        wrong = ~((pixels >= 0) & (pixels <= 255))
        if wrong.any():
            found = f"{pixels[wrong][0]:g} in image {number}"
            raise StatedError(file=images_file, expected="pixels of 0 to 255", found=found)
        inside = np.asarray(masks[number])[..., : len(NUCLEI)] > 0
        labels = np.where(inside.any(axis=-1), inside.argmax(axis=-1) + 1, 0)
        return np.rint(pixels).astype(np.uint8), labels.astype(np.uint8)[None]

    return PatchSet(
        name=f"pannuke-fold{fold}",
        patient=f"pannuke-fold{fold}",
        side_px=SIDE_PX,
        mpp=MPP,
        kind="mask",
        channels=("nuclei",),
        classes=NUCLEI,
        files=tuple(f"Fold {fold}/images/fold{fold}/images.npy#{number}" for number in range(len(images))),
        labels=tuple(str(name) for name in types),
        read=read,
        sources=(images_file, masks_file, types_file),
    )


def _array(path: Path, channels: int) -> NDArray[Any]:
    array = _open(path)
    if array.shape[1:] != (SIDE_PX, SIDE_PX, channels) or array.dtype.kind not in "uif":
        expected = f"numbers of shape (N, {SIDE_PX}, {SIDE_PX}, {channels})"
        raise StatedError(file=path, expected=expected, found=f"{array.dtype} of shape {array.shape}")
    return array


def _open(path: Path) -> NDArray[Any]:
    """Return the array, on disk: a fold's images alone are 4 GB."""
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # it never unpickles
    except (OSError, ValueError, EOFError) as error:
        raise StatedError(file=path, expected=f"an array, as in {LAYOUT}", found=str(error)) from None
    return array
