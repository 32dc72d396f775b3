"""SegPath: H&E beside masks from immunofluorescence of the same section, one cell type per Zenodo record.

Komura and others, Patterns 2023. A record is a folder `{antibody}_{cell type}` of `*_HE.png` and `*_mask.png`, and a
table `{antibody}_fileinfo.csv` with the columns `filename` and `train_val_test`.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import numpy as np

from pipeline.errors import StatedError
from pipeline.tools.datasets.images import check_partners, images_in, read_grey, read_rgb
from pipeline.tools.datasets.patch_set import Pair, PatchSet

SIDE_PX = 984
MPP = 0.220818
PARTS = ("train", "val", "test")
LAYOUT = "{antibody}_{cell type}/*_HE.png, *_mask.png beside {antibody}_fileinfo.csv"
_COLUMNS = ("filename", "train_val_test")


def read_segpath(source: Path, antibody: str | None) -> list[PatchSet]:
    """Return one cell type's training, validation and test part, each one store and never split.

    The masks of two cell types have no class in common, so they cannot train one dense branch.

    Args:
        source: folder of one or several records.
        antibody: which of them; None where there is only one.

    Raises:
        StatedError: if folders, tables, names or images are not as published.
    """
    wanted = f"{antibody or '*'}_fileinfo.csv"
    tables = [table for table in sorted(source.glob("*_fileinfo.csv")) if not antibody or table.name == wanted]
    if not tables:
        raise StatedError(file=source, expected=LAYOUT, found=f"no {wanted}")
    if len(tables) > 1:
        there = ", ".join(table.name.removesuffix("_fileinfo.csv") for table in tables)
        raise StatedError(file=source, expected="--antibody, for a cohort has one cell type", found=there)
    return _record(source, tables[0])


def _record(source: Path, table: Path) -> list[PatchSet]:
    antibody = table.name.removesuffix("_fileinfo.csv")
    folders = sorted(item for item in source.iterdir() if item.name.startswith(f"{antibody}_") and item.is_dir())
    if len(folders) != 1:
        found = ", ".join(item.name for item in folders) or "none"
        raise StatedError(file=source, expected=f"one folder {antibody}_{{cell type}}", found=found)
    folder = folders[0]
    sparse, masks = images_in(folder, "_HE.png"), images_in(folder, "_mask.png")
    check_partners(sparse, masks, folder)
    part_of = _parts(table)
    unknown = sorted(set(sparse) - set(part_of))
    if unknown:
        raise StatedError(file=table, expected="a line for each *_HE.png", found=f"none for {unknown[0]}_HE.png")
    cell_type = folder.name.removeprefix(f"{antibody}_")
    return [
        _part(folder, cell_type, part, [name for name in sparse if part_of[name] == part], sparse, masks)
        for part in PARTS
        if any(part_of[name] == part for name in sparse)
    ]


def _part(
    folder: Path, cell_type: str, part: str, names: list[str], sparse: dict[str, Path], masks: dict[str, Path]
) -> PatchSet:
    def read(number: int) -> Pair:
        mask = read_grey(masks[names[number]], SIDE_PX)
        return read_rgb(sparse[names[number]], SIDE_PX), (mask > 0).astype(np.uint8)[None]

    return PatchSet(
        name=f"segpath-{cell_type.lower()}-{part}",
        patient=f"segpath-{part}",
        side_px=SIDE_PX,
        mpp=MPP,
        kind="mask",
        channels=("mask",),
        classes=(cell_type,),
        files=tuple(f"{folder.name}/{sparse[name].name}" for name in names),
        labels=("",) * len(names),
        read=read,
        sources=tuple(path for name in names for path in (sparse[name], masks[name])),
    )


def _parts(table: Path) -> dict[str, str]:
    """Return part by the name of the H&E image without its ending."""
    try:
        packed = table.read_bytes()[:2] == b"\x1f\x8b"
        # The archive serves the table packed under a name that does not say so.
        with gzip.open(table, "rt", encoding="utf-8") if packed else table.open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise StatedError(file=table, expected="a readable CSV", found=str(error)) from None
    missing = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise StatedError(file=table, expected=f"the columns {', '.join(_COLUMNS)}", found=f"no {missing[0]}")
    short = next((number for number, row in enumerate(rows, 2) if any(row[name] is None for name in _COLUMNS)), None)
    if short:
        found = f"fewer cells in line {short}"
        raise StatedError(file=table, expected=f"{' and '.join(_COLUMNS)} in each line", found=found)
    strange = sorted({row["train_val_test"] for row in rows} - set(PARTS))
    if strange:
        raise StatedError(file=table, expected=f"{', '.join(PARTS)} in train_val_test", found=strange[0])
    named = {Path(row["filename"]).name: row["train_val_test"] for row in rows}
    return {name.removesuffix("_HE.png"): part for name, part in named.items() if name.endswith("_HE.png")}
