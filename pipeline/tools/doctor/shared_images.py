"""Find one image under two names: under two patients it leaks between training and held-out tissue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.settings import Settings
from pipeline.sheet import SheetRow
from pipeline.slides.stage import source_digest
from pipeline.slides.zarr_folder import is_zarr
from pipeline.tools.doctor.findings import Finding, problem, warning

# Read of each end of two files of one size, before a comparison that reads them whole.
_END_BYTES = 2**16


def shared_images(rows: Sequence[SheetRow], settings: Settings) -> Iterator[Finding]:
    """Yield a finding for each image that stands in two rows, as the same path or as a copy."""
    for side in ("sparse", "dense"):
        seen: list[tuple[SheetRow, Path]] = []
        for row in rows:
            path = Path(getattr(row, side))
            if not path.is_file() and not is_zarr(path):
                continue
            same = next((earlier for earlier, other in seen if _same_bytes(path, other)), None)
            if same is None:
                seen.append((row, path))
            else:
                yield _finding(side, same, row, settings)


def _finding(side: str, earlier: SheetRow, row: SheetRow, settings: Settings) -> Finding:
    path = getattr(row, side)
    what = "file" if os.path.realpath(getattr(earlier, side)) == os.path.realpath(path) else "bytes"
    what = what if side == "sparse" else f"dense {what}"
    patients = "" if earlier.patient == row.patient else f" of another patient ({earlier.patient})"
    parted = bool(patients) or settings.split.by in ("slide", "block")
    refused = parted and settings.embed.encoder in settings.runs and bool(row.dense and earlier.dense)
    say = problem if refused else warning
    return say(f"slide {row.slide}", f"the same {what} as slide {earlier.slide}{patients}: {path}")


def _same_bytes(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    if one.is_dir() != other.is_dir():
        return False
    if one.is_file() and (one.stat().st_size != other.stat().st_size or _ends(one) != _ends(other)):
        return False
    return source_digest(one) == source_digest(other)


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as stream:
        first = stream.read(_END_BYTES)
        stream.seek(max(0, path.stat().st_size - _END_BYTES))
        return first, stream.read()
