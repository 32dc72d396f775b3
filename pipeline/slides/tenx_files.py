"""Find the files to read in an output folder of 10x Genomics: Xenium, Visium or Visium HD.

The Snakefile asks for them at every start, so that the standard library is all that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StatedError

_XENIUM = "experiment.xenium"
_XENIUM_CELLS = ("cells.parquet", "cells.csv.gz")
# By version of the instrument's software; of a set of files any one leads to the others.
_MORPHOLOGY = ("morphology_focus/*0000*.ome.tif", "morphology_focus.ome.tif", "morphology_mip.ome.tif")
_VISIUM_MATRIX = "*filtered_feature_bc_matrix.h5"
_VISIUM_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_VISIUM_SCALE = "scalefactors_json.json"


@dataclass(frozen=True)
class TenxFiles:
    """The files of a folder that counts are read from.

    Attributes:
        matrix: counts by feature and barcode (HDF5).
        positions: table of barcodes and their places.
        scale: JSON with the size of a pixel.
        is_xenium: whether the barcodes are cells, whose places are in um; otherwise spots or bins, in pixels.
    """

    matrix: Path
    positions: Path
    scale: Path
    is_xenium: bool

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them, in a fixed order."""
        return (self.scale, self.positions, self.matrix)


def is_tenx(folder: Path) -> bool:
    """Return whether a folder looks like an output of Xenium, Visium or Visium HD."""
    return (folder / _XENIUM).is_file() or (folder / "spatial").is_dir() or (folder / "binned_outputs").is_dir()


def tenx_files(folder: Path) -> TenxFiles:
    """Return the files of a folder.

    Raises:
        StatedError: if one is missing, naming it.
    """
    if (folder / _XENIUM).is_file():
        positions = _first(folder, _XENIUM_CELLS)
        return TenxFiles(_first(folder, ("cell_feature_matrix.h5",)), positions, folder / _XENIUM, is_xenium=True)
    bins = sorted(item.name for item in (folder / "binned_outputs").glob("square_*"))
    if bins and not (folder / "spatial" / _VISIUM_SCALE).is_file():
        expected = "one folder of bins of a Visium HD output, below binned_outputs"
        raise StatedError(file=folder, expected=expected, found=f"all of them: {', '.join(bins)}")
    spatial = folder / "spatial"
    return TenxFiles(
        _first(folder, (_VISIUM_MATRIX,)),
        _first(spatial, _VISIUM_POSITIONS),
        _first(spatial, (_VISIUM_SCALE,)),
        is_xenium=False,
    )


def dense_file(path: Path, kind: str) -> Path:
    """Return the file that the dense side is, where the sheet names a Xenium folder: its table of cells or its image.

    Any other path, and a folder whose counts are asked for, comes back as it is.

    Args:
        path: as the sheet names it.
        kind: `dense_kind` of the sheet.

    Raises:
        StatedError: if the folder does not hold it.
    """
    if kind == "counts" or not (path / _XENIUM).is_file():
        return path
    return _first(path, _XENIUM_CELLS if kind == "cells" else _MORPHOLOGY)


def _first(folder: Path, patterns: tuple[str, ...]) -> Path:
    """Return the file of the first pattern that one file has."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(item.name for item in found)
            raise StatedError(file=folder, expected=f"one file {pattern}", found=names)
        if found:
            return found[0]
    raise StatedError(file=folder, expected=f"a file {' or '.join(patterns)}", found="none")
