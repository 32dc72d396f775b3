"""Draw everything of one slide at once, so that its overview is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.report.composite import Ink
from pipeline.report.embedding_maps import Components, patch_colours
from pipeline.report.figure_numbers import MOST_MAP_VALUES, Numbers, map_numbers
from pipeline.report.marker_maps import MarkerMaps, marker_maps
from pipeline.report.mosaic import sparse_picture
from pipeline.report.pairs import PairView, pair_view
from pipeline.report.pictures import Picture, exact, fitted, photograph, reduced
from pipeline.report.results import Results, SlideResults
from pipeline.store.patch_indices import PatchPlaces
from pipeline.tiling.regions import BLUR, EXCLUDED, FOLD, PEN, REGIONS, TISSUE

# The light colours of style.css: f4 to f7.
_REGION_COLOURS = {EXCLUDED: (179, 48, 79), PEN: (31, 120, 180), FOLD: (79, 138, 47), BLUR: (141, 138, 148)}
_CODES = max(REGIONS.values()) + 1
_PALE, _TINT = 0.75, 0.65
_SMALL = 0.6  # maps stand two or three beside each other


@dataclass(frozen=True)
class MapView:
    """The embedding over the H&E of one slide, patch by patch; `outside` is what the caption tells of its range.

    `numbers` are those behind the colours; None of a cohort that has too many.
    """

    slide: str
    patient: str
    overview: Picture
    colours: Picture
    place: str
    outside: str
    trained: bool
    numbers: Numbers | None


@dataclass(frozen=True)
class MarkersView:
    """The predicted markers of one slide, over its H&E; `numbers` as of `MapView`."""

    slide: str
    patient: str
    overview: Picture
    place: str
    maps: MarkerMaps
    trained: bool
    numbers: Numbers | None

    @property
    def measured(self) -> bool:
        """Whether what the dense side shows stands beside the predictions."""
        return any(item.measured for item in self.maps.shown)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the markers that are drawn."""
        return tuple(item.marker for item in self.maps.shown)


@dataclass(frozen=True)
class SlideViews:
    """What is drawn of one slide; None for what there is nothing of."""

    slide: str
    pair: PairView | None
    regions: Picture | None
    embedding: MapView | None
    markers: MarkersView | None


def slide_views(
    slide: SlideResults,
    results: Results,
    components: Components | None,
    side_px: int,
    most_markers: int,
    inks: Sequence[Ink] = (),
) -> SlideViews:
    """Draw one slide.

    Args:
        slide: what there is of it.
        results: of the cohort.
        components: of its embedding; None without one.
        side_px: longest side of the large pictures.
        most_markers: predicted markers that are drawn at most.
        inks: of the markers of its multiplex that are drawn in colour.
    """
    store, most_values = slide.store, MOST_MAP_VALUES // max(1, 2 * len(results.slides))
    if store is None:
        return SlideViews(slide.slide, pair_view(slide, None, side_px), None, None, None)
    trained = slide.patient in results.trained_patients
    small_px = round(side_px * _SMALL)
    overview = reduced(Image.fromarray(store.overview), side_px)
    path = results.features.get(slide.slide)
    colours = patch_colours(slide.slide, path, store, components) if path and components else None
    maps = marker_maps(slide, results, most_markers)
    small = sparse_picture(store, overview, fitted(store.attributes.size_level0_px, small_px))
    thumbnail = photograph(small, small_px) if colours or maps else None
    return SlideViews(
        slide=slide.slide,
        pair=pair_view(slide, overview, side_px, inks, len(results.slides)),
        regions=regions_picture(small, store.overview_regions),
        embedding=MapView(
            slide.slide,
            slide.patient,
            thumbnail,
            exact(colours.rgba),
            placed(colours.places),
            "" if colours.outside is None else f"{colours.outside:.0%}",
            trained,
            map_numbers(f"embedding-map-{slide.slide}", store.table.position_um, _titled(colours.scores), most_values),
        )
        if colours and thumbnail
        else None,
        markers=MarkersView(
            slide.slide,
            slide.patient,
            thumbnail,
            placed(maps.places),
            maps,
            trained,
            map_numbers(f"predicted-map-{slide.slide}", store.table.position_um, maps.values, most_values),
        )
        if maps and thumbnail
        else None,
    )


def _titled(scores: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    return {f"component {number}": column for number, column in enumerate(scores.T.astype(np.float64), 1)}


def placed(places: PatchPlaces) -> str:
    """Return the style by which a picture of one pixel per patch lies over its slide."""
    sides = (("left", places.left), ("top", places.top), ("width", places.width), ("height", places.height))
    return ";".join(f"{side}:{fraction:.3%}" for side, fraction in sides)


def regions_picture(slide: Image.Image, regions: NDArray[np.uint8]) -> Picture:
    """Return the whole slide as a picture, with the codes of its overview, of whatever size, painted over it."""
    codes = Image.fromarray(regions).resize(slide.size, Image.Resampling.NEAREST)
    return photograph(painted(np.asarray(slide), np.asarray(codes)), max(slide.size))


def painted(slide: NDArray[np.uint8], regions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8: the slide, paled or tinted where `regions` (h, w) is not tissue."""
    colour = np.full((_CODES, 3), 255, dtype=np.float32)
    share = np.full(_CODES, _PALE, dtype=np.float32)
    share[TISSUE] = 0
    for region, rgb in _REGION_COLOURS.items():
        colour[region], share[region] = rgb, _TINT
    mixed = slide + share[regions][..., None] * (colour[regions] - slide)
    return np.rint(mixed).astype(np.uint8)
