"""Define a kind of dense side for all stages, without torch; training's part is `pipeline.training.dense_kinds`.

A kind is one class in a new module. The base class answers for an image with a channel per marker; a kind
overrides what differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.limits import MAX_MARKERS
from pipeline.sheet import SheetRow
from pipeline.slides.base import Shows, SlideHeader
from pipeline.slides.markers import chosen_channels, named_channels
from pipeline.slides.record import SideRecord

# What shows nuclei: one of its channels, the hematoxylin of its colours, or nothing.
Nuclei = Literal["channel", "hematoxylin", "none"]
CHECKERBOARD_OF_STAINS = "Squares alternate between the stains; structures must run on across the borders."


@dataclass(frozen=True)
class DenseWords:
    """Words of the page for one kind of dense side.

    Attributes:
        side: what the dense side is.
        one: what a column of values stands for.
        many: several of them.
        values: what is predicted of a patch.
        each: the same as the object of a sentence.
        scale: what a prediction is counted in standard deviations of.
        overlay: how to read the overlay of register.
        checkerboard: how to read its checkerboard.
        laid_over: of a kind that is not registered: what lies over the H&E in its overlay; empty otherwise.
        legend_title: of such a kind: heading of the overlay's legend.
        no_nuclei: of such a kind: the clause that nothing shows nuclei in it.
        unmeasured: of such a kind: the sentence that nothing measures how well it lies there.
    """

    side: str
    one: str
    many: str
    values: str
    each: str
    scale: str
    overlay: str
    checkerboard: str
    laid_over: str = ""
    legend_title: str = ""
    no_nuclei: str = ""
    unmeasured: str = ""


@dataclass(frozen=True)
class Described:
    """Names of an image's channels and, of a mask, label and name of each class."""

    channels: tuple[str, ...]
    classes: tuple[tuple[int, str], ...] = ()


class DenseKind:
    """A kind of dense side.

    Attributes:
        name: in the sheet, in records and in stores.
        shows: what an image of this kind is opened to show, see `open_slide`.
        nuclei: what shows nuclei; a kind without any is not registered and needs a transform.
        labels: whether pixels are labels, between which nothing is interpolated.
        is_image: whether its file is an image; otherwise the kind is a `PointKind`.
        values_are_shares: whether a patch's values are shares of classes, of which the largest may name its class.
        channel: what `qc.json` calls the channel of a kind without nuclei.
        packages: those that read it, beside those that read slides.
        words: of the page.
    """

    name: str
    shows: Shows = "file"
    nuclei: Nuclei = "none"
    labels = False
    is_image = True
    values_are_shares = False
    channel = ""
    packages: tuple[str, ...] = ()
    words: DenseWords

    @property
    def is_registered(self) -> bool:
        """Whether `register` can align it."""
        return self.nuclei != "none"

    def contradictions(self, row: SheetRow, header: SlideHeader) -> Iterator[tuple[str, str]]:
        """Yield what was expected and found where an image is not of this kind, or the sheet lacks something."""
        yield from ()

    def described(self, row: SheetRow, header: SlideHeader) -> Described:
        """Return what the sheet and an image's header say together.

        Raises:
            StatedError: if the markers file does not fit.
        """
        return Described(named_channels(header.channels, Path(row.markers) if row.markers else None, file=header.path))

    def value_names(self, side: SideRecord) -> tuple[str, ...]:
        """Return the names of the values of a patch."""
        return side.channels

    def stored_channels(self, values: int) -> int:
        """Return the number of channels that a store keeps of a side with that many values."""
        return values

    def stored_size_px(self, size_px: int) -> int:
        """Return the side of a patch that a store keeps beside an H&E patch of `size_px`."""
        return size_px

    def stored_dtype(self, side: SideRecord) -> str:
        """Return the pixel type that a store keeps."""
        return side.dtype

    def stored_pixels(self, side: SideRecord, planes: NDArray[Any]) -> NDArray[Any]:
        """Return what a store keeps of patches (n, C, P, P).

        Raises:
            StatedError: if they hold what this kind cannot.
        """
        return planes

    def patch_values(self, side: SideRecord, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return (n, T) float32, a column per name of `value_names`, of patches (n, C, P, P) as stored."""
        return np.asarray(stored.mean(axis=(2, 3), dtype=np.float64), dtype=np.float32)

    def comparable(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values (n, T) as they are compared between slides and predicted."""
        return values

    def legend(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return what the colours of the overlay mean, of a kind that is laid over the H&E."""
        return ()

    def beside(self, values: Sequence[str]) -> str:
        """Return what an encoder's card says that it was trained beside."""
        return ", ".join(values)


@dataclass(frozen=True, eq=False)
class Points:
    """Where points lie, and of what their values are.

    Attributes:
        position: (S, 2) float64, x and y in the file's own unit.
        names: of the columns of values, each once.
        further: names of values of a patch that are no column.
        notes: what of the file is not taken, a sentence each.
        mpp: um per unit of the places, where the file states it.
        chooses: whether the sheet's markers file chooses columns; otherwise it renames some of all.
    """

    position: NDArray[np.float64]
    names: tuple[str, ...]
    further: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mpp: float | None = None
    chooses: bool = False


@dataclass(frozen=True)
class Chosen:
    """The values of a patch.

    Attributes:
        columns: of the file that are read; empty: all.
        channels: names of the values.
    """

    columns: tuple[str, ...]
    channels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PointTable:
    """Points with their values.

    Attributes:
        position: (S, 2) float64, x and y in the file's own unit.
        values: number of values of a patch.
        combined: takes the indices of the points in a patch and returns its values (T,).
    """

    position: NDArray[np.float64]
    values: int
    combined: Callable[[NDArray[np.int64]], NDArray[Any]]


class PointKind(DenseKind, ABC):
    """A kind whose file is a table of points: a patch has the combined values of those in it, and is no image.

    Attributes:
        reader: what records call the reader.
        dtype: of the values of a patch.
        endings: of files that are tables of this kind and never images.
        point: what one of the points is called, and `points` several.
        unit: what `dense_mpp` is um per unit of.
    """

    is_image = False
    reader: str
    dtype: str
    endings: tuple[str, ...]
    point: str
    points: str
    unit: str

    @abstractmethod
    def read_points(self, path: Path) -> Points:
        """Return where the points of a file lie and the names of its columns, without reading the values.

        Raises:
            StatedError: if the file is not of this kind.
        """

    @abstractmethod
    def read_table(self, path: Path, columns: Sequence[str] = ()) -> PointTable:
        """Return the points of a file with their values.

        Args:
            path: the file.
            columns: those that are read, as `Chosen` has them.

        Raises:
            StatedError: if the file is not of this kind, or a value is not what it can hold.
        """

    def chosen(self, points: Points, markers: Path | None, file: Path) -> Chosen:
        """Return the values of a patch, as the sheet's markers file chooses or renames them.

        Raises:
            StatedError: if that file does not fit, names repeat, or there are too many.
        """
        columns: tuple[str, ...] = ()
        if points.chooses:
            columns, names = chosen_channels(points.names, markers, file=file)
        else:
            names = named_channels(points.names, markers, file=file)
        channels = (*names, *points.further)
        repeated = sorted({name for name in points.further if channels.count(name) > 1})
        if repeated or len(channels) > MAX_MARKERS:
            expected = f"at most {MAX_MARKERS} {self.words.many} of different names (a markers CSV chooses them)"
            raise StatedError(file=file, expected=expected, found=", ".join(repeated) or str(len(channels)))
        return Chosen(columns, channels)

    def stored_size_px(self, size_px: int) -> int:
        """Return 1: a patch is a vector."""
        return 1

    def legend(self, values: Sequence[str]) -> tuple[str, ...]:
        """Return what a dot is."""
        return (self.point,)


def needs_transform(row: SheetRow, what: str) -> Iterator[tuple[str, str]]:
    """Yield what is missing where the sheet gives no transform to a side that cannot be registered."""
    if not row.transform:
        yield f"a transform (identity, or a path) in the sheet, for {what} cannot be registered", "none"
