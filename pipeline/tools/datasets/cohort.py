"""Write a published set as a cohort: `results/tile`, `results/dataset` and the sheet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.tools.datasets.als_st import read_als_st
from pipeline.tools.datasets.bci import read_bci
from pipeline.tools.datasets.nct_crc import read_nct_crc
from pipeline.tools.datasets.orion import read_orion
from pipeline.tools.datasets.pannuke import read_pannuke
from pipeline.tools.datasets.patch_set import PatchSet
from pipeline.tools.datasets.segpath import read_segpath
from pipeline.tools.datasets.spot_set import SpotSet, write_spots
from pipeline.tools.datasets.writing import write_files, write_set


@dataclass(frozen=True)
class SetOptions:
    """Options of a set; None where not given.

    Attributes:
        masks: of nct-crc: folder of its masks.
        types: of nct-crc: folder of HoVer-Net's files.
        sparse: of nct-crc: what the sparse side shows, `he` or `mask`.
        mpp: of bci: um per pixel; of als-st: that of the patches.
        antibody: of segpath: whose cell type.
        size_px: side of the patches; None takes the images whole, of als-st 256.
    """

    masks: Path | None = None
    types: Path | None = None
    sparse: str | None = None
    mpp: float | None = None
    antibody: str | None = None
    size_px: int | None = None


def write_cohort(dataset: str, source: Path, out: Path, options: SetOptions) -> None:
    """Write a set below `out`: a store per part, a table of each store's files and labels, and the sheet.

    Args:
        dataset: `nct-crc`, `bci`, `segpath`, `pannuke`, `orion` or `als-st`.
        source: the set as published.
        out: folder of the cohort.
        options: of the set.

    Raises:
        StatedError: if the set is not as published.
    """
    if not source.is_dir():
        raise StatedError(file=source, expected=f"the folder of {dataset}", found="none")
    if dataset == "als-st":
        sections = read_als_st(source, options.mpp)
        for section in sections:
            store, table = _paths(out, section.name)
            write_spots(section, store, table, dataset=dataset, size_px=options.size_px)
        _write_sheet(sections, source, out / "config" / "slides.tsv")
        return
    parts = _read(dataset, source, options)
    # Tables take minutes, stores of all images hours: faults in the files of labels are reported first.
    for part in parts:
        write_files(part, _paths(out, part.name)[1], size_px=options.size_px)
    for part in parts:
        write_set(part, _paths(out, part.name)[0], dataset=dataset, size_px=options.size_px)
    _write_sheet(parts, source, out / "config" / "slides.tsv")


def _paths(out: Path, name: str) -> tuple[Path, Path]:
    """Return the store of a part, and the table of its rows."""
    return out / "results" / "tile" / f"{name}.zarr", out / "results" / "dataset" / f"{name}.tsv"


def _read(dataset: str, source: Path, options: SetOptions) -> list[PatchSet]:
    if dataset == "nct-crc":
        return read_nct_crc(source, options.masks, options.types, options.sparse or "he")
    if dataset == "bci" and options.mpp is not None:
        return read_bci(source, options.mpp)
    if dataset == "segpath":
        return read_segpath(source, options.antibody)
    if dataset == "pannuke":
        return read_pannuke(source)
    if dataset == "orion":
        return read_orion(source)
    raise ValueError(f"no reader for {dataset} with um per pixel {options.mpp}")


def _write_sheet(parts: Sequence[PatchSet | SpotSet], source: Path, path: Path) -> None:
    """Write a row per store; there are no slides behind it, so both sides name the folder of the set."""
    with finished(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        writer.writerow(("slide", "patient", "sparse", "dense", "classes"))
        # A mask has classes to predict; of other sets the labels, if any, are predicted.
        tables = (
            f"results/dataset/{part.name}.tsv" if part.dense.kind != "mask" and any(part.labels) else ""
            for part in parts
        )
        writer.writerows(
            (part.name, part.patient, source, source, table) for part, table in zip(parts, tables, strict=True)
        )
