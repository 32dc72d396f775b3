"""Orion tiles: H&E beside 17-channel immunofluorescence of the same section, as the makers of MIPHEI-ViT cut them.

Balezo and others, arXiv 2505.10294, Zenodo 15340874 (ORIONCRC_dataset_tile_20x), from Lin and others, Nature Cancer
2023. Tables `{train,val,test}_dataframe.csv` name a JPEG in `he` and a TIFF in `if` per tile; `slide_dataframe.csv`
says which case a slide is of. Autofluorescence was subtracted and intensities brought to 8 bits by the makers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray

from pipeline.errors import StatedError, reraise_bug
from pipeline.slides.tiff_plane import BROKEN_TIFF
from pipeline.tools.datasets.images import folder_of, read_rgb, side_of
from pipeline.tools.datasets.patch_set import Pair, PatchSet

MPP = 0.5
PARTS = ("train", "val", "test")
MARKERS = (
    "Hoechst", "CD31", "CD45", "CD68", "CD4", "FOXP3", "CD8a", "CD45RO", "CD20", "PD-L1", "CD3e", "CD163",
    "E-cadherin", "PD-1", "Ki67", "Pan-CK", "SMA",
)  # fmt: skip
LAYOUT = "{train,val,test}_dataframe.csv, slide_dataframe.csv, he/*.jpeg, if/*.tiff"
# What a tile's name ends with: x, y, level, width, height of the part of the slide that it shows.
_PLACE = re.compile(r"_(\d+)_(\d+)_\d+_\d+_\d+\.\w+$")


@dataclass(frozen=True)
class _Tile:
    """One tile: its H&E and fluorescence, and where on the slide it lies, level-0 yx."""

    sparse: Path
    dense: Path
    place_yx: tuple[int, int]


def read_orion(source: Path) -> list[PatchSet]:
    """Return one store per case and part of the publisher's split, in the order of the tables; a case is never split.

    Args:
        source: the unpacked folder.

    Raises:
        StatedError: if tables, names or images are not as published.
    """
    slides = _rows(source / "slide_dataframe.csv", ("in_slide_name", "orion_slide_id"))
    case_of = {slide: case for slide, case in slides}  # noqa: C416 (rows are tuples of any length to mypy)
    folder_of(source / "he", LAYOUT)
    folder_of(source / "if", LAYOUT)
    sets = []
    for part in PARTS:
        table = source / f"{part}_dataframe.csv"
        tiles: dict[str, list[_Tile]] = {}
        for slide, sparse, dense in _rows(table, ("in_slide_name", "image_path", "target_path")):
            if slide not in case_of:
                raise StatedError(file=table, expected="slides of slide_dataframe.csv", found=slide)
            tiles.setdefault(case_of[slide], []).append(_tile(source, table, sparse, dense))
        sets += [_case(source, case, part, found) for case, found in tiles.items()]
    return sets


def _case(source: Path, case: str, part: str, tiles: Sequence[_Tile]) -> PatchSet:
    ordered = sorted(tiles, key=lambda tile: (tile.place_yx, tile.sparse.name))
    side_px = side_of(ordered[0].sparse)

    def read(number: int) -> Pair:
        tile = ordered[number]
        return read_rgb(tile.sparse, side_px), _read_markers(tile.dense, side_px)

    name = re.sub(r"[^a-z0-9_-]", "-", f"orion-{case}-{part}".lower())
    return PatchSet(
        name=name,
        patient=case,
        side_px=side_px,
        mpp=MPP,
        kind="fluorescence",
        channels=MARKERS,
        files=tuple(tile.sparse.relative_to(source).as_posix() for tile in ordered),
        labels=("",) * len(ordered),
        read=read,
        sources=tuple(path for tile in ordered for path in (tile.sparse, tile.dense)),
    )


def _tile(source: Path, table: Path, sparse: str, dense: str) -> _Tile:
    """Return the tables may hold the paths of somebody else's machine: only names count."""
    he, mif = (source / folder / PureWindowsPath(path).name for folder, path in (("he", sparse), ("if", dense)))
    place = _PLACE.search(he.name)
    if place is None or he.stem != mif.stem:
        raise StatedError(
            file=table, expected="he/{slide}_{x}_{y}_{level}_{width}_{height}.jpeg and if/ the same.tiff", found=sparse
        )
    for path in (he, mif):
        if not path.is_file():
            raise StatedError(file=path, expected=f"the tile that {table.name} names", found="no file")
    return _Tile(he, mif, (int(place[2]), int(place[1])))


def _rows(table: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    try:
        found = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise StatedError(file=table, expected=f"a table, as in {LAYOUT}", found=str(error)) from None
    missing = [name for name in columns if name not in found.columns]
    if missing or found.empty:
        problem = f"no {', '.join(missing)}" if missing else "no line"
        raise StatedError(file=table, expected=f"lines with {', '.join(columns)}", found=problem)
    return [tuple(row) for row in found[list(columns)].itertuples(index=False)]


def _read_markers(path: Path, side_px: int) -> NDArray[np.uint8]:
    """Return (17, P, P) uint8."""
    expected = f"{len(MARKERS)} interleaved channels of {side_px} x {side_px} px, uint8"
    try:
        pixels = tifffile.imread(path)
    except BROKEN_TIFF as error:
        reraise_bug(error)
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    if pixels.shape != (side_px, side_px, len(MARKERS)) or pixels.dtype != np.uint8:
        raise StatedError(file=path, expected=expected, found=f"{pixels.shape}, {pixels.dtype}")
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
