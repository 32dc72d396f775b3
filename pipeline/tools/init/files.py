"""List the slide files below some folders, and what could not be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.slides.companions import slide_files_of
from pipeline.tools.doctor.findings import Finding, warning

_ENDINGS = (
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm", ".tif", ".tiff", ".btf", ".tf2",
    ".tf8", ".qptiff",
)  # fmt: skip
_LIST_ENDINGS = (".txt", ".tsv", ".csv", ".list")


@dataclass
class SlideFiles:
    """What a look at some places brought.

    Attributes:
        files: one file of each slide, in the order of its path, with the place that it was found below.
        findings: what could not be looked at, a line each.
    """

    files: list[tuple[Path, Path]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def slide_files(folders: Sequence[Path]) -> SlideFiles:
    """Return the slide files of folders, of text files that list paths (one a line), and those named themselves.

    Of a slide of several files (DICOM, a set of OME-TIFF) it is the first; a file that several links name comes once.

    Raises:
        StatedError: if one of the places is not there.
    """
    found = SlideFiles()
    seen: set[str] = set()
    for folder, path in _candidates(folders, found.findings):
        if path.is_symlink() and not path.exists():
            found.findings.append(warning(f"file {path}", f"a link to {path.readlink()}, which is not there"))
        elif os.path.realpath(path) not in seen:
            seen.update(os.path.realpath(part) for part in slide_files_of(path))
            found.files.append((path, folder))
    return found


def _candidates(folders: Sequence[Path], findings: list[Finding]) -> Iterator[tuple[Path, Path]]:
    """Yield the place and the path of every file that may be a slide."""
    for folder in folders:
        if folder.is_dir():
            for path in _below(folder, findings):
                yield folder, path
        elif folder.suffix.lower() in _LIST_ENDINGS and folder.is_file():
            yield from _listed(folder, findings)
        elif folder.exists() or folder.is_symlink():
            yield folder.parent, folder
        else:
            raise StatedError(file=folder, expected="a folder of slides, a slide or a list", found="no such file")


def _listed(folder: Path, findings: list[Finding]) -> Iterator[tuple[Path, Path]]:
    try:
        lines = folder.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StatedError(file=folder, expected="a readable list of slides", found=str(error)) from None
    for line in (line.strip() for line in lines):
        if line and not line.startswith("#"):
            path = folder.parent / line
            if path.exists() or path.is_symlink():
                yield folder.parent, path
            else:
                findings.append(warning(f"file {path}", f"listed in {folder}, but not there"))


def _below(folder: Path, findings: list[Finding]) -> Iterator[Path]:
    """Yield the files of a folder and of those in it; hidden ones, and the folders of pixels of MRXS slides, aside."""

    def tell(error: OSError) -> None:
        findings.append(warning(f"folder {error.filename}", f"cannot be read: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=tell):
        pixels = {Path(name).stem for name in names if name.lower().endswith(".mrxs")}
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in pixels)
        for name in sorted(names):
            if name.lower().endswith(_ENDINGS) and not name.startswith("."):
                yield Path(parent, name)
