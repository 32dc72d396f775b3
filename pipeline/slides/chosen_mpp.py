"""Which um per pixel counts: what the sheet says, or else the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.slides.base import SlideHeader

MPP_RANGE = (0.05, 50.0)

# Takes one line that the user should know, though nothing fails.
Tell = Callable[[str], None]


def chosen_mpp(
    file: str | Path,
    header: SlideHeader,
    sheet_mpp: float | None,
    column: str,
    tolerance: float,
    slide: str,
    tell: Tell,
) -> tuple[float, str]:
    """Return the um per pixel to use and who states it: the sheet where it does, since a person wrote it for that file.

    A contradicting value of the file is reported, not refused: tags are wrong more often than people.
    """
    where = f"slide {slide}, file {file}"
    if sheet_mpp is None:
        if header.mpp is None:
            raise StatedError(
                slide=slide,
                file=file,
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
            slide=slide, file=file, expected="0.05 to 50 um per pixel", found=f"{mpp} (from the {source})"
        )
    return mpp, source
