"""Write and read the record that inspect makes of a slide for every later stage: one JSON file per slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.json_file import checked_as, read_json
from pipeline.slides.base import Level

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SideRecord:
    """One image of a slide, sparse or dense, as inspected.

    Attributes:
        path: the file, or the folder of OME-Zarr, relative to the working directory or absolute; or its address.
        reader: `openslide`, `tifffile` or `zarr`, `tiffslide` of one elsewhere; of a table of points what reads it.
        mpp: um per level-0 pixel, never missing here; of a table of points per unit of their positions.
        mpp_source: `file` or `sheet`.
        levels: finest first; none of a table of points.
        channels: names, `("R", "G", "B")`, the markers or the genes.
        dtype: numpy name of the pixel type.
        sha256: hash of the file (of address and state where it lies elsewhere;
            of all files where a slide is several; of metadata and list of chunks of OME-Zarr).
        kind: what the image shows, see `pipeline.slides.kinds`; an H&E is `brightfield`.
        classes: of a mask: label and name of each class; with one channel per class, labels are their numbers from 1.
        bounds_xy: upper-left level-0 pixel of the scanned part, from which QuPath counts; (0, 0) where none is stated.
        image: name or number of the image that the sheet chooses among several of the file; empty: the largest.
        state: of a file elsewhere, its size and version as its server states them; empty of one that is here.
        columns: of a table, those that hold the first of `channels`, under the file's own names; empty: all of it.
    """

    path: str
    reader: str
    mpp: float
    mpp_source: str
    levels: tuple[Level, ...]
    channels: tuple[str, ...]
    dtype: str
    sha256: str
    kind: str
    classes: tuple[tuple[int, str], ...] = ()
    image: str = ""
    bounds_xy: tuple[int, int] = (0, 0)
    columns: tuple[str, ...] = ()
    state: str = ""

    @property
    def size_xy(self) -> tuple[int, int]:
        """Width and height of level 0 in pixels."""
        return self.levels[0].size_xy

    @property
    def extent_um(self) -> tuple[float, float]:
        """Width and height in um."""
        return self.size_xy[0] * self.mpp, self.size_xy[1] * self.mpp


@dataclass(frozen=True)
class SlideRecord:
    """One row of the sheet, inspected.

    Attributes:
        slide: unique name.
        patient: patient ID.
        sparse: the H&E image.
        dense: its multiplex partner, if there is one.
        transform: `` (to be registered), `identity`, or the path of a transform.
    """

    slide: str
    patient: str
    sparse: SideRecord
    dense: SideRecord | None
    transform: str


def to_mapping(record: SlideRecord) -> dict[str, Any]:
    """Return the record as plain JSON values."""
    return {
        "schema": SCHEMA_VERSION,
        "slide": record.slide,
        "patient": record.patient,
        "sparse": _side_mapping(record.sparse),
        "dense": _side_mapping(record.dense) if record.dense else None,
        "transform": record.transform,
    }


def read_record(path: Path) -> SlideRecord:
    """Return the record of an `inspect/{slide}.json`.

    Raises:
        StatedError: if the file is absent or is not such a record.
    """
    try:
        value = read_json(path)
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA_VERSION:
            raise ValueError(f"schema {schema}")
        return checked_as(value, SlideRecord)
    except (OSError, ValueError) as error:
        expected = f"a record of schema {SCHEMA_VERSION}, written by inspect"
        raise StatedError(file=path, expected=expected, found=str(error)) from None


def _side_mapping(side: SideRecord) -> dict[str, Any]:
    return {
        "path": side.path,
        "reader": side.reader,
        "mpp": side.mpp,
        "mpp_source": side.mpp_source,
        "levels": [{"size_xy": list(level.size_xy), "downsample": level.downsample} for level in side.levels],
        "channels": list(side.channels),
        "dtype": side.dtype,
        "sha256": side.sha256,
        "kind": side.kind,
        "classes": [list(item) for item in side.classes],
        "image": side.image,
        "bounds_xy": list(side.bounds_xy),
        "columns": list(side.columns),
        # Only where there is one, so that records of files that are here stay as they were.
        **({"state": side.state} if side.state else {}),
    }
