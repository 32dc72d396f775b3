"""Check the um per pixel that a file states, and say why it cannot be used where it cannot."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

INCH_UM = 25400.0
# Printers and screens have 72 to 1200 dots per inch; converters copy those into tags, OME-XML and ImageJ's text.
_PRINTING_DPI = (72.0, 1200.0)
_DPI_SLACK = 0.001

# A few per cent come from the calibration of a stage, and the mean of both directions serves for them.
MAX_ANISOTROPY = 0.05
# Below this the two directions differ by rounding only.
_ROUNDING = 0.001

# With larger pixels a microscope shows no cell; below 0.05 um/px no light microscope resolves anything.
_PLAUSIBLE_TAG_UM = (0.05, 20.0)

_UM = {
    "km": 1e9, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "μm": 1.0, "um": 1.0, "\ufffdm": 1.0, "?m": 1.0, "nm": 1e-3,
    "å": 1e-4, "pm": 1e-6, "micron": 1.0, "microns": 1.0, "meter": 1e6, "metre": 1e6, "centimeter": 1e4,
    "centimetre": 1e4, "millimeter": 1e3, "millimetre": 1e3, "micrometer": 1.0, "micrometre": 1.0, "nanometer": 1e-3,
    "nanometre": 1e-3, "thou": INCH_UM / 1000, "in": INCH_UM, "inch": INCH_UM, "ft": 12 * INCH_UM, "yd": 36 * INCH_UM,
    "angstrom": 1e-4, "picometer": 1e-6,
}  # fmt: skip


@dataclass(frozen=True)
class StatedMpp:
    """The um per pixel of a file.

    Attributes:
        um: the mean of both directions; None where the file states nothing that can be used.
        remark: why not, or by how much the directions differ; empty where there is nothing to say.
    """

    um: float | None = None
    remark: str = ""


def stated_mpp(x_um: float | None, y_um: float | None) -> StatedMpp:
    """Return the um per pixel of the two directions; y defaults to x."""
    if x_um is None or not 0 < x_um < float("inf"):
        return StatedMpp()
    y_um = x_um if y_um is None else y_um
    if not 0 < y_um < float("inf"):
        return StatedMpp()
    mean = (x_um + y_um) / 2
    dpi = INCH_UM / mean
    if _PRINTING_DPI[0] * (1 - _DPI_SLACK) <= dpi <= _PRINTING_DPI[1] * (1 + _DPI_SLACK):
        return StatedMpp(remark=f"a printing resolution in the file ({dpi:.4g} dpi, {mean:.6g} um/px)")
    apart = abs(x_um - y_um) / max(x_um, y_um)
    both = f"{x_um:.5g} x {y_um:.5g} um/px in the file"
    if apart > MAX_ANISOTROPY:
        return StatedMpp(remark=f"pixels that are not square within {MAX_ANISOTROPY:.0%}: {both}")
    return StatedMpp(mean, f"{both}: pixels are not square, takes the mean {mean:.5g}" if apart > _ROUNDING else "")


def stated_by_tag(x_um: float | None, y_um: float | None) -> StatedMpp:
    """Return the um per pixel of resolution tags, which count only where a microscope can have them."""
    if x_um is None:
        return StatedMpp()
    if not _PLAUSIBLE_TAG_UM[0] <= x_um <= _PLAUSIBLE_TAG_UM[1]:
        stated = stated_mpp(x_um, y_um)
        return stated if stated.um is None else StatedMpp(remark=f"{x_um:.6g} um/px in the resolution tags")
    return stated_mpp(x_um, y_um)


def unit_um(text: str) -> float | None:
    """Return the um of a unit of length, also where its micro sign was decoded wrongly; None for other units."""
    text = text.replace("\\u00B5", "µ").strip()
    for _ in range(3):
        try:
            # UTF-8 that was read as Latin-1, perhaps more than once: the two bytes of the sign became two letters.
            text = text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            break
    return _UM.get(unicodedata.normalize("NFKC", text).lower())
