"""Measure how much of a slide is tissue, where reading its overview takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod

from pipeline.errors import StatedError
from pipeline.slides.opening import open_side
from pipeline.slides.record import SlideRecord
from pipeline.tiling.slide_regions import MOST_TISSUE
from pipeline.tissue.fill import with_white_fill
from pipeline.tissue.glass import with_white_glass
from pipeline.tissue.mask import read_overview, tissue_mask
from pipeline.tools.doctor.findings import Finding, warning

# Overviews of slides with a pyramid cost seconds; a large slide without one would be read as a whole.
_CHEAP_LEVEL_MPP, _CHEAP_PX = 2.0, 2**26


@lru_cache(maxsize=4096)
def tissue_share(record: SlideRecord) -> float | None:
    """Return the part of a slide that tile will find to be tissue; None where a look would cost more than it tells."""
    side = record.sparse
    coarsest = side.levels[-1]
    if side.mpp * coarsest.downsample < _CHEAP_LEVEL_MPP and prod(coarsest.size_xy) > _CHEAP_PX:
        return None
    try:
        with open_side(side, slide=record.slide) as opened:
            overview = with_white_fill(read_overview(opened, side.mpp))
            return float(tissue_mask(with_white_glass(overview)).mean())
    except StatedError:
        # What is wrong with the pixels is for tile to say.
        return None


def examine_tissue(record: SlideRecord) -> Iterator[Finding]:
    """Yield a slide of which nearly all counts as tissue, glass perhaps among it: tile tells it, after hours."""
    share = tissue_share(record)
    if share is not None and share > MOST_TISSUE:
        found = f"{share:.1%} of the slide taken for tissue; where glass is among it, annotate the tissue"
        yield warning(f"slide {record.slide}", f"{found} (column tissue of the sheet)")
