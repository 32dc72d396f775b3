"""ALS-ST: H&E of spinal cord beside the gene counts of spots (Maniatis and others, Science 364:89; GEO GSE120374).

The unpacked archive holds, side by side and compressed or not, for each section the file
`{sample}_stdata_aligned_counts_IDs.txt`, a line per gene and a column `x_y` per spot, its place on the array;
`{sample}_HE.jpg`, cut to the array; and `{sample}.tsv.annotations.tsv`, the region of each spot. Where an array carries
several sections, their counts end in _1, _2, …, and may share the other two. Files, and where spots lie on an image,
are understood as the programs of the set's authors do it, Splotch and Span; the archive itself was not at hand.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from simplejpeg import decode_jpeg, decode_jpeg_header

from pipeline.errors import StatedError
from pipeline.limits import MAX_MARKERS
from pipeline.progress import progress
from pipeline.tools.datasets.spot_set import SpotSet

LAYOUT = "{sample}_stdata_aligned_counts_IDs.txt, {sample}_HE.jpg, {sample}.tsv.annotations.tsv, each also as .gz"
# An image is as wide as 6,200 um, place 1 being its first pixel; from spot to spot are 194 um (Splotch).
IMAGE_WIDTH_UM = 6200.0
PITCH_UM = 194.0
# Genes that fewer of the spots hold are left out, as in the authors' preparation of the counts (Splotch).
LEAST_DETECTED = 0.02

_SAMPLE = r"(?:GSM\d+_)?(?P<chip>[A-Za-z0-9]+)_(?P<well>[A-Z]\d+)(?:_(?P<section>\d+))?"
_COUNTS = re.compile(_SAMPLE + r"_stdata_aligned_counts_IDs\.txt(?:\.gz)?")
_IMAGE = re.compile(_SAMPLE + r"_HE\.jpg(?:\.gz)?")
_REGIONS = re.compile(_SAMPLE + r"\.tsv\.annotations\.tsv(?:\.gz)?")
_PLACE = re.compile(r"(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")
# What pandas and simplejpeg raise on broken contents (ValueError), and gzip on a broken stream.
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error)
_LARGEST_COUNT = 2**32 - 1
_MOST_PIXELS = 2**29
# Of a table with a line per spot the first four columns name it; regions follow.
_COLUMNS_OF_A_SPOT = 4

Place = tuple[float, float]


@dataclass(frozen=True)
class _Sample:
    """What a file name says: the chip, the array on it, and the section where there are several."""

    chip: str
    well: str
    section: str

    @property
    def name(self) -> str:
        return "-".join(filter(None, ("als-st", self.chip.lower(), self.well.lower(), self.section)))

    @property
    def array(self) -> _Sample:
        """The same without the section."""
        return _Sample(self.chip, self.well, "")


def read_als_st(source: Path, mpp: float | None) -> list[SpotSet]:
    """Return one store per section. What a split keeps together is the chip, for files do not tell animals.

    Args:
        source: folder of the unpacked archive.
        mpp: um per pixel of the patches; None takes the median of the images' own, to a thousandth.

    Raises:
        StatedError: if files or their contents are not as published, or too many genes are left.
    """
    counts, images, regions = (_files(source, pattern) for pattern in (_COUNTS, _IMAGE, _REGIONS))
    if not counts:
        raise StatedError(file=source, expected=f"files {LAYOUT}", found="no counts")
    partners: dict[_Sample, Path] = {}
    for sample, path in counts.items():
        image = images.get(sample) or images.get(sample.array)
        if image is None:
            raise StatedError(file=path, expected="an image {sample}_HE.jpg beside it", found="none")
        partners[sample] = image
    own_mpp = {path: IMAGE_WIDTH_UM / _sized(path)[0] for path in dict.fromkeys(partners.values())}
    wanted_mpp = mpp or round(float(np.median(list(own_mpp.values()))), 3)
    genes, spots = _survey(counts)
    sets = []
    for sample, path in counts.items():
        image = partners[sample]
        regions_file = regions.get(sample) or regions.get(sample.array)
        named = read_regions(regions_file) if regions_file else {}
        sets.append(
            SpotSet(
                name=sample.name,
                patient=sample.chip,
                mpp=wanted_mpp,
                image_mpp=own_mpp[image],
                position_um=(np.array(spots[sample], dtype=np.float64) - 1) * PITCH_UM,
                genes=genes,
                labels=tuple(named.get(spot, "") for spot in spots[sample]),
                file=path.name,
                read_image=partial(read_image, image),
                read_counts=partial(_read_selected, path, genes),
                sources=(path, image),
            )
        )
    return sets


def read_counts(path: Path) -> pd.DataFrame:
    """Return the counts of a file, uint32, a row per gene and a column per spot, named by its place.

    Lines of reads that fit several genes (`__ambiguous[…]`) are left out; those of one gene are added up.

    Raises:
        StatedError: if it is no such table, or holds what is not a count.
    """
    expected = "whole counts from 0, a line per gene and a column x_y per spot"
    try:
        table = pd.read_csv(path, sep="\t", index_col=0)
    except _UNREADABLE as error:
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    strange = [name for name in map(str, table.columns) if not _PLACE.fullmatch(name)]
    if strange or table.empty:
        raise StatedError(file=path, expected=expected, found=f"a column {strange[0]!r:.40}" if strange else "none")
    values = table.to_numpy()
    if values.dtype.kind not in "iuf":
        raise StatedError(file=path, expected=expected, found=f"values of type {values.dtype}")
    wrong = ~((values >= 0) & (values == np.floor(values)))
    if wrong.any():
        raise StatedError(file=path, expected=expected, found=f"the value {values[wrong][0]:g}")
    table.index = table.index.astype(str)
    table = table[~table.index.str.contains("ambiguous")].groupby(level=0, sort=True).sum()
    largest = table.to_numpy().max(initial=0)
    if table.empty or largest > _LARGEST_COUNT:
        found = "no gene" if table.empty else f"{largest:.0f}"
        raise StatedError(file=path, expected=f"counts of up to {_LARGEST_COUNT}", found=found)
    return table.astype(np.uint32)


def read_regions(path: Path) -> dict[Place, str]:
    """Return the region of each spot by its place, from a table of 0 and 1.

    Regions are its lines and spots its columns `x_y`, as Span writes them; or spots are its lines, with columns `xPos`
    and `yPos`, and regions the columns from the fifth on.

    Raises:
        StatedError: if it is neither, or gives a spot several regions.
    """
    expected = "regions by spots, 0 or 1, at most one of each spot"
    try:
        table = pd.read_csv(path, sep="\t")
    except _UNREADABLE as error:
        raise StatedError(file=path, expected=expected, found=str(error)) from None
    if {"xPos", "yPos"} <= set(table.columns):
        marks = table.iloc[:, _COLUMNS_OF_A_SPOT:]
        spots = [f"{x}_{y}" for x, y in zip(table["xPos"], table["yPos"], strict=True)]
        names = [str(name) for name in marks.columns]
    else:
        marks = table.iloc[:, 1:].T
        spots = [str(name) for name in marks.index]
        names = [str(name) for name in table.iloc[:, 0]]
    strange = [spot for spot in spots if not _PLACE.fullmatch(spot)]
    values = marks.to_numpy()
    if strange or not names or not np.isin(values, (0, 1)).all() or (values.sum(axis=1) > 1).any():
        found = f"a spot {strange[0]!r:.40}" if strange else "other values, or several regions of a spot"
        raise StatedError(file=path, expected=expected, found=found)
    return {_place(spots[row]): names[column] for row, column in zip(*np.nonzero(values), strict=True)}


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8.

    Raises:
        StatedError: if it is no JPEG, or a damaged one.
    """
    _, data = _sized(path)
    try:
        return np.asarray(decode_jpeg(data, colorspace="RGB"))
    except _UNREADABLE as error:
        raise StatedError(file=path, expected="an intact JPEG image", found=str(error)) from None


def _survey(counts: Mapping[_Sample, Path]) -> tuple[tuple[str, ...], dict[_Sample, list[Place]]]:
    """Return the genes that enough of all spots hold, and the places of each section's spots."""
    detected: pd.Series[int] = pd.Series(dtype=np.int64)
    spots: dict[_Sample, list[Place]] = {}
    for sample, path in progress(counts.items(), label="dataset als-st, genes", unit="sections"):
        table = read_counts(path)
        spots[sample] = [_place(str(name)) for name in table.columns]
        detected = detected.add((table > 0).sum(axis=1), fill_value=0)
    least = LEAST_DETECTED * sum(map(len, spots.values()))
    genes = tuple(sorted(map(str, detected.index[detected >= least])))
    if not 0 < len(genes) <= MAX_MARKERS:
        expected = f"1 to {MAX_MARKERS} genes in {LEAST_DETECTED:.0%} of the spots"
        raise StatedError(file=next(iter(counts.values())).parent, expected=expected, found=str(len(genes)))
    return genes, spots


def _read_selected(path: Path, genes: tuple[str, ...]) -> NDArray[np.uint32]:
    """Return (S, G) uint32; a gene that the file lacks has no counts there."""
    table = read_counts(path).reindex(list(genes), fill_value=0)
    return np.ascontiguousarray(table.to_numpy(dtype=np.uint32).T)


def _files(source: Path, pattern: re.Pattern[str]) -> dict[_Sample, Path]:
    found: dict[_Sample, Path] = {}
    for path in sorted(source.iterdir()):
        named = pattern.fullmatch(path.name)
        if named:
            sample = _Sample(named["chip"], named["well"], named["section"] or "")
            if sample in found:
                raise StatedError(file=path, expected="one such file of a sample", found=f"{found[sample].name}, too")
            found[sample] = path
    return found


def _place(text: str) -> Place:
    # Trailing zeros come and go from file to file.
    x, y = text.split("_")
    return round(float(x), 3), round(float(y), 3)


def _sized(path: Path) -> tuple[int, bytes]:
    """Return width in pixels and bytes of an image, whose pixels are not yet decoded."""
    try:
        data = _bytes(path)
        height, width, *_ = decode_jpeg_header(data)
    except _UNREADABLE as error:
        raise StatedError(file=path, expected="a JPEG image", found=str(error)) from None
    if width * height > _MOST_PIXELS:
        raise StatedError(file=path, expected=f"at most {_MOST_PIXELS} pixels", found=f"{width} x {height}")
    return width, data


def _bytes(path: Path) -> bytes:
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            return stream.read()
    return path.read_bytes()
