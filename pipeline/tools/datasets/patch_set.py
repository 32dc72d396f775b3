"""Define what a reader of a published set returns: images already cut and paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.slides.base import Level
from pipeline.slides.record import SideRecord
from pipeline.tools.datasets.nuclei import Nuclei

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class PatchSet:
    """Paired images of one size, all of one part of a published set; becomes one store.

    Attributes:
        name: of the store; what stands for a slide.
        patient: what a split must keep together: the finest unit that the publisher tells.
        side_px: side of an image.
        mpp: um per pixel, as published.
        kind: of the dense side.
        channels: names of the dense channels.
        classes: of a mask of labels 1, 2, …, their names; empty for anything else.
        files: by image, the file that it comes from, below the source folder.
        labels: by image, the class that the publisher gives it; empty where there is none.
        read: number of an image to its H&E (P, P, 3) and its dense side (C, P, P), both uint8.
        sources: all files that `read` reads.
        nuclei: number of an image to its nuclei, whose most frequent type is a second label; it gives None where
            nothing is known of them. None for sets that have no such label.
        sparse: what the sparse side shows: `he`, or `mask` where it is the dense side once more.
    """

    name: str
    patient: str
    side_px: int
    mpp: float
    kind: str
    channels: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    read: Callable[[int], Pair]
    sources: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    nuclei: Callable[[int], Nuclei | None] | None = None
    sparse: str = "he"

    @property
    def dense(self) -> SideRecord:
        """The dense side as inspect would describe it."""
        return SideRecord(
            path=self.name,
            reader="",
            mpp=self.mpp,
            mpp_source="file",
            levels=(Level((self.side_px, self.side_px), 1.0),),
            channels=self.channels,
            dtype="uint8",
            sha256="",
            kind=self.kind,
            classes=tuple(enumerate(self.classes, start=1)),
        )

    def __len__(self) -> int:
        return len(self.files)
