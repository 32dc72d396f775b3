"""Stage inspect: turn a row of the sheet into the record that later stages read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.provenance import file_digest
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.base import Shows, SlideHeader
from pipeline.slides.brightness import is_on_black, is_on_white, sampled_pixels
from pipeline.slides.companions import slide_files_of
from pipeline.slides.kinds import kind_named, point_kinds
from pipeline.slides.kinds.base import DenseKind, Described, PointKind, needs_transform
from pipeline.slides.kinds.mask import LARGEST_LABEL
from pipeline.slides.opening import open_slide
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.slides.tenx_files import dense_file, is_tenx
from pipeline.slides.zarr_folder import folder_digest, is_zarr

MPP_RANGE = (0.05, 50.0)

# Takes one line that the user should know, though nothing fails.
Tell = Callable[[str], None]


def inspect_slide(row: SheetRow, settings: InspectSettings, *, hashed: bool = True, tell: Tell = say) -> SlideRecord:
    """Return the record of a slide: both its images opened, checked and hashed.

    Args:
        row: of the sheet.
        settings: of the stage.
        hashed: False leaves the hashes empty, for a look at slides whose every byte takes hours to read.
        tell: gets each line about what the file states and the record does not take.

    Raises:
        StatedError: if an image cannot be opened or is cut off, if its mpp is unknown or absurd, if the sparse image is
            not RGB of 8 bits, if channel names repeat, or if the dense image is not of the kind that the sheet says,
            could be of several, or lacks what its kind asks for, as names of classes or a transform.
    """
    sparse = _side(row, settings, "sparse", tell, hashed=hashed)
    if (sparse.channels, sparse.dtype) != (("R", "G", "B"), "uint8"):
        found = f"{len(sparse.channels)} channels of {sparse.dtype} ({', '.join(sparse.channels[:4])})"
        expected = "an RGB image of 8 bits on the sparse side"
        if sparse.channels == ("R", "G", "B"):
            expected += " (write it again with 8 bits per colour)"
        elif sparse.dtype == "uint8":
            expected += " (an image that is one has to be written again with the photometric tag RGB)"
        raise StatedError(slide=row.slide, file=row.sparse, expected=expected, found=found)
    needy = [
        name
        for name in ("transform", "dense_mpp", "markers", "dense_kind", "dense_image")
        if getattr(row, name) and not row.dense
    ]
    if needy:
        found = f"{' and '.join(needy)} without one"
        raise StatedError(slide=row.slide, expected="a dense slide", found=found)
    if row.transform not in ("", "identity") and not Path(row.transform).exists():
        raise StatedError(slide=row.slide, file=row.transform, expected="a transform", found="no such file or folder")
    dense = None
    if row.dense:
        table = _point_kind(row)
        if table:
            dense = _points(row, table, settings.mpp_tolerance, tell, hashed=hashed)
        else:
            dense = _side(row, settings, "dense", tell, hashed=hashed)
    return SlideRecord(row.slide, row.patient, sparse, dense, row.transform)


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a slide with all files that belong to it, whichever of them the sheet names.

    Of OME-Zarr that of its metadata and of the list of its chunks; see `folder_digest`.
    """
    if is_zarr(path):
        return folder_digest(path)
    files = slide_files_of(path)
    if len(files) == 1:
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0{file_digest(file)}\n".encode())
    return digest.hexdigest()


def _side(row: SheetRow, settings: InspectSettings, side: str, tell: Tell, *, hashed: bool) -> SideRecord:
    path = Path(row.sparse) if side == "sparse" else _dense_file(row)
    sheet_mpp = row.sparse_mpp if side == "sparse" else row.dense_mpp
    told_kind = "brightfield" if side == "sparse" else row.dense_kind
    image = row.sparse_image if side == "sparse" else row.dense_image
    shows: Shows = kind_named(told_kind).shows if told_kind else "file"
    with open_slide(path, slide=row.slide, image=image, shows=shows) as opened:
        header = opened.header
        for index, level in enumerate(header.levels):
            # One pixel of every plane: a missing codec or plane shows now and not hours later.
            opened.read_region(index, (level.size_xy[0] // 2, level.size_xy[1] // 2), (1, 1))
    for note in header.notes:
        tell(f"slide {row.slide}, file {path}: {note}")
    if side == "sparse" or not row.dense_kind:
        _check_light(row, header, side, image)
    mpp, source = _mpp(header, sheet_mpp, f"{side}_mpp", settings.mpp_tolerance, row.slide, tell)
    kind = kind_named(told_kind or ("brightfield" if header.is_rgb else "fluorescence"))
    described = Described(header.channels) if side == "sparse" else _described(row, header, kind)
    return SideRecord(
        path=str(path),
        reader=header.reader,
        mpp=mpp,
        mpp_source=source,
        levels=header.levels,
        channels=described.channels,
        dtype=header.dtype,
        sha256=source_digest(path) if hashed else "",
        kind=kind.name,
        classes=described.classes,
        image=image,
        bounds_xy=header.bounds_xy,
    )


def _check_light(row: SheetRow, header: SlideHeader, side: str, image: str) -> None:
    """Refuse fluorescence taken for a stain, and a stain stored as planes taken for fluorescence."""
    if len(header.channels) != 3 or header.dtype != "uint8":
        return
    # Without alpha, which would turn dark colours white; a colour table has no other view.
    with open_slide(header.path, slide=row.slide, image=image, levels=header.levels, shows="channels") as opened:
        pixels = sampled_pixels(opened) if len(opened.header.channels) >= 3 else None
    if pixels is None:
        return
    if header.is_rgb and is_on_black(pixels):
        expected = "an H&E image, on bright glass" if side == "sparse" else "dense_kind in the sheet"
        found = "an RGB image on black: fluorescence?"
        if side == "dense":
            expected += " (fluorescence takes the colours as channels, brightfield as a stain)"
        raise StatedError(slide=row.slide, file=header.path, expected=expected, found=found)
    if not header.is_rgb and is_on_white(pixels):
        with open_slide(header.path, slide=row.slide, image=image, levels=header.levels, shows="colours") as opened:
            is_either = opened.header.is_rgb
        if is_either:
            raise StatedError(
                slide=row.slide,
                file=header.path,
                expected="dense_kind in the sheet (brightfield or fluorescence)",
                found=f"three bright channels without markers ({', '.join(header.channels)}), which could be either",
            )


def _described(row: SheetRow, header: SlideHeader, kind: DenseKind) -> Described:
    """Return what the sheet and the file say of the dense image together.

    Raises:
        StatedError: if they contradict each other, or the file does not show which kind it is.
    """
    for expected, found in (*kind.contradictions(row, header), *_undeclared(row, header)):
        raise StatedError(slide=row.slide, file=row.dense, expected=expected, found=found)
    try:
        return kind.described(row, header)
    except StatedError as error:
        raise StatedError(slide=row.slide, file=error.file, expected=error.expected, found=error.found) from None


def _undeclared(row: SheetRow, header: SlideHeader) -> Iterator[tuple[str, str]]:
    unnamed = header.channels == ("C0",) and not row.markers and header.dtype in LARGEST_LABEL
    if unnamed and not row.dense_kind:
        yield "dense_kind in the sheet (fluorescence or mask)", "one channel without a name, which could be either"


def _point_kind(row: SheetRow) -> PointKind | None:
    """Return what kind of table the dense side is; None where it is an image.

    Raises:
        StatedError: if the file is a table and the sheet does not say of what.
    """
    declared = kind_named(row.dense_kind) if row.dense_kind else None
    if declared is None and Path(row.dense).is_dir() and is_tenx(Path(row.dense)):
        expected = "dense_kind in the sheet, for a folder of Xenium or Visium (counts; of Xenium fluorescence or cells)"
        raise StatedError(slide=row.slide, file=row.dense, expected=expected, found="none")
    if isinstance(declared, PointKind):
        return declared
    name = Path(row.dense).name.lower()
    possible = [kind.name for kind in point_kinds() if name.endswith(kind.endings)]
    if possible:
        raise StatedError(
            slide=row.slide,
            file=row.dense,
            expected=f"dense_kind {' or '.join(possible)} in the sheet, for a table",
            found=row.dense_kind or "none",
        )
    return None


def _dense_file(row: SheetRow) -> Path:
    """Return the file of the dense side, which the sheet may name by its folder."""
    try:
        return dense_file(Path(row.dense), row.dense_kind)
    except StatedError as error:
        raise StatedError(slide=row.slide, file=error.file, expected=error.expected, found=error.found) from None


def _points(row: SheetRow, kind: PointKind, tolerance: float, tell: Tell, *, hashed: bool) -> SideRecord:
    """Return the record of a table of points; without a hash their values are not looked at either."""
    path = _dense_file(row)
    try:
        for expected, found in needs_transform(row, kind.words.side):
            raise StatedError(file=path, expected=expected, found=found)
        points = kind.read_points(path)
        mpp = row.dense_mpp or points.mpp
        if mpp is None:
            expected = f"dense_mpp in the sheet, um per unit of {kind.unit}: 1 where it is in um"
            raise StatedError(file=path, expected=expected, found="none")
        if not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
            raise StatedError(file=path, expected=f"0.05 to 50 um per unit of {kind.unit}", found=f"{mpp:g}")
        chosen = kind.chosen(points, Path(row.markers) if row.markers else None, path)
        if hashed:
            kind.read_table(path, chosen.columns)
    except StatedError as error:
        raise StatedError(slide=row.slide, file=error.file, expected=error.expected, found=error.found) from None
    if points.mpp and row.dense_mpp and abs(row.dense_mpp - points.mpp) > tolerance * points.mpp:
        tell(f"slide {row.slide}, file {path}: {points.mpp:.6g} um/px in the file; takes dense_mpp {row.dense_mpp:g}")
    for note in points.notes:
        tell(f"slide {row.slide}, file {path}: {note}")
    return SideRecord(
        path=str(path),
        reader=kind.reader,
        mpp=mpp,
        mpp_source="sheet" if row.dense_mpp else "file",
        levels=(),
        channels=chosen.channels,
        dtype=kind.dtype,
        sha256=source_digest(path) if hashed else "",
        kind=kind.name,
        columns=chosen.columns,
    )


def _mpp(
    header: SlideHeader, sheet_mpp: float | None, column: str, tolerance: float, slide: str, tell: Tell
) -> tuple[float, str]:
    """Return the um per pixel to use and who states it: the sheet where it does, since a person wrote it for that file.

    A contradicting value of the file is reported, not refused: tags are wrong more often than people.
    """
    where = f"slide {slide}, file {header.path}"
    if sheet_mpp is None:
        if header.mpp is None:
            raise StatedError(
                slide=slide,
                file=header.path,
                expected=f"um per pixel in the file or as {column} in the sheet",
                found=header.mpp_remark or "neither",
            )
        if header.mpp_remark:
            tell(f"{where}: {header.mpp_remark}")
    elif header.mpp is None:
        if header.mpp_remark:
            tell(f"{where}: {header.mpp_remark}; takes {column} {sheet_mpp:g} of the sheet")
    elif abs(sheet_mpp - header.mpp) > tolerance * header.mpp:
        tell(f"{where}: {header.mpp:.6g} um/px in the file; takes {column} {sheet_mpp:g} of the sheet")
    mpp, source = (sheet_mpp, "sheet") if sheet_mpp is not None else (header.mpp, "file")
    if mpp is None or not MPP_RANGE[0] <= mpp <= MPP_RANGE[1]:
        raise StatedError(
            slide=slide, file=header.path, expected="0.05 to 50 um per pixel", found=f"{mpp} (from the {source})"
        )
    return mpp, source
