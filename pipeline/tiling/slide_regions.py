"""Find the regions of a slide: on its overview, from annotations, or from both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.settings import TileSettings
from pipeline.slides.base import Slide
from pipeline.slides.record import SlideRecord
from pipeline.tiling.annotations import GivenRegions
from pipeline.tiling.regions import GLASS, PEN, TISSUE, Regions, find_regions
from pipeline.tissue.fill import with_white_fill
from pipeline.tissue.focus import blur_mask
from pipeline.tissue.glass import stained, with_white_glass
from pipeline.tissue.mask import Overview, tissue_mask

# Share of the slide taken for tissue from which on this is reported, since glass may be among it.
MOST_TISSUE = 0.95
# Share of annotated tissue that must be darker than glass: dust may be.
LEAST_STAINED = 0.01


def regions_of(
    record: SlideRecord, settings: TileSettings, sparse: Slide, overview: Overview, given: GivenRegions | None
) -> Regions:
    """Return what each part of the slide is: as found, as given, or as found with what is given laid over it."""
    overview = with_white_glass(with_white_fill(overview))
    if given is not None and given.decides_tissue:
        found = np.full(overview.rgb.shape[:2], GLASS, dtype=np.uint8)
    else:
        blur = None
        if "blur" in settings.drop:
            blur = blur_mask(sparse, record.sparse.mpp, overview, tissue_mask(overview))
        found = find_regions(overview, settings.drop, blur)
        share = float(((found != GLASS) & (found != PEN)).mean())
        if share > MOST_TISSUE:
            say(
                f"slide {record.slide}, file {record.sparse.path}: {share:.1%} of the slide taken for tissue; where "
                "glass is among it, annotate the tissue (column tissue of the sheet)"
            )
    if given is None:
        return found
    return given.laid_over(found, overview.mpp, record.sparse.mpp, record.sparse.size_xy)


def check_annotated(record: SlideRecord, overview: Overview, regions: Regions, given: GivenRegions | None) -> None:
    """Refuse annotated tissue that lies on bare glass, as where a file counts from another corner of the slide."""
    if given is None or not given.decides_tissue or not (regions == TISSUE).any():
        return
    mask = stained(with_white_fill(overview))
    if _share_within(mask, regions) >= LEAST_STAINED:
        return
    origin_px, bounds_px = given.origin_px, record.sparse.bounds_xy
    found = f"none within the annotated tissue, counted from {origin_px} px"
    other_px = (0, 0) if any(origin_px) else bounds_px
    if other_px != origin_px:
        moved = given.counted_from(other_px).laid_over(
            np.full_like(regions, GLASS), overview.mpp, record.sparse.mpp, record.sparse.size_xy
        )
        if _share_within(mask, moved) >= LEAST_STAINED:
            crop = "true" if any(other_px) else "false"
            found += f", but some counted from {other_px} px: set tile.qupath_crop to {crop}"
    raise StatedError(slide=record.slide, file=given.path, expected="stained pixels", found=found)


def _share_within(mask: NDArray[np.bool_], regions: Regions) -> float:
    tissue = regions == TISSUE
    return float(mask[tissue].mean()) if tissue.any() else 0.0
