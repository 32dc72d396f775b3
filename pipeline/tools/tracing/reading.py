"""Read the provenance of a result from where its format keeps it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.json_file import read_json

_EXPECTED = "a result of this project, with its provenance in it or beside it"
_META = re.compile(r'<meta name="provenance" content="([^"]*)">')

# Results whose format has no place for it, or is for people: the file beside them that speaks for them.
_SPOKEN_FOR = {
    "transform.h5": "qc.json",
    "overlay.png": "qc.json",
    "checkerboard.png": "qc.json",
    "residual.png": "qc.json",
    "deformation.png": "qc.json",
    "patches.tsv": "split.json",
    "summary.tsv": "details.json",
    "metrics.jsonl": "encoder",
    "curve.png": "encoder",
    "branches.safetensors": "encoder",
    "model.safetensors": "config.json",
    "card.md": "config.json",
    "probe.safetensors": "probe.json",
    "markers.png": "markers.json",
    "markers.ome.tif": "markers.json",
    "tiles.geojson": "markers.json",
}


def spokesman(path: Path) -> Path:
    """Return the file or folder whose provenance is that of `path`; itself where it carries its own.

    Raises:
        StatedError: if `path` is not there.
    """
    if not path.exists():
        raise StatedError(file=path, expected=_EXPECTED, found="no such file or folder")
    if path.suffix == ".geojson" and path.with_suffix(".zarr").is_dir():
        return path.with_suffix(".zarr")
    beside = path.parent / _SPOKEN_FOR.get(path.name, path.name)
    if path.name == "config.json":
        return path.parent
    if beside.name == "config.json":
        return path.parent
    return beside


def read_provenance(path: Path) -> dict[str, Any]:
    """Return the provenance of a result.

    JSON, HTML, HDF5, AnnData or Parquet, a Zarr folder, or that of another result.

    Raises:
        StatedError: if it carries none that can be read.
    """
    try:
        found = _carried(path)
        if not isinstance(found, dict) or not isinstance(found["inputs"], dict) or not isinstance(found["stage"], str):
            raise ValueError("something else than a provenance")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error) or repr(error)) from None
    return found


def _carried(path: Path) -> Any:
    if path.is_dir():
        if (path / "zarr.json").is_file():
            return _json(path / "zarr.json")["attributes"]["provenance"]
        for name in ("probe.json", "markers.json"):
            if (path / name).is_file():
                return _json(path / name)["provenance"]
        return _json(path / "config.json")["more_from_less"]["provenance"]
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json(path)["provenance"]
    if suffix in (".h5", ".hdf5"):
        import h5py

        with h5py.File(path) as file:
            return json.loads(file.attrs["provenance"])
    if suffix == ".parquet":
        import pyarrow.parquet as parquet

        return json.loads((parquet.read_schema(path).metadata or {})[b"provenance"])
    if suffix in (".html", ".htm"):
        found = _META.search(path.read_text(encoding="utf-8"))
        if found is None:
            raise ValueError("a page without a provenance")
        return json.loads(unescape(found[1]))
    raise ValueError(f"a file of kind {suffix or 'without a suffix'}")


def _json(path: Path) -> Any:
    return read_json(path)
