"""List what a folder of OME-Zarr holds by names of files, without the package zarr: metadata and chunks.

The Snakefile asks for the metadata files at every start, so few folders are looked into for them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.provenance import file_digest

# Of Zarr v3, and of v2.
_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray", ".zmetadata")
# Chunks whose bytes are hashed, and how many bytes of each: shards may be as large as a slide.
_SAMPLED, _SAMPLE_BYTES = 64, 2**20
_CHUNK = re.compile(r"(?:c[/.])?\d+(?:[/.]\d+)*")


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array by the files that lie in it."""
    return any((path / name).is_file() for name in _METADATA)


def metadata_files(path: Path) -> tuple[Path, ...]:
    """Return the metadata files of a group, its images and their levels, in a fixed order.

    Of a group that holds several images, as bioformats2raw writes it, those of all of them.
    """
    found = []
    for folder in (path, *_folders(path)):
        own = [folder / name for name in _METADATA if (folder / name).is_file()]
        found += own
        # A folder of Zarr v2's arrays may hold a million chunks.
        if folder != path and own and not any(file.name == ".zarray" for file in own):
            found += [item / name for item in _folders(folder) for name in _METADATA if (item / name).is_file()]
    return tuple(found)


def folder_digest(path: Path) -> str:
    """Return the SHA-256 of a group: of its metadata, of the name and size of every chunk, and of some chunks' bytes.

    Reading all chunks would take as long as tiling. Some are read, spread over the image, for images that are stored
    without compression have chunks of one size. A change of pixels that keeps the sizes is not surely noticed.
    """
    digest = hashlib.sha256()
    chunks = []
    for file in sorted(_files(path)):
        name = file.relative_to(path).as_posix()
        if file.name in _METADATA or file.suffix == ".xml":
            digest.update(f"{name}\0{file_digest(file)}\n".encode())
        else:
            digest.update(f"{name}\0{file.stat().st_size}\n".encode())
            chunks.append(file)
    for file in chunks[:: -(-len(chunks) // _SAMPLED) or 1]:
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def stored_chunks(array: Path) -> int:
    """Return how many chunks, or shards, of an array are stored."""
    return sum(bool(_CHUNK.fullmatch(file.relative_to(array).as_posix())) for file in _files(array))


def _files(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names if name != ".snakemake_timestamp")


def _folders(path: Path) -> list[Path]:
    with os.scandir(path) as items:
        return sorted(Path(item) for item in items if item.is_dir())
