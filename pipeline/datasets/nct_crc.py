"""NCT-CRC-HE-100K and CRC-VAL-HE-7K (Kather and others, Zenodo 1214456), with masks that someone made of them.

The set has H&E only. More From Less trained it beside masks of nuclei that its authors did not publish; any folder of
masks with the set's own folders and names will do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.datasets.images import check_partners, folder_of, images_in, read_grey, read_rgb
from pipeline.datasets.patch_set import Pair, PatchSet
from pipeline.errors import StatedError

PARTS = ("NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM", "CRC-VAL-HE-7K")
CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
SIDE_PX = 224
MPP = 0.5
LAYOUT = "{part}/{class}/*.tif"


def read_nct_crc(source: Path, masks: Path | None) -> list[PatchSet]:
    """The parts that are there, each one store; a part's patients are not told, so none is ever split.

    Args:
        source: folder of `NCT-CRC-HE-100K`, `CRC-VAL-HE-7K` and so on.
        masks: folder of the same with `.png` of one 8-bit channel instead of `.tif`.

    Raises:
        StatedError: if folders, names or images are not as published.
    """
    if masks is None:
        raise StatedError(expected="--masks, because NCT-CRC has H&E only", found="none")
    parts = [part for part in PARTS if (source / part).is_dir()]
    if not parts:
        raise StatedError(file=source, expected=f"folders {LAYOUT}, part one of {', '.join(PARTS)}", found="none")
    return [_part(source / part, masks / part) for part in parts]


def _part(folder: Path, masks: Path) -> PatchSet:
    strange = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name not in CLASSES)
    if strange:
        raise StatedError(file=folder, expected=f"folders of the classes {', '.join(CLASSES)}", found=strange[0])
    pairs: list[tuple[str, Path, Path]] = []
    for name in CLASSES:
        here = images_in(folder_of(folder / name, LAYOUT), ".tif")
        there = images_in(folder_of(masks / name, LAYOUT.replace(".tif", ".png")), ".png")
        check_partners(here, there, masks / name)
        pairs += [(name, path, there[key]) for key, path in here.items()]

    def read(number: int) -> Pair:
        _, sparse, mask = pairs[number]
        return read_rgb(sparse, SIDE_PX), np.asarray(read_grey(mask, SIDE_PX)[None])

    return PatchSet(
        name=folder.name.lower(),
        patient=folder.name.lower(),
        side_px=SIDE_PX,
        mpp=MPP,
        markers=("mask",),
        files=tuple(f"{folder.name}/{label}/{sparse.name}" for label, sparse, _ in pairs),
        labels=tuple(label for label, _, _ in pairs),
        read=read,
        sources=tuple(path for _, *files in pairs for path in files),
    )
