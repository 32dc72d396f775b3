"""Open the two sides of a slide, and read the overviews from which engines start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.errors import StatedError
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.stain import channel_named, nuclear_channel, shows_nuclei
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings
from pipeline.slides.base import Slide
from pipeline.slides.kinds import kind_named
from pipeline.slides.kinds.base import DenseKind, PointKind
from pipeline.slides.opening import open_side
from pipeline.slides.point_map import PointMap
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.tissue.artefacts import pen_mask
from pipeline.tissue.mask import Overview

_OVERVIEW_MPP = 4.0
_OVERVIEW_SIDE_PX = 4096
_TISSUE_BLUR_UM = 30.0
_SORTED_SIDE_PX = 1024
_MOST_INK = 0.95
_INK_RIM_UM = 24.0
# Of the strongest signal: less in all but one pixel in a hundred means hardly any tissue; the glass is weaker still.
_RARE, _CLEAR = 0.5, 0.15
_TISSUE_MARGIN_UM = 300.0
# Of the area of the largest piece of tissue.
_LEAST_PIECE = 0.15
# Farther than any part of the tissue is looked for away from the rest.
_FIELD_MARGIN_UM = 1500.0


@dataclass(frozen=True)
class Pair:
    """The two sides of a slide, open.

    Attributes:
        sparse: H&E.
        dense: nuclear channel of the multiplex image.
        channel: its name.
        classes: of a mask: label and name of each class; of a table its points as the one class.
        nuclei: whether the channel shows nuclei; otherwise the map is judged by whatever structures it shows.
        compared: both sides as the engine sitk compares them, where that is not by nuclei.
        no_nuclei: of a kind that shows none: the clause that says so.
        legend_title: of the same, heading of the legend of its classes.
    """

    sparse: NuclearSource
    dense: NuclearSource
    channel: str
    classes: tuple[tuple[int, str], ...] = ()
    nuclei: bool = True
    compared: tuple[NuclearSource, NuclearSource] | None = None
    no_nuclei: str = ""
    legend_title: str = ""

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
        """Return the pair as a mode looks at it.

        Two brightfield neighbours by their tissue, all others by their nuclei.
        """
        if mode != "serial" or self.dense.channel is not None:
            return self
        shown = replace(self.sparse, shows="tissue"), replace(self.dense, shows="tissue")
        return Pair(*shown, self.channel, compared=self.compared)


@contextmanager
def opened(record: SlideRecord, settings: RegisterSettings) -> Iterator[Pair]:
    """Return both sides of a record, open for the time of a `with` block.

    Raises:
        StatedError: if the slide has no dense partner, no nuclear channel, or cannot be read.
    """
    if record.dense is None:
        raise StatedError(slide=record.slide, expected="a slide with a dense partner", found="none in the sheet")
    kind = kind_named(record.dense.kind)
    with (
        open_side(record.sparse, slide=record.slide) as sparse,
        _drawn_or_open(record.dense, kind, record.slide) as dense,
    ):
        if not kind.is_registered:
            labels = NuclearSource(dense, dense.header.mpp or record.dense.mpp, None, "labels")
            classes = record.dense.classes or tuple(enumerate(kind.legend(()), start=1))
            sparse_side = NuclearSource(sparse, record.sparse.mpp, None)
            yield Pair(
                sparse_side,
                labels,
                kind.channel,
                classes,
                no_nuclei=kind.words.no_nuclei,
                legend_title=kind.words.legend_title,
            )
            return
        try:
            mpp = record.sparse.mpp, record.dense.mpp
            pair = Pair.of(sparse, dense, mpp, settings.nuclear_channel, settings.channel)
        except StatedError as error:
            raise StatedError(
                slide=record.slide, file=record.dense.path, expected=error.expected, found=error.found
            ) from None
        yield replace(pair, dense=pair.dense.without_void(_overview_mpp(pair.dense)))


def _drawn_or_open(side: SideRecord, kind: DenseKind, slide: str) -> PointMap | Slide:
    """Return the dense image, open; of a table of points a drawing of them."""
    return PointMap(side, kind) if isinstance(kind, PointKind) else open_side(side, slide=slide)


def overview(source: NuclearSource) -> NuclearImage:
    """Return the whole slide at 4 um per pixel, or as coarse as a large slide asks for."""
    return source.read(_overview_mpp(source))


def sparse_overview(source: NuclearSource) -> NuclearImage:
    """Return the overview of an H&E slide with no signal where there is ink: pen, print of a label."""
    rgb, image = source.read_colour(_overview_mpp(source))
    ink = pen_mask(Overview(rgb, image.mpp))
    if not ink.any():
        return image
    side = 2 * round(_INK_RIM_UM / image.mpp) + 1
    ink = cv2.dilate(ink.view(np.uint8), np.ones((side, side), np.uint8)) > 0
    stained = tissue_of(image).inside
    # A stain that passes for ink takes all of the tissue; a pen may take more than a small biopsy.
    if np.count_nonzero(ink & stained) > _MOST_INK * np.count_nonzero(stained):
        return image
    return replace(image, values=np.where(ink, np.float32(0), image.values))


def _overview_mpp(source: NuclearSource) -> float:
    extent = float((source.extent_um[1] - source.extent_um[0]).max())
    return max(_OVERVIEW_MPP, extent / _OVERVIEW_SIDE_PX)


def tissue_of(overview_image: NuclearImage) -> NuclearImage:
    """Return the overview with `inside` narrowed to where nuclei are about."""
    blurred = cv2.GaussianBlur(overview_image.values, (0, 0), _TISSUE_BLUR_UM / overview_image.mpp)
    held = overview_image.inside
    if held.any():
        # A blurred image says the same in every few pixels, and sorting all those of a whole glass takes its time.
        step = max(1, min(held.shape) // _SORTED_SIDE_PX)
        sample = blurred[::step, ::step][held[::step, ::step]]
        sample = sample if sample.size else blurred[held]
        glass, strong, strongest = (float(value) for value in np.percentile(sample, (50, 99, 99.9)))
        least = 0.15 * strong
        # On a whole glass a biopsy is less than one pixel in a hundred, and the glass is not quite clear.
        if strong < _RARE * strongest and glass < _CLEAR * strongest:
            least = glass + 0.15 * (strongest - glass)
        held = held & (blurred > max(least, 1e-3))
    return NuclearImage(overview_image.values, held, overview_image.origin_um, overview_image.mpp)


def without_glass(image: NuclearImage, tissue: NuclearImage | None = None) -> NuclearImage:
    """Return the part of an overview that holds the tissue; all of it where glass is less than half.

    Specks do not widen it: a crumb at the far edge would make the pixels of a search as large as the whole glass does.

    Args:
        image: the overview.
        tissue: of it, where it is known already.
    """
    tissue = tissue or tissue_of(image)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(tissue.inside.view(np.uint8), connectivity=8)
    if count < 2:
        return image
    pieces = boxes[1:]
    pieces = pieces[pieces[:, cv2.CC_STAT_AREA] >= _LEAST_PIECE * pieces[:, cv2.CC_STAT_AREA].max()]
    corner, size = pieces[:, :2], pieces[:, 2:4]
    box = image.to_um(np.stack([corner.min(0), (corner + size).max(0) - 1]))
    part = image.cropped(box, _TISSUE_MARGIN_UM)
    return part if part.inside.size < image.inside.size / 2 else image


def within_glass(tissue: NuclearImage) -> NuclearImage:
    """Return the part of a mask of tissue that holds all of it and a margin; the whole where glass is less than half.

    Args:
        tissue: overview whose `inside` marks tissue.
    """
    rows, columns = np.nonzero(tissue.inside)
    if not len(rows):
        return tissue
    box = tissue.to_um(np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]]))
    part = tissue.cropped(box, _TISSUE_MARGIN_UM)
    return part if part.inside.size < tissue.inside.size / 2 else tissue


def domain_of_map(pair: Pair, affine: Floats, tissue: NuclearImage) -> Floats:
    """Return the box (2, 2) of the sparse slide, in um, over which a field is fitted.

    What an affine map puts on the dense slide, and a wide margin; of that the tissue, where glass is more than half.
    The rest of a whole glass would cost time and memory and say nothing. All of the sparse slide where the map puts
    nothing of it on the dense one.

    Args:
        pair: the open pair.
        affine: (2, 3), sparse um to dense um.
        tissue: coarse sparse image whose `inside` marks tissue.
    """
    low, high = pair.sparse.extent_um
    corners = np.array([[x, y] for x in pair.dense.extent_um[:, 0] for y in pair.dense.extent_um[:, 1]])
    back = (corners - affine[:, 2]) @ np.linalg.inv(affine[:, :2]).T
    box: Floats = np.clip(np.stack([back.min(0) - _FIELD_MARGIN_UM, back.max(0) + _FIELD_MARGIN_UM]), low, high)
    if not (box[1] - box[0] > _FIELD_MARGIN_UM / 2).all():
        return pair.sparse.extent_um
    rows, columns = np.nonzero(tissue.inside)
    points_um = tissue.to_um(np.stack([columns, rows], axis=1))
    points_um = points_um[((points_um >= box[0]) & (points_um <= box[1])).all(axis=1)]
    if not len(points_um):
        return box
    corners = np.stack([points_um.min(0) - _TISSUE_MARGIN_UM, points_um.max(0) + _TISSUE_MARGIN_UM])
    held: Floats = np.clip(corners, box[0], box[1])
    return held if np.prod(held[1] - held[0]) < np.prod(box[1] - box[0]) / 2 else box


def centred(pair: Pair) -> Transform:
    """Return both slides laid middle on middle: what one has before any registration."""
    shift = pair.dense.extent_um.mean(0) - pair.sparse.extent_um.mean(0)
    return Transform(np.column_stack([np.eye(2), shift]))
