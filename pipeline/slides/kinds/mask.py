"""A mask: which of several classes each pixel is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.sheet import SheetRow
from pipeline.slides.base import SlideHeader
from pipeline.slides.kinds.base import DenseKind, DenseWords, Described, needs_transform
from pipeline.slides.markers import named_channels, named_labels
from pipeline.slides.record import SideRecord

LARGEST_LABEL = {"uint8": 255, "uint16": 65535}
# Stores keep the classes of a mask as labels of 8 bits, of which 0 is none.
MOST_CLASSES = 255


class Mask(DenseKind):
    """Labels, or a channel per class; stores keep labels, and a patch's values are the shares of the classes."""

    name = "mask"
    labels = True
    values_are_shares = True
    channel = "mask"
    words = DenseWords(
        "mask",
        "class",
        "classes",
        "Class shares",
        "the share of each class",
        "the share of the class",
        "Swipe between the H&E and the mask’s classes over it: tissue must change where they do.",
        "Squares alternate between the H&E and the classes; borders must run on.",
        laid_over="classes of the mask over",
        legend_title="classes",
        no_nuclei="a mask shows no nuclei",
        unmeasured="How well a mask lies on its H&E slide was not measured: it shows no nuclei to go by.",
    )

    def contradictions(self, row: SheetRow, header: SlideHeader) -> Iterator[tuple[str, str]]:
        """Yield what was expected and found of an image that holds no labels, or where a transform is missing."""
        count = len(header.channels)
        if header.is_rgb:
            yield "one channel of labels, or one channel per class, for dense_kind is mask", "an RGB image"
        if header.dtype not in LARGEST_LABEL:
            yield f"a mask of {' or '.join(LARGEST_LABEL)}", header.dtype
        if count > MOST_CLASSES:
            yield f"at most {MOST_CLASSES} classes", f"{count} channels"
        yield from needs_transform(row, "a mask")

    def described(self, row: SheetRow, header: SlideHeader) -> Described:
        """Return the classes under their names.

        Raises:
            StatedError: if the labels are not named, or the markers file does not fit.
        """
        markers = Path(row.markers) if row.markers else None
        if len(header.channels) > 1:
            names = named_channels(header.channels, markers, file=header.path)
            return Described(names, tuple(enumerate(names, start=1)))
        if markers is None:
            raise StatedError(
                file=header.path, expected="a markers CSV that names each label of the mask", found="none in the sheet"
            )
        return Described(("label",), named_labels(markers, largest=LARGEST_LABEL[header.dtype], most=MOST_CLASSES))

    def value_names(self, side: SideRecord) -> tuple[str, ...]:
        """Return the classes."""
        return tuple(name for _, name in side.classes)

    def stored_channels(self, values: int) -> int:
        """Return 1: the labels."""
        return 1

    def stored_dtype(self, side: SideRecord) -> str:
        """Return the type of the labels."""
        return "uint8"

    def stored_pixels(self, side: SideRecord, planes: NDArray[Any]) -> NDArray[Any]:
        """Return labels (n, 1, P, P) uint8: i + 1 for class i, 0 for none.

        Raises:
            StatedError: if a label is not named, or a pixel is of several classes.
        """
        if planes.shape[1] > 1:
            marked = planes > 0
            several = int((marked.sum(axis=1) > 1).sum())
            if several:
                found = f"{several} pixels in several channels"
                raise StatedError(file=side.path, expected="a mask of at most one class per pixel", found=found)
            return np.where(marked.any(axis=1), marked.argmax(axis=1) + 1, 0).astype(np.uint8)[:, None]
        number = np.zeros(int(np.iinfo(planes.dtype).max) + 1, dtype=np.uint8)
        known = np.zeros(len(number), dtype=np.bool_)
        known[0] = True
        for index, (label, _) in enumerate(side.classes, start=1):
            number[label], known[label] = index, True
        if not known[planes].all():
            unknown = np.unique(planes[~known[planes]])
            labels = ", ".join(str(label) for label, _ in side.classes)
            raise StatedError(
                file=side.path,
                expected=f"the labels {labels} of the markers CSV, 0 for none",
                found=", ".join(map(str, unknown[:8].tolist())),
            )
        return np.asarray(number[planes])

    def patch_values(self, side: SideRecord, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, classes), the share of each class."""
        counts = [np.bincount(patch.ravel(), minlength=len(side.classes) + 1)[1:] for patch in stored]
        return (np.stack(counts) / np.prod(stored.shape[1:])).astype(np.float32)

    def legend(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return the classes."""
        return tuple(values)

    def beside(self, values: Sequence[str]) -> str:
        """Return the words of an encoder's card."""
        return f"a mask of {', '.join(values)}"
