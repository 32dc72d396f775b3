"""BCI: breast cancer H&E with the HER2 IHC of a neighbouring section, registered (Liu and others, arXiv 2204.11425)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipeline.errors import StatedError
from pipeline.tools.datasets.images import check_partners, folder_of, images_in, read_rgb
from pipeline.tools.datasets.patch_set import Pair, PatchSet

SIDE_PX = 1024
LAYOUT = "HE/train, HE/test, IHC/train, IHC/test"
_NAME = re.compile(r"\d+_(train|test)_(0|1\+|2\+|3\+)")


def read_bci(source: Path, mpp: float) -> list[PatchSet]:
    """Return training and test part, each one store; the label is the HER2 level of the slide that an image comes from.

    Slides and patients are not told, so neither part is ever split.

    Args:
        source: the folder with `HE` and `IHC`.
        mpp: um per pixel.

    Raises:
        StatedError: if folders, names or images are not as published.
    """
    return [_part(source, part, mpp) for part in ("train", "test")]


def _part(source: Path, part: str, mpp: float) -> PatchSet:
    sparse = images_in(folder_of(source / "HE" / part, LAYOUT), ".png")
    dense = images_in(folder_of(source / "IHC" / part, LAYOUT), ".png")
    check_partners(sparse, dense, source / "IHC" / part)
    labels = []
    for name, path in sparse.items():
        parsed = _NAME.fullmatch(name)
        if parsed is None or parsed[1] != part:
            raise StatedError(file=path, expected=f"a name like 00001_{part}_2+.png", found=path.name)
        labels.append(parsed[2])
    names = list(sparse)

    def read(number: int) -> Pair:
        ihc = read_rgb(dense[names[number]], SIDE_PX)
        return read_rgb(sparse[names[number]], SIDE_PX), np.ascontiguousarray(ihc.transpose(2, 0, 1))

    return PatchSet(
        name=f"bci-{part}",
        patient=f"bci-{part}",
        side_px=SIDE_PX,
        mpp=mpp,
        kind="brightfield",
        channels=("R", "G", "B"),
        files=tuple(f"HE/{part}/{path.name}" for path in sparse.values()),
        labels=tuple(labels),
        read=read,
        sources=(*sparse.values(), *dense.values()),
    )
