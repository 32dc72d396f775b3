"""What a reader of a published set hands over: images that someone has cut and paired already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class PatchSet:
    """Paired images of one size, all of one part of a published set; becomes one store.

    Attributes:
        name: of the store; what stands for a slide.
        patient: what a split must keep together: the finest unit that the publisher tells.
        side_px: side of an image.
        mpp: um per pixel, as published.
        markers: names of the dense channels.
        files: by image, the file that it comes from, below the source folder.
        labels: by image, the class that the publisher gives it; empty where there is none.
        read: number of an image to its H&E (P, P, 3) and its dense side (C, P, P), both uint8.
        sources: all files that are read.
    """

    name: str
    patient: str
    side_px: int
    mpp: float
    markers: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], Pair]
    sources: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)
