"""Read OME-TIFFs whose planes lie in several files, as of a Xenium run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tifffile import TiffFrame, TiffPage, TiffPageSeries

from pipeline.errors import StatedError
from pipeline.slides.base import Pixels
from pipeline.slides.companions import named_in_ome
from pipeline.slides.tiff_plane import Plane
from pipeline.slides.tiff_segments import SegmentReader
from pipeline.slides.tiff_structure import check_whole


class SegmentSet:
    """Reads planes of all files of a set; safe to read from several threads."""

    def __init__(self, path: Path, slide: str, files: Sequence[Path]) -> None:
        # Absolute names, as tifffile gives them; messages name the slide as the sheet does.
        self._readers = {str(file): SegmentReader(file, slide) for file in files if not file.samefile(path)}
        self._main = SegmentReader(path, slide)

    def paint(self, plane: Plane, target: Pixels, corner_xy: tuple[int, int], samples: Sequence[int]) -> None:
        """Write a window of a plane into `target`; see `SegmentReader.paint`."""
        self._readers.get(plane.file, self._main).paint(plane, target, corner_xy, samples)

    def paint_colours(self, plane: Plane, target: Pixels, corner_xy: tuple[int, int], colours: Sequence[int]) -> None:
        """Write a window of an RGB plane into `target`; see `SegmentReader.paint_colours`."""
        self._readers.get(plane.file, self._main).paint_colours(plane, target, corner_xy, colours)

    def close(self) -> None:
        """Release the files."""
        for reader in (self._main, *self._readers.values()):
            reader.close()


def check_set(path: Path) -> None:
    """Check that the other files of a set, as far as they are there, are whole.

    Raises:
        StatedError: if one is cut off.
    """
    for name in named_in_ome(path):
        file = path.parent / name
        if file.is_file() and not file.samefile(path):
            check_whole(file)


def set_files(series: TiffPageSeries, path: Path) -> list[Path]:
    """Return the files that hold the planes of an image.

    Raises:
        StatedError: if planes are missing, naming the files that should hold them.
    """
    pages = list(series.pages)
    if None in pages:
        named = named_in_ome(path)
        missing = [name for name in named if not (path.parent / name).is_file()]
        if missing:
            raise StatedError(
                file=path,
                expected=f"all {len(named)} files of the OME-TIFF set beside each other",
                found=f"{len(named) - len(missing)}; missing: {', '.join(missing)}",
            )
        there = sum(page is not None for page in pages)
        raise StatedError(file=path, expected=f"{len(pages)} planes", found=f"{there}")
    return files_of(series)


def files_of(series: TiffPageSeries) -> list[Path]:
    """Return the files that the planes of an image lie in, each once."""
    pages = [page for page in series.pages if page is not None]
    return list(dict.fromkeys(Path(page.parent.filehandle.path) for page in pages))


def opened_plane(page: TiffPage | TiffFrame, key: tuple[int, int]) -> Plane:
    """Return the plane of a page whose file tifffile may have closed: to decode its tiles it looks into it once."""
    handle = page.parent.filehandle
    if not handle.closed:
        return Plane.of(page, key)
    handle.open()
    with closing(handle):
        return Plane.of(page, key)
