"""What kind the dense side is of: declared in the sheet, taken from the file only where it leaves no doubt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.sheet import SheetRow
from pipeline.slides.base import SlideHeader
from pipeline.slides.markers import named_channels, named_labels

LARGEST_LABEL = {"uint8": 255, "uint16": 65535}
# Stores keep the classes of a mask as labels of 8 bits, of which 0 is none.
MOST_CLASSES = 255


@dataclass(frozen=True)
class Described:
    """Names of an image's channels and, of a mask, label and name of each class."""

    channels: tuple[str, ...]
    classes: tuple[tuple[int, str], ...]


def described_dense(row: SheetRow, header: SlideHeader) -> Described:
    """Return what the sheet and the file say of the dense side together.

    Raises:
        StatedError: if they contradict each other, if it cannot be told from the file what kind it is, or if a mask
            lacks names of its classes or a transform.
    """
    contradiction = next(_contradictions(row, header), None)
    if contradiction:
        expected, found = contradiction
        raise StatedError(slide=row.slide, file=row.dense, expected=expected, found=found)
    markers = Path(row.markers) if row.markers else None
    try:
        if row.dense_kind != "mask":
            return Described(named_channels(header.channels, markers, file=header.path), ())
        if len(header.channels) > 1:
            names = named_channels(header.channels, markers, file=header.path)
            return Described(names, tuple(enumerate(names, start=1)))
        if markers is None:
            raise StatedError(
                file=header.path, expected="a markers CSV that names each label of the mask", found="none in the sheet"
            )
        return Described(("label",), named_labels(markers, largest=LARGEST_LABEL[header.dtype], most=MOST_CLASSES))
    except StatedError as error:
        raise StatedError(slide=row.slide, file=error.file, expected=error.expected, found=error.found) from None


def described_counts(row: SheetRow, genes: tuple[str, ...]) -> Described:
    """Return the genes under the names that the sheet's markers file gives them.

    Raises:
        StatedError: if there is no transform, or names repeat.
    """
    if not row.transform:
        raise StatedError(
            file=row.dense,
            expected="a transform (identity, or a path) in the sheet, for gene counts cannot be registered",
            found="none",
        )
    return Described(named_channels(genes, Path(row.markers) if row.markers else None, file=Path(row.dense)), ())


def _contradictions(row: SheetRow, header: SlideHeader) -> Iterator[tuple[str, str]]:
    """Yield what was expected and found."""
    kind, count = row.dense_kind, len(header.channels)
    if header.is_rgb and kind == "mask":
        yield "one channel of labels, or one channel per class, for dense_kind is mask", "an RGB image"
    if not header.is_rgb and kind == "brightfield":
        yield "an RGB image, for dense_kind is brightfield", f"{count} channels ({', '.join(header.channels[:4])})"
    if header.is_rgb and header.dtype != "uint8":
        yield "an RGB image of 8 bits, or dense_kind fluorescence, which takes its samples as channels", header.dtype
    if header.is_rgb and row.markers:
        yield "no markers CSV for an RGB image, which is brightfield unless dense_kind is fluorescence", row.markers
    if kind == "mask" and header.dtype not in LARGEST_LABEL:
        yield f"a mask of {' or '.join(LARGEST_LABEL)}", header.dtype
    if kind == "mask" and count > MOST_CLASSES:
        yield f"at most {MOST_CLASSES} classes", f"{count} channels"
    if kind == "mask" and not row.transform:
        yield "a transform (identity, or a path) in the sheet, for a mask cannot be registered", "none"
    unnamed = count == 1 and header.channels[0] == "C0" and not row.markers and header.dtype in LARGEST_LABEL
    if unnamed and not kind:
        yield "dense_kind in the sheet (fluorescence or mask)", "one channel without a name, which could be either"
