"""Compare disk, memory and GPU with what the cohort will need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.settings import Settings
from pipeline.slides.kinds import kind_named
from pipeline.slides.record import SlideRecord
from pipeline.tools.doctor.findings import Finding, ok, problem, warning
from pipeline.tools.doctor.tissue import tissue_share

# What is left of a byte of pixels by zstd after bitshuffle: 0.85 to 0.92 on H&E (the demo, ORION), 0.05 to 0.62 on
# multiplex of 16 bits. The larger ones, since too large an estimate is harmless.
_SPARSE_PACKED, _DENSE_PACKED = 0.92, 0.65
# Features of 2048 float32 per patch, as the widest usual encoders give.
_FEATURE_BYTES = 4 * 2048
_GB = 1e9
# What the largest rules ask of a cluster (resources mem_mb in workflow/rules).
_LARGEST_JOB_BYTES = 6000 * 2**20


def examine_disk(records: Sequence[SlideRecord], settings: Settings, results: Path) -> Iterator[Finding]:
    """Yield the space that stores and features will take, those that are there aside, against what is free."""
    wanted = [record for record in records if not (results / "tile" / f"{record.slide}.zarr").exists()]
    needed = sum(store_bytes(record, settings) for record in wanted)
    existing = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    text = (
        f"{len(wanted)} stores and their features take about {needed / _GB:.3g} GB, {free / _GB:.3g} GB are free "
        f"in {existing}"
    )
    if needed > free:
        yield problem("disk", text)
    elif needed > 0.5 * free:
        yield warning("disk", text)
    else:
        yield ok("disk", text)
    if not os.access(existing, os.W_OK):
        yield problem("disk", f"expected a folder to write to, found {existing}, which is read-only for this user")


def store_bytes(record: SlideRecord, settings: Settings) -> float:
    """Return bytes that the store of a slide and its features will take, rather too many than too few."""
    side, tile = record.sparse, settings.tile
    mpp = side.mpp if tile.mpp == "native" else float(tile.mpp)
    width_um, height_um = side.extent_um
    share = tissue_share(record)
    patches = width_um * height_um / (tile.size_px * mpp) ** 2 * (1.0 if share is None else share)
    pixel = 3 * _SPARSE_PACKED
    if record.dense is not None and kind_named(record.dense.kind).is_image:  # those weigh next to nothing
        pixel += len(record.dense.channels) * np.dtype(record.dense.dtype).itemsize * _DENSE_PACKED
    features = _FEATURE_BYTES * max(1, len(settings.runs))
    return patches * (tile.size_px**2 * pixel + features)


def examine_memory() -> Iterator[Finding]:
    """Yield the memory of this machine against that of the largest job."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    text = f"{total / 2**30:.1f} GiB here; the largest jobs ask for {_LARGEST_JOB_BYTES / 2**30:.1f} GiB each"
    yield ok("memory", text) if total >= _LARGEST_JOB_BYTES else warning("memory", text)


def examine_gpu(settings: Settings) -> Iterator[Finding]:
    """Yield whether there is a GPU; without one a cohort of more than a demo trains for days."""
    try:
        import torch
    except ImportError:
        return
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield ok("gpu", f"{names}; say --resources gpu={torch.cuda.device_count()}")
    else:
        runs = f"{len(settings.runs)} trainings and " if settings.embed.encoder in settings.runs else ""
        yield warning("gpu", f"none on this machine: {runs}the features are computed on {os.cpu_count()} CPU cores")
