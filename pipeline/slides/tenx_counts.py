"""Read gene counts from an output folder of 10x Genomics: of cells (Xenium), spots (Visium) or bins (Visium HD).

Specification: 10x's pages on the HDF5 feature-barcode matrix (`matrix`: features by barcodes, compressed by barcode),
on Space Ranger's `spatial` folder (`pxl_row_in_fullres`, `pxl_col_in_fullres`; `spot_diameter_fullres` spans 65 um,
Visium HD states `microns_per_pixel`), and on Xenium's `cells.parquet` (um) and `experiment.xenium` (`pixel_size`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from pipeline.errors import StatedError, reraise_bug
from pipeline.hdf5_file import HDF5_ERRORS
from pipeline.json_file import read_json
from pipeline.slides.spots import MAX_SPOTS, checked_places, sparse_counts
from pipeline.slides.tenx_files import TenxFiles, tenx_files

if TYPE_CHECKING:
    # Importing it takes half a second of a processor, which slides of all other kinds need not wait for.
    import pandas as pd

# Others are controls.
_GENES = "Gene Expression"
_SPOT_UM = 65.0
_POSITION_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


@dataclass(frozen=True, eq=False)
class TenxPlaces:
    """Where the barcodes of a folder lie, in the order of its matrix.

    Attributes:
        position: (S, 2) x and y in pixels of the full-resolution image, of Xenium of its morphology image.
        genes: their names; where one repeats with the identifier behind it.
        mpp: um per pixel.
    """

    position: NDArray[np.float64]
    genes: tuple[str, ...]
    mpp: float


def read_tenx_places(folder: Path) -> TenxPlaces:
    """Return places and genes of a folder.

    Raises:
        StatedError: if a file is missing or not as 10x writes it, or a barcode of the matrix has no place.
    """
    import pandas as pd

    files = tenx_files(folder)
    mpp = _mpp(files)
    with _matrix(files.matrix) as matrix:
        barcodes = [str(name) for name in matrix["barcodes"].asstr()[...]]
        genes, _ = _genes(matrix)
    if not 0 < len(barcodes) <= MAX_SPOTS:
        raise StatedError(file=files.matrix, expected=f"1 to {MAX_SPOTS} barcodes", found=str(len(barcodes)))
    table = _place_table(files)
    place = table.index.get_indexer(pd.Index(barcodes)) if table.index.is_unique else np.full(1, -1)
    if (place < 0).any():
        found = f"none for {barcodes[int(np.argmin(place))]!r}" if table.index.is_unique else "some more than once"
        raise StatedError(file=files.positions, expected="one place for each barcode of the matrix", found=found)
    position = table.to_numpy(dtype=np.float64)[place]
    checked_places(position, files.positions, "places")
    return TenxPlaces(position / mpp if files.is_xenium else position, genes, mpp)


def read_tenx_counts(folder: Path, genes: Sequence[str]) -> Any:
    """Return the counts of some genes of a folder, of all where none is named: a CSR matrix (S, G) of uint32.

    Raises:
        StatedError: if they cannot be read, are no counts, or are too many.
    """
    path = tenx_files(folder).matrix
    with _matrix(path) as matrix:
        features, barcodes = (int(side) for side in matrix["shape"][...])
        parts = tuple(matrix[name] for name in ("data", "indices", "indptr"))
        # Compressed by barcode, which is by row once barcodes are rows.
        counts = sparse_counts(csr_matrix, parts, (barcodes, features), path)
        names, columns = _genes(matrix)
    number = dict(zip(names, columns.tolist(), strict=True))
    absent = [gene for gene in genes if gene not in number]
    if absent:
        raise StatedError(
            file=path,
            expected=f"the genes as inspected, with {absent[0]}",
            found=f"{len(names)} genes, none of that name",
        )
    return counts[:, [number[gene] for gene in genes or names]]


def _mpp(files: TenxFiles) -> float:
    keys = "pixel_size" if files.is_xenium else "microns_per_pixel or spot_diameter_fullres"
    try:
        value = read_json(files.scale)
        if files.is_xenium:
            mpp = float(value["pixel_size"])
        elif "microns_per_pixel" in value:
            mpp = float(value["microns_per_pixel"])
        else:
            mpp = _SPOT_UM / float(value["spot_diameter_fullres"])
        if not 0 < mpp < float("inf"):
            raise ValueError(f"{mpp} um per pixel")
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        reraise_bug(error)
        raise StatedError(file=files.scale, expected=f"JSON with {keys}", found=repr(error)) from None
    return mpp


def _place_table(files: TenxFiles) -> pd.DataFrame:
    """Return x and y by barcode."""
    import pandas as pd

    columns = ["x_centroid", "y_centroid"] if files.is_xenium else ["pxl_col_in_fullres", "pxl_row_in_fullres"]
    name = "cell_id" if files.is_xenium else "barcode"
    try:
        if files.positions.suffix == ".parquet":
            table = pd.read_parquet(files.positions, columns=[name, *columns])
        else:
            # Space Ranger before 2.0 wrote no names of columns.
            names = _POSITION_COLUMNS if files.positions.name.endswith("_list.csv") else None
            table = pd.read_csv(files.positions, names=names, usecols=[name, *columns])
        index = [item.decode() if isinstance(item, bytes) else str(item) for item in table[name]]
        return table[columns].astype(np.float64).set_axis(index, axis=0)
    except (OSError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        reraise_bug(error)
        expected = f"a table with {name}, {', '.join(columns)}"
        raise StatedError(file=files.positions, expected=expected, found=" ".join(str(error).split())) from None


@contextmanager
def _matrix(path: Path) -> Iterator[Any]:
    """Return the group of the matrix."""
    try:
        with h5py.File(path) as file:
            yield file["matrix"]
    except (AttributeError, *HDF5_ERRORS) as error:
        reraise_bug(error)
        expected = "a feature-barcode matrix of 10x (HDF5, group matrix with features)"
        raise StatedError(file=path, expected=expected, found=repr(error)) from None


def _genes(matrix: Any) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return names and columns of the genes."""
    features = matrix["features"]
    names, identifiers, types = ([str(x) for x in features[key].asstr()[...]] for key in ("name", "id", "feature_type"))
    columns = [number for number, feature_type in enumerate(types) if feature_type == _GENES]
    if not columns:
        raise ValueError(f"no feature of type {_GENES!r}")
    count = Counter(names[column] for column in columns)
    unique = (names[i] if count[names[i]] == 1 else f"{names[i]} ({identifiers[i]})" for i in columns)
    return tuple(unique), np.array(columns, dtype=np.int64)
