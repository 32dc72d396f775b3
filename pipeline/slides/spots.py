"""Read gene counts at spots from an AnnData file (.h5ad) of spatial transcriptomics.

Read with h5py: anndata allocates what a file states before any limit can be checked, and its import takes 0.7 s more.

Specification: anndata's documentation, "On-disk format": `X` an array, or a group of encoding csr_matrix or csc_matrix;
`var` a dataframe, whose attribute `_index` names the array of gene names; `obsm/spatial` an array, a row per spot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, csr_matrix, vstack

from pipeline.errors import StatedError, reraise_bug
from pipeline.hdf5_file import HDF5_ERRORS
from pipeline.limits import MAX_MARKERS

# Sizes beyond which a file is refused before memory is asked for. A store names the gene of every column.
MAX_SPOTS = 2**24
MAX_NONZERO = 2**27
_MAX_DENSE_VALUES = 2**32
_VALUES_AT_ONCE = 2**22
_LARGEST_COUNT = 2**32 - 1
# Farther than any slide reaches, in pixels or um.
_FARTHEST = 1e8


@dataclass(frozen=True, eq=False)
class Spots:
    """Where counts were taken, and of what.

    Attributes:
        position: (S, 2) float64, x and y of each spot's centre in the file's own unit.
        genes: names, each once.
    """

    position: NDArray[np.float64]
    genes: tuple[str, ...]


def read_spots(path: Path) -> Spots:
    """Return positions and genes of a file, without its counts.

    Raises:
        StatedError: if it is no AnnData file with `X`, `var` and `obsm/spatial` of sizes that belong together, if gene
            names repeat, if a position is not finite or on no slide, or if it is larger than any such file.
    """
    expected = "an AnnData file (.h5ad) with X, var and obsm/spatial"
    try:
        with h5py.File(path) as file:
            missing = [name for name in ("X", "var", "obsm/spatial") if name not in file]
            if missing:
                raise StatedError(file=path, expected=expected, found=f"no {', '.join(missing)}")
            spots, genes = _shape(file["X"])
            if not (0 < spots <= MAX_SPOTS and 0 < genes <= MAX_MARKERS):
                limits = f"1 to {MAX_SPOTS} spots and 1 to {MAX_MARKERS} genes (choose those that vary most)"
                raise StatedError(file=path, expected=limits, found=f"{spots} x {genes}")
            spatial = file["obsm/spatial"]
            if not isinstance(spatial, h5py.Dataset) or spatial.shape != (spots, 2):
                found = str(getattr(spatial, "shape", "a table"))
                raise StatedError(file=path, expected=f"obsm/spatial of shape ({spots}, 2): x, y", found=found)
            position = np.asarray(spatial[...], dtype=np.float64)
            names = _names(file["var"], genes)
    except (AttributeError, *HDF5_ERRORS) as error:
        reraise_bug(error)
        raise StatedError(file=path, expected=expected, found=repr(error)) from None
    checked_places(position, path, "obsm/spatial")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        more = f" and {len(repeated) - 4} others" if len(repeated) > 4 else ""
        found = f"{', '.join(map(repr, repeated[:4]))}{more} more than once"
        raise StatedError(file=path, expected="a different name for each gene in var", found=found)
    return Spots(position, names)


def checked_places(position: NDArray[np.float64], path: Path, where: str) -> None:
    """Refuse places of spots that are not finite, or on no slide.

    Raises:
        StatedError: naming the first.
    """
    near = (np.abs(position) <= _FARTHEST).all(axis=1)
    if not near.all():
        spot = int(np.argmin(near))
        found = f"{position[spot].tolist()} of spot {spot}"
        raise StatedError(file=path, expected=f"finite positions on a slide in {where}", found=found)


def read_counts(path: Path) -> Any:
    """Return the counts of a file that `read_spots` has read: a CSR matrix (S, G) of uint32.

    Raises:
        StatedError: if they cannot be read, if one is negative, no whole number or nan, or if too many are not 0.
    """
    try:
        with h5py.File(path) as file:
            values = file["X"]
            return _of_array(values, path) if isinstance(values, h5py.Dataset) else _of_sparse(values, path)
    except (AttributeError, *HDF5_ERRORS) as error:
        reraise_bug(error)
        raise StatedError(file=path, expected="X as an array, or in CSR or CSC form", found=repr(error)) from None


def _shape(values: Any) -> tuple[int, int]:
    spots, genes = values.shape if isinstance(values, h5py.Dataset) else values.attrs["shape"]
    return int(spots), int(genes)


def _names(var: Any, genes: int) -> tuple[str, ...]:
    names = var[var.attrs["_index"]]
    if isinstance(names, h5py.Group):  # an array of strings of which some may be missing
        names = names["values"]
    if names.shape != (genes,):
        raise ValueError(f"{names.shape} names of {genes} genes")
    return tuple(names.asstr()[...].tolist())


def _of_array(values: h5py.Dataset, path: Path) -> Any:
    if values.size > _MAX_DENSE_VALUES:
        raise StatedError(
            file=path, expected=f"at most {_MAX_DENSE_VALUES} values in X, or CSR", found=str(values.size)
        )
    rows, parts, known = max(1, _VALUES_AT_ONCE // values.shape[1]), [], 0
    for start in range(0, values.shape[0], rows):
        parts.append(csr_matrix(_counts(np.asarray(values[start : start + rows]), path)))
        known += parts[-1].nnz
        _check_nonzero(known, path)
    return vstack(parts, format="csr", dtype=np.uint32)


def _of_sparse(group: h5py.Group, path: Path) -> Any:
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    form = {"csr": csr_matrix, "csc": csc_matrix}[str(kind)[:3]]
    return sparse_counts(form, tuple(group[name] for name in ("data", "indices", "indptr")), _shape(group), path)


def sparse_counts(form: Any, parts: tuple[Any, Any, Any], shape: tuple[int, int], path: Path) -> Any:
    """Return a CSR matrix of uint32 from datasets of a file.

    Args:
        form: csr_matrix or csc_matrix, as they are compressed.
        parts: data, indices, indptr.
        shape: spots, genes.
        path: the file, for errors.

    Raises:
        StatedError: if a value is no count, or too many are not 0.
        ValueError, TypeError: if the parts do not belong together.
    """
    data, indices, indptr = parts
    _check_nonzero(data.size, path)
    rows = shape[0] if form is csr_matrix else shape[1]
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise TypeError(f"indices of {indices.dtype}, indptr of {indptr.dtype}")
    if data.ndim != 1 or indices.shape != data.shape or indptr.shape != (rows + 1,):
        raise ValueError(f"data {data.shape}, indices {indices.shape}, indptr {indptr.shape} for {shape}")
    matrix = form((_counts(data[...], path), indices[...], indptr[...]), shape=shape)
    matrix.check_format(full_check=True)
    return matrix.tocsr()


def _check_nonzero(count: int, path: Path) -> None:
    if count > MAX_NONZERO:
        raise StatedError(file=path, expected=f"at most {MAX_NONZERO} counts in X that are not 0", found=str(count))


def _counts(values: NDArray[Any], path: Path) -> NDArray[np.uint32]:
    """Return the values as whole numbers; logarithms and normalised values, which X often holds, are refused."""
    wrong = np.ones(values.shape, dtype=np.bool_)
    if values.dtype.kind in "fiu":
        wrong = ~((values >= 0) & (values <= _LARGEST_COUNT) & (values == np.floor(values)))
    if wrong.any():
        raise StatedError(
            file=path, expected="raw counts in X: whole numbers of at least 0", found=str(values[wrong].flat[0])
        )
    return values.astype(np.uint32)
