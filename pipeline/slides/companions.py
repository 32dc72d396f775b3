"""Find the files that belong to a slide beside the named one, with few looks at the disk and no library.

The Snakefile asks for them as inputs of the stage inspect, for every slide and at every start.
"""

from __future__ import annotations

import html
import os
import re
import struct
from functools import lru_cache
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.slides.dicom_header import dicom_series
from pipeline.slides.tenx_files import is_tenx, tenx_files
from pipeline.slides.zarr_folder import is_zarr, metadata_files

# Endings of files that are slides by themselves, so that they need not be opened.
_ALONE = {
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".scn",
    ".bif",
    ".qptiff",
    ".btf",
    ".czi",
    ".h5ad",
    ".parquet",
    ".csv",
    ".gz",
}
_OME = re.compile(r"\.ome\.(tiff?|btf|tf[28])$", re.IGNORECASE)
_DESCRIPTION = 270
_LARGEST_XML = 32 * 2**20
_SET_FILE = re.compile(rb"<(?:\w+:)?UUID\b[^>]*?\bFileName\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_VMS_FILE = re.compile(
    r"^\s*(?:ImageFile|MapFile|OptimisationFile|MacroImage)\s*(?:\([\d,\s]*\))?\s*=\s*(.+?)\s*$", re.M
)


def slide_files_of(path: Path) -> tuple[Path, ...]:
    """Return a slide's file and all others that belong to it, in a fixed order; of OME-Zarr its metadata files.

    An MRXS slide keeps its pixels in the folder of its name, a VMS or VMU slide in files that it names, an OME-TIFF
    may be one of a set that its XML names, and a DICOM slide is all files of its folder of one series. Of an output
    folder of 10x Genomics, those that counts are read from.
    """
    if path.is_dir() and is_tenx(path):
        try:
            return tenx_files(path).all
        except StatedError:
            # Inspect says what is missing.
            return (path,)
    ending = path.suffix.lower()
    if ending == ".mrxs":
        folder = path.with_suffix("")
        return (path, *sorted(item for item in folder.rglob("*") if item.is_file())) if folder.is_dir() else (path,)
    if ending in (".vms", ".vmu"):
        return (path, *_existing(path, _named_in_vms(path)))
    if _OME.search(path.name):
        return (path, *_existing(path, named_in_ome(path)))
    if ending in _ALONE or not path.is_file():
        return metadata_files(path) if is_zarr(path) else (path,)
    return _dicom_files(path)


def named_in_ome(path: Path) -> tuple[str, ...]:
    """Return the names of files that the XML of an OME-TIFF gives to its planes, each once, in its order."""
    found = (double or single for double, single in _SET_FILE.findall(_description(path)))
    return tuple(dict.fromkeys(html.unescape(name.decode("utf-8", "replace")) for name in found))


def _existing(path: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the other files of these names beside a slide; a name that leads out of its folder is none."""
    inside = [name for name in dict.fromkeys(names) if name and Path(name).name == name and name != path.name]
    return tuple(path.parent / name for name in inside if (path.parent / name).is_file())


def _named_in_vms(path: Path) -> tuple[str, ...]:
    try:
        return tuple(_VMS_FILE.findall(path.read_text(encoding="latin-1")))
    except OSError:
        return ()


def _dicom_files(path: Path) -> tuple[Path, ...]:
    """Return the files of the folder that are of the series of this one, whatever their endings."""
    own = dicom_series(path)
    if not own:
        return (path,)
    series = _series_of_folder(path.parent, path.parent.stat().st_mtime_ns)
    others = sorted(name for name in series if series[name] == own and name != path.name)
    return (path, *(path.parent / name for name in others))


@lru_cache(maxsize=64)
def _series_of_folder(folder: Path, changed: int) -> dict[str, str]:
    """Return the series of each DICOM file of a folder, read once for all slides that lie in it."""
    with os.scandir(folder) as items:
        names = [item.name for item in items if not item.name.startswith(".") and item.is_file()]
    found = {name: dicom_series(folder / name) for name in names if Path(name).suffix.lower() not in _ALONE}
    return {name: series for name, series in found.items() if series}


def _description(path: Path) -> bytes:
    """Return the description of the first directory of a TIFF; empty where there is none that can be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
            order = {b"II": "<", b"MM": ">"}[head[:2]]
            big = struct.unpack(f"{order}H", head[2:4])[0] == 43
            stream.seek(struct.unpack(f"{order}Q", head[8:16])[0] if big else struct.unpack(f"{order}I", head[4:8])[0])
            count = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(8 if big else 2))[0]
            size, form = (20, f"{order}HHQQ") if big else (12, f"{order}HHII")
            entries = stream.read(size * min(count, 4096))
            for at in range(0, len(entries) - size + 1, size):
                tag, _, length, start = struct.unpack(form, entries[at : at + size])
                if tag == _DESCRIPTION and length > (8 if big else 4):
                    stream.seek(start)
                    return stream.read(min(length, _LARGEST_XML))
    except (OSError, KeyError, struct.error):
        return b""
    return b""
