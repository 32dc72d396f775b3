"""The two sides of a slide, open, and what the engines see of them first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.errors import StatedError
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.stain import channel_named, nuclear_channel, shows_nuclei
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings
from pipeline.slides.base import Slide
from pipeline.slides.opening import open_side
from pipeline.slides.record import SPOT, SlideRecord
from pipeline.slides.spot_map import SpotMap

_OVERVIEW_MPP = 4.0
_OVERVIEW_SIDE_PX = 4096
_TISSUE_BLUR_UM = 30.0


@dataclass(frozen=True)
class Pair:
    """The two sides of a slide, open.

    Attributes:
        sparse: H&E.
        dense: nuclear channel of the multiplex image.
        channel: its name.
        classes: of a mask: label and name of each class; of gene counts their spots as the one class.
        nuclei: whether the channel shows nuclei; otherwise the map is judged by whatever structures it shows.
        compared: both sides as the engine sitk compares them, where that is not by nuclei.
    """

    sparse: NuclearSource
    dense: NuclearSource
    channel: str
    classes: tuple[tuple[int, str], ...] = ()
    nuclei: bool = True
    compared: tuple[NuclearSource, NuclearSource] | None = None

    @classmethod
    def of(
        cls, sparse: Slide, dense: Slide, mpp: tuple[float, float], wanted: str | None, other: str | None = None
    ) -> Pair:
        """Return the pair of two open slides; a dense RGB image counts as brightfield and shows its own hematoxylin.

        Args:
            sparse: H&E.
            dense: its partner.
            mpp: um per pixel of both.
            wanted: name of the channel that shows nuclei; None finds it by the usual names.
            other: name of any channel that the engine sitk compares; where no channel shows nuclei, it judges too.

        Raises:
            StatedError: if the sparse side is not RGB, a named channel is absent, or `other` is None and none shows
                nuclei.
        """
        if not sparse.header.is_rgb:
            raise StatedError(expected="an RGB image as the sparse side", found=", ".join(sparse.header.channels))
        channels = dense.header.channels
        compared = None
        if other is not None:
            index = channel_named(channels, other)
            compared = NuclearSource(sparse, mpp[0], None, "absorbance"), NuclearSource(dense, mpp[1], index)
            if wanted is None and not dense.header.is_rgb and not shows_nuclei(channels):
                return cls(*compared, channels[index], nuclei=False, compared=compared)
        channel = None if dense.header.is_rgb and wanted is None else nuclear_channel(channels, wanted)
        name = "hematoxylin" if channel is None else channels[channel]
        sides = NuclearSource(sparse, mpp[0], None), NuclearSource(dense, mpp[1], channel)
        return cls(*sides, name, compared=compared)

    def shown_for(self, mode: str) -> Pair:
        """The pair as a mode looks at it: two brightfield neighbours by their tissue, all others by their nuclei."""
        if mode != "serial" or self.dense.channel is not None:
            return self
        shown = replace(self.sparse, shows="tissue"), replace(self.dense, shows="tissue")
        return Pair(*shown, self.channel, compared=self.compared)


@contextmanager
def opened(record: SlideRecord, settings: RegisterSettings) -> Iterator[Pair]:
    """Both sides of a record, open for the time of a `with` block.

    Raises:
        StatedError: if the slide has no dense partner, no nuclear channel, or cannot be read.
    """
    if record.dense is None:
        raise StatedError(slide=record.slide, expected="a slide with a dense partner", found="none in the sheet")
    if record.dense.kind == "counts":
        with open_side(record.sparse, slide=record.slide) as sparse, SpotMap(record.dense) as spots:
            dots = NuclearSource(spots, spots.mpp, None, "labels")
            yield Pair(NuclearSource(sparse, record.sparse.mpp, None), dots, "spots", ((1, SPOT),))
        return
    with (
        open_side(record.sparse, slide=record.slide) as sparse,
        open_side(record.dense, slide=record.slide) as dense,
    ):
        if record.dense.kind == "mask":
            labels = NuclearSource(dense, record.dense.mpp, None, "labels")
            yield Pair(NuclearSource(sparse, record.sparse.mpp, None), labels, "mask", record.dense.classes)
            return
        try:
            mpp = record.sparse.mpp, record.dense.mpp
            pair = Pair.of(sparse, dense, mpp, settings.nuclear_channel, settings.channel)
        except StatedError as error:
            raise StatedError(
                slide=record.slide, file=record.dense.path, expected=error.expected, found=error.found
            ) from None
        yield replace(pair, dense=pair.dense.without_void(_overview_mpp(pair.dense)))


def overview(source: NuclearSource) -> NuclearImage:
    """The whole slide at 4 um per pixel, or as coarse as a large slide asks for."""
    return source.read(_overview_mpp(source))


def _overview_mpp(source: NuclearSource) -> float:
    extent = float((source.extent_um[1] - source.extent_um[0]).max())
    return max(_OVERVIEW_MPP, extent / _OVERVIEW_SIDE_PX)


def tissue_of(overview_image: NuclearImage) -> NuclearImage:
    """The overview with `inside` narrowed to where nuclei are about."""
    blurred = cv2.GaussianBlur(overview_image.values, (0, 0), _TISSUE_BLUR_UM / overview_image.mpp)
    strong = float(np.percentile(blurred[overview_image.inside], 99)) if overview_image.inside.any() else 0.0
    held = overview_image.inside & (blurred > max(0.15 * strong, 1e-3))
    return NuclearImage(overview_image.values, held, overview_image.origin_um, overview_image.mpp)


def centred(pair: Pair) -> Transform:
    """Both slides laid middle on middle: what one has before any registration."""
    shift = pair.dense.extent_um.mean(0) - pair.sparse.extent_um.mean(0)
    return Transform(np.column_stack([np.eye(2), shift]))
