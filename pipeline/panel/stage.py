"""Stage panel: measure every channel of a dense slide before training on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import StatedError
from pipeline.panel.block_sums import BlockSums, added, block_sums
from pipeline.panel.dense_level import DenseLevel
from pipeline.panel.findings import autofluorescence_of, checked_markers
from pipeline.panel.measures import measures_of
from pipeline.panel.panel_file import SCHEMA_VERSION, PanelCheck
from pipeline.settings import PanelSettings
from pipeline.slides.record import SlideRecord

CLUSTER = "DASK_SCHEDULER_ADDRESS"
CONNECT_S = 30
# Blocks whose sums are added at a time, so that few of them are kept.
_ADDED_AT_ONCE = 8
# Pixels of the sample by which channels are compared.
_SAMPLE = 300_000


def check_panel(record: SlideRecord, settings: PanelSettings, *, threads: int) -> PanelCheck:
    """Return the measures of a slide's dense side and what is wrong with which channel.

    Of a dense side that is not fluorescence there is nothing to check, and a note says so.

    Args:
        record: the inspected slide.
        settings: of the stage.
        threads: blocks that are read and measured at once, unless a cluster does it.

    Raises:
        StatedError: if the slide has no dense side, its file cannot be read, the settings name an autofluorescence
            channel that it lacks, or the cluster that the environment names cannot be reached.
    """
    side = record.dense
    if side is None:
        raise StatedError(slide=record.slide, expected="a slide with a dense side", found="none")
    if side.kind != "fluorescence":
        note = f"not checked: the dense side is {side.kind}, and the check is about channels of fluorescence"
        return PanelCheck(SCHEMA_VERSION, record.slide, side.kind, note=note)
    autofluorescence = autofluorescence_of(side.channels, settings, record.slide)
    level = DenseLevel.at(side, record.slide, settings.mpp)
    sums = _summed(level, threads)
    measures = measures_of(sums, level.size_xy, side.dtype, level.mpp)
    return PanelCheck(
        SCHEMA_VERSION,
        record.slide,
        side.kind,
        mpp=round(level.mpp, 6),
        imaged=round(measures.imaged, 6),
        autofluorescence=autofluorescence,
        markers=checked_markers(side.channels, measures, side.dtype, autofluorescence, settings),
        correlation=tuple(tuple(round(value, 4) for value in row) for row in measures.correlation.tolist()),
    )


def lines(check: PanelCheck) -> Iterator[str]:
    """Yield what the log says of a slide: each channel that is named and why, or that none is."""
    if check.note:
        yield f"panel {check.slide}: {check.note}"
    for marker in check.named:
        for finding in marker.findings:
            yield f"panel {check.slide}: {marker.marker} is {finding.what}: {finding.message}"
    if check.markers and not check.named:
        yield f"panel {check.slide}: nothing wrong with its {len(check.markers)} channels"


def _summed(level: DenseLevel, threads: int) -> BlockSums:
    """Return the sums of all blocks of a slide, on threads or on the cluster that the environment names."""
    from dask.base import compute
    from dask.delayed import delayed

    array = level.lazy()
    width, height = level.size_xy
    stride = max(1, round((width * height / _SAMPLE) ** 0.5))
    measure = delayed(block_sums, pure=False)
    blocks = array.to_delayed()[0]
    tops, lefts = ([sum(sizes[:index]) for index in range(len(sizes))] for sizes in array.chunks[1:])
    parts: list[Any] = [
        measure(blocks[row, column], (left, top), level, stride)
        for row, top in enumerate(tops)
        for column, left in enumerate(lefts)
    ]
    while len(parts) > 1:
        parts = [
            delayed(added, pure=False)(parts[start : start + _ADDED_AT_ONCE])
            for start in range(0, len(parts), _ADDED_AT_ONCE)
        ]
    with _scheduler(threads) as scheduler:
        (total,) = compute(*parts, **scheduler)
    found: BlockSums = total
    return found


@contextmanager
def _scheduler(threads: int) -> Iterator[dict[str, Any]]:
    """Yield the arguments that tell dask where to compute.

    Raises:
        StatedError: if the environment names a cluster that cannot be reached, or dask.distributed is missing.
    """
    address = os.environ.get(CLUSTER, "")
    if not address:
        yield {"scheduler": "threads", "num_workers": threads}
        return
    expected = f"the dask.distributed cluster that {CLUSTER} names"
    try:
        from dask.distributed import Client
    except ImportError:
        found = "no package distributed (the extra distributed)"
        raise StatedError(file=address, expected=expected, found=found) from None
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise StatedError(file=address, expected=expected, found=str(error)) from None
    with client:
        yield {}
