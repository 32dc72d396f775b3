"""Stage inspect: turn a row of the sheet into the record that later stages read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.elsewhere.address import is_elsewhere
from pipeline.errors import StatedError
from pipeline.progress import say
from pipeline.provenance import file_digest
from pipeline.settings import InspectSettings
from pipeline.sheet import SheetRow
from pipeline.slides.base import Shows, Slide, SlideHeader
from pipeline.slides.brightness import is_on_black, is_on_white, sampled_pixels
from pipeline.slides.chosen_mpp import MPP_RANGE, Tell, chosen_mpp
from pipeline.slides.companions import slide_files_of
from pipeline.slides.kinds import kind_named, point_kinds
from pipeline.slides.kinds.base import DenseKind, Described, PointKind, needs_transform
from pipeline.slides.kinds.mask import LARGEST_LABEL
from pipeline.slides.opening import open_slide
from pipeline.slides.record import SideRecord, SlideRecord
from pipeline.slides.remote_header import Unread, unread
from pipeline.slides.tenx_files import dense_file, is_tenx
from pipeline.slides.zarr_folder import folder_digest, is_zarr


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
    place = row.sparse if side == "sparse" else _dense_place(row)
    sheet_mpp = row.sparse_mpp if side == "sparse" else row.dense_mpp
    told_kind = "brightfield" if side == "sparse" else row.dense_kind
    image = row.sparse_image if side == "sparse" else row.dense_image
    shows: Shows = kind_named(told_kind).shows if told_kind else "file"
    away = unread(place, slide=row.slide, image=image, shows=shows)
    header = away.header if away else _read(place, row.slide, image, shows)
    for note in header.notes:
        tell(f"slide {row.slide}, file {place}: {note}")
    if side == "sparse" or not row.dense_kind:
        _check_light(row, header, side, image, away)
    mpp, source = chosen_mpp(
        place if away else Path(place), header, sheet_mpp, f"{side}_mpp", settings.mpp_tolerance, row.slide, tell
    )
    kind = kind_named(told_kind or ("brightfield" if header.is_rgb else "fluorescence"))
    described = Described(header.channels) if side == "sparse" else _described(row, header, kind)
    return SideRecord(
        path=place,
        reader=header.reader,
        mpp=mpp,
        mpp_source=source,
        levels=header.levels,
        channels=described.channels,
        dtype=header.dtype,
        sha256=(away.digest if away else source_digest(Path(place))) if hashed else "",
        kind=kind.name,
        classes=described.classes,
        image=image,
        bounds_xy=header.bounds_xy,
        state=away.state if away else "",
    )


def _read(place: str, slide: str, image: str, shows: Shows) -> SlideHeader:
    with open_slide(Path(place), slide=slide, image=image, shows=shows) as opened:
        check_planes(opened)
        return opened.header


def check_planes(opened: Slide) -> None:
    """Read one pixel of every plane: a codec that is missing, or a plane, shall be told now and not hours later."""
    for index, level in enumerate(opened.header.levels):
        opened.read_region(index, (level.size_xy[0] // 2, level.size_xy[1] // 2), (1, 1))


def _check_light(row: SheetRow, header: SlideHeader, side: str, image: str, away: Unread | None) -> None:
    """Refuse fluorescence taken for a stain, and a stain stored as planes taken for fluorescence."""
    if len(header.channels) != 3 or header.dtype != "uint8":
        return
    if away is not None:
        if away.overview is not None and is_on_black(away.overview.reshape(-1, 3)):
            raise _on_black(row, side)
        return
    # Without alpha, which would turn dark colours white; a colour table has no other view.
    with open_slide(header.path, slide=row.slide, image=image, levels=header.levels, shows="channels") as opened:
        pixels = sampled_pixels(opened) if len(opened.header.channels) >= 3 else None
    if pixels is None:
        return
    if header.is_rgb and is_on_black(pixels):
        raise _on_black(row, side)
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


def _on_black(row: SheetRow, side: str) -> StatedError:
    expected = "an H&E image, on bright glass" if side == "sparse" else "dense_kind in the sheet"
    if side == "dense":
        expected += " (fluorescence takes the colours as channels, brightfield as a stain)"
    place = row.sparse if side == "sparse" else row.dense
    file = place if is_elsewhere(place) else Path(place)
    return StatedError(slide=row.slide, file=file, expected=expected, found="an RGB image on black: fluorescence?")


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
        if is_elsewhere(row.dense):
            expected = "the path of a table, which is read from here: fetch it first"
            raise StatedError(slide=row.slide, file=row.dense, expected=expected, found="an address")
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


def _dense_place(row: SheetRow) -> str:
    return row.dense if is_elsewhere(row.dense) else str(_dense_file(row))


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
