"""NCT-CRC-HE-100K and CRC-VAL-HE-7K (Kather and others, Zenodo 1214456), with masks that someone made of them.

The set has H&E only. More From Less trained it beside masks of nuclei that its authors did not publish; any folder of
masks with the set's own folders and names will do. The same goes for the types of nuclei, the labels of its second
task.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.tools.datasets.images import check_partners, folder_of, images_in, read_grey, read_rgb
from pipeline.tools.datasets.nuclei import Nuclei, read_nuclei
from pipeline.tools.datasets.patch_set import Pair, PatchSet

PARTS = ("NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM", "CRC-VAL-HE-7K")
CLASSES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
SIDE_PX = 224
MPP = 0.5
LAYOUT = "{part}/{class}/*.tif"
# HoVer-Net's own, where it was told --output_dir {part}/{class}.
TYPES_LAYOUT = "{part}/{class}/json/*.json"


@dataclass(frozen=True)
class _Image:
    """One image: its class, the H&E, the mask, and the file of its nuclei where there is one."""

    label: str
    he: Path
    mask: Path
    nuclei: Path | None


def read_nct_crc(source: Path, masks: Path | None, types: Path | None = None, sparse: str = "he") -> list[PatchSet]:
    """Return the parts that are there, each one store; a part's patients are not told, so none is ever split.

    Args:
        source: folder of `NCT-CRC-HE-100K`, `CRC-VAL-HE-7K` and so on.
        masks: folder of the same with `.png` of one 8-bit channel instead of `.tif`.
        types: folder of the same with HoVer-Net's `json/*.json`; None without types of nuclei.
        sparse: what the sparse side shows, `he`, or `mask`: the mask's channel in R, G and B, as the authors' code
            stacks it.

    Raises:
        StatedError: if folders, names or images are not as published.
    """
    if masks is None:
        raise StatedError(expected="--masks, because NCT-CRC has H&E only", found="none")
    parts = [part for part in PARTS if (source / part).is_dir()]
    if not parts:
        raise StatedError(file=source, expected=f"folders {LAYOUT}, part one of {', '.join(PARTS)}", found="none")
    return [_part(source / part, masks / part, types / part if types else None, sparse) for part in parts]


def _part(folder: Path, masks: Path, types: Path | None, sparse: str) -> PatchSet:
    images, part = _images(folder, masks, types), folder.name

    def read(number: int) -> Pair:
        mask = read_grey(images[number].mask, SIDE_PX)
        return _stacked(mask) if sparse == "mask" else read_rgb(images[number].he, SIDE_PX), mask[None]

    def nuclei(number: int) -> Nuclei | None:
        path = images[number].nuclei
        return read_nuclei(path, SIDE_PX) if path else None

    shown = [(image.label, image.mask if sparse == "mask" else image.he) for image in images]
    return PatchSet(
        name=part.lower(),
        patient=part.lower(),
        side_px=SIDE_PX,
        mpp=MPP,
        kind="fluorescence",
        channels=("mask",),
        files=tuple(f"{part}/{label}/{path.name}" for label, path in shown),
        labels=tuple(image.label for image in images),
        read=read,
        # Types of nuclei reach the table of labels only.
        sources=tuple(
            path for image in images for path in ((image.mask,) if sparse == "mask" else (image.he, image.mask))
        ),
        nuclei=nuclei,
        sparse=sparse,
    )


def _images(folder: Path, masks: Path, types: Path | None) -> list[_Image]:
    strange = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name not in CLASSES)
    if strange:
        raise StatedError(file=folder, expected=f"folders of the classes {', '.join(CLASSES)}", found=strange[0])
    images: list[_Image] = []
    for name in CLASSES:
        here = images_in(folder_of(folder / name, LAYOUT), ".tif")
        there = images_in(folder_of(masks / name, LAYOUT.replace(".tif", ".png")), ".png")
        check_partners(here, there, masks / name)
        nuclei: dict[str, Path] = {}
        if types:
            place = folder_of(types / name / "json", TYPES_LAYOUT)
            nuclei = images_in(place, ".json")
            check_partners(here, nuclei, place, kind="file of types")
        images += [_Image(name, path, there[key], nuclei.get(key)) for key, path in here.items()]
    return images


def _stacked(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(mask[..., None], 3, axis=-1)
