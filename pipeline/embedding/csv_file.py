"""Write what this project keeps in HDF5 and Parquet as CSV, for programs that read neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from pipeline.embedding.features_file import FeaturesFile
from pipeline.errors import StatedError
from pipeline.provenance import finished


def write_csv(opened: FeaturesFile, out: Path, provenance: dict[str, Any]) -> None:
    """Write a row per patch: slide, x_um, y_um, x_px, y_px, feature_0 to feature_{D - 1}.

    Raises:
        StatedError: if um per pixel is not known.
    """
    del provenance  # A CSV file has no place for it.
    position_um = opened.position_px * opened.level0_mpp()
    fields = [("slide", pa.string()), ("x_um", pa.float64()), ("y_um", pa.float64())]
    fields += [("x_px", pa.int64()), ("y_px", pa.int64())]
    schema = pa.schema(fields + [(f"feature_{number}", pa.float32()) for number in range(opened.width)])
    with finished(out) as temporary, csv.CSVWriter(temporary, schema) as writer:
        for rows, block in opened.blocks():
            columns = [pa.array([opened.slide] * len(block))]
            columns += [pa.array(values) for values in (*position_um[rows].T, *opened.position_px[rows].T)]
            columns += [pa.array(np.ascontiguousarray(values)) for values in block.T]
            writer.write_table(pa.table(columns, schema=schema))


def parquet_to_csv(path: Path, out: Path) -> None:
    """Write every column of a Parquet file; a list of numbers becomes one column per entry, `mean_0`, `mean_1`, ….

    Raises:
        StatedError: if `path` is not a Parquet file, or its lists differ in length from row to row.
    """
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StatedError(file=path, expected="a Parquet file", found=str(error)) from None
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table[name].combine_chunks()
        if not _is_list(values.type):
            columns[name] = values
            continue
        lengths = set(values.value_lengths().to_pylist() if len(values) else [0])
        if len(lengths) != 1 or None in lengths:
            found = f"lengths {json.dumps(sorted(lengths, key=str))}"
            raise StatedError(file=path, expected=f"lists of one length in {name}", found=found)
        entries = values.flatten().to_numpy().reshape(len(values), lengths.pop())
        columns |= {
            f"{name}_{number}": pa.array(np.ascontiguousarray(column)) for number, column in enumerate(entries.T)
        }
    with finished(out) as temporary:
        csv.write_csv(pa.table(columns), temporary)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
