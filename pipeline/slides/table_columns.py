"""Read columns of a table in CSV, Parquet or AnnData; a column is read only when asked for.

pyarrow is imported where a table is read, since all stages import the kinds of dense side and few meet a table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.errors import StatedError, reraise_bug
from pipeline.hdf5_file import HDF5_ERRORS

CSV_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_HEADER_BYTES = 2**20


class Columns(Protocol):
    """The columns of a table.

    Attributes:
        path: the file.
        names: of all columns, in the file's order; they may repeat.
        numeric: those that hold numbers.
    """

    path: Path
    names: tuple[str, ...]
    numeric: tuple[str, ...]

    def numbers(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Return (S,) numbers of a column, NaN where one is missing.

        Raises:
            StatedError: if an entry is no number.
        """

    def categories(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """Return the different texts of a column, and for each row the index of its own; -1 where it is missing."""


def columns_of(path: Path) -> Columns:
    """Return the columns of a table, by the ending of its name.

    Raises:
        StatedError: if there is no such file, its format is not known, or it cannot be read.
    """
    name = path.name.lower()
    if not path.is_file():
        raise StatedError(file=path, expected="a table of cells", found="a folder" if path.is_dir() else "no such file")
    if name.endswith(CSV_ENDINGS):
        return _CsvColumns(path)
    if name.endswith(".parquet"):
        return _ParquetColumns(path)
    if name.endswith(".h5ad"):
        return _AnnDataColumns(path)
    expected = f"a table of cells ({', '.join(CSV_ENDINGS[:3])}, .gz of these, .parquet or .h5ad)"
    raise StatedError(file=path, expected=expected, found=path.suffix or path.name)


@contextmanager
def _reading(path: Path, expected: str) -> Iterator[None]:
    """Turn what the reader of a format raises into one line about the file."""
    try:
        yield
    # Arrow's own errors derive from TypeError and NotImplementedError too; those of our code are raised again.
    except (ValueError, OSError, LookupError, TypeError, NotImplementedError) as error:
        reraise_bug(error)
        raise StatedError(file=path, expected=expected, found=" ".join(str(error).split())) from None


class _CsvColumns:
    """Columns of text, read by arrow with all cores."""

    def __init__(self, path: Path) -> None:
        import pyarrow as arrow
        from pyarrow import csv as arrow_csv

        self.path = path
        delimiter = "\t" if ".tsv" in path.name.lower() or ".txt" in path.name.lower() else ","
        self._parse = arrow_csv.ParseOptions(delimiter=delimiter)
        self._expected = f"a table whose first line names its columns, separated by {delimiter!r}"
        with _reading(path, self._expected):
            with arrow.input_stream(str(path), compression="detect") as stream:
                text = stream.read(_HEADER_BYTES).decode("utf-8-sig", "replace")
            self.names = tuple(name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=delimiter), []))
            # Named here and not by arrow, since names may repeat or carry blanks.
            keys = [str(number) for number in range(len(self.names))]
            self._read = arrow_csv.ReadOptions(column_names=keys, skip_rows=1)
            with arrow_csv.open_csv(path, read_options=self._read, parse_options=self._parse) as stream:
                schema = stream.schema
            types = arrow.types
            numeric = [types.is_floating(item.type) or types.is_integer(item.type) for item in schema]
        self.numeric = tuple(name for name, holds in zip(self.names, numeric, strict=True) if holds)
        self._numbers: Any = None

    def numbers(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        import pyarrow as arrow

        if self._numbers is None:
            # All at once, since whoever wants one wants most of them, and the text is parsed as a whole.
            self._numbers = self._parsed(self.numeric, arrow.float64())
        return _numbers(self._numbers[self._key(name)], self, name, dtype)

    def categories(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        import pyarrow as arrow

        return _categories(self._parsed((name,), arrow.string())[self._key(name)])

    def _key(self, name: str) -> str:
        return str(self.names.index(name))

    def _parsed(self, names: Sequence[str], form: Any) -> Any:
        from pyarrow import csv as arrow_csv

        keys = [self._key(name) for name in names]
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(keys, form), include_columns=keys, strings_can_be_null=True
        )
        with _reading(self.path, "numbers in all rows of a column that begins with numbers"):
            return arrow_csv.read_csv(
                self.path, read_options=self._read, parse_options=self._parse, convert_options=convert
            )


class _ParquetColumns:
    """Columns of a Parquet file."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet, types

        self.path = path
        with _reading(path, "a Parquet file"):
            schema = parquet.read_schema(path)
            # What pandas keeps of its index is none of the table's columns.
            items = [item for item in schema if not item.name.startswith("__index_level_")]
        self.names = tuple(item.name for item in items)
        self.numeric = tuple(item.name for item in items if types.is_floating(item.type) or types.is_integer(item.type))

    def _column(self, name: str) -> Any:
        from pyarrow import parquet

        with _reading(self.path, f"a column {name!r} that can be read"):
            return parquet.read_table(self.path, columns=[name])[name]

    def numbers(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        return _numbers(self._column(name), self, name, dtype)

    def categories(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        return _categories(self._column(name))


class _AnnDataColumns:
    """Markers from `X`, places from `obsm/spatial` as x and y, everything else from `obs`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as file:
            markers = _strings(file["var"][file["var"].attrs["_index"]])
            obs = file["obs"]
            others = [str(name) for name in obs if name not in ("__categories", obs.attrs["_index"])]
            if "obsm/spatial" in file:
                others = ["x", "y", *(name for name in others if name.lower() not in ("x", "y"))]
            values = file["X"]
            shape = values.shape if isinstance(values, h5py.Dataset) else tuple(values.attrs["shape"])
            if int(shape[1]) != len(markers):
                raise StatedError(file=path, expected=f"{len(markers)} columns in X, as in var", found=str(shape))
            numeric = [name for name in others if name in ("x", "y") or _is_numeric(obs.get(name))]
        self._markers = {name: number for number, name in enumerate(markers)}
        self.names = (*markers, *others)
        self.numeric = (*markers, *numeric)
        self._values: NDArray[Any] | None = None

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with h5py.File(self.path) as file:
                yield file
        except (AttributeError, *HDF5_ERRORS) as error:
            reraise_bug(error)
            expected = "an AnnData file (.h5ad) of cells with X, var, obs and obsm/spatial or columns of places in obs"
            raise StatedError(file=self.path, expected=expected, found=repr(error)) from None

    def numbers(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        with self._opened() as file:
            if name in self._markers:
                if self._values is None:
                    self._values = _matrix(file["X"])
                return np.asarray(self._values[:, self._markers[name]], dtype=dtype)
            if name in ("x", "y") and "obsm/spatial" in file:
                return np.asarray(file["obsm/spatial"][:, int(name == "y")], dtype=dtype)
            return np.asarray(file["obs"][name][...], dtype=dtype)

    def categories(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        with self._opened() as file:
            column = file["obs"][name]
            if isinstance(column, h5py.Group) and "categories" in column:
                return _strings(column["categories"]), np.asarray(column["codes"][...], dtype=np.int64)
            texts, index = np.unique(_strings(column), return_inverse=True)
            return texts.tolist(), np.asarray(index, dtype=np.int64)


def _matrix(values: Any) -> NDArray[Any]:
    """Return `X` as an array; sparse ones are of tables with few markers and fit as well."""
    if isinstance(values, h5py.Dataset):
        return np.asarray(values[...])
    from scipy.sparse import csc_matrix, csr_matrix

    form = {"csr": csr_matrix, "csc": csc_matrix}[str(values.attrs["encoding-type"])[:3]]
    parts = tuple(values[name][...] for name in ("data", "indices", "indptr"))
    return np.asarray(form(parts, shape=tuple(values.attrs["shape"])).toarray())


def _is_numeric(column: Any) -> bool:
    return isinstance(column, h5py.Dataset) and column.dtype.kind in "iuf"


def _strings(values: Any) -> list[str]:
    if isinstance(values, h5py.Group):  # strings of which some may be missing
        values = values["values"]
    if values.dtype.kind in "OS":
        return [str(text) for text in values.asstr()[...]]
    return [str(value) for value in values[...]]


def _numbers(column: Any, columns: Columns, name: str, dtype: DTypeLike) -> NDArray[Any]:
    with _reading(columns.path, f"numbers in column {name!r}"):
        return np.asarray(column.to_numpy(), dtype=dtype)


def _categories(column: Any) -> tuple[list[str], NDArray[np.int64]]:
    import pyarrow as arrow

    if not arrow.types.is_dictionary(column.type):
        column = column.cast(arrow.string()).dictionary_encode()
    coded = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    texts = [str(text) for text in coded.dictionary.to_pylist()]
    return texts, np.asarray(coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
