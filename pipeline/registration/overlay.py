"""Draw the overview of a registration: nuclei of both sides, the whole slide and three close-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pipeline.registration.class_map import outlined
from pipeline.registration.close_ups import SIDE_UM, CloseUp
from pipeline.registration.overlay_text import CLOSE_UPS_KEY, FIELD_KEY
from pipeline.registration.pictures import (
    BAND_PX,
    INK,
    PAPER,
    Picture,
    View,
    contrast,
    eight_bit,
    framed,
    span_of,
    write_png,
)

_CLOSE_UP_PX, _GAP_PX, _CAPTION_PX = 256, 10, 24
# Share of its brightness that H&E keeps where the multiplex slide does not reach.
_BEYOND = 0.4
# Percentile of a close-up that is drawn as bright as can be: chromatin in clumps leaves most of a nucleus darker.
_BRIGHT = 95.0
# Contrast of a part of the overlay is raised by this at most, so that noise on glass stays dark.
_CLAHE_LIMIT, _CLAHE_PARTS = 2.5, 12


@dataclass(frozen=True, eq=False)
class Overlay:
    """The picture to look at first, and where in it (left, top, width, height) the slide and the close-ups stand."""

    picture: Picture
    field_px: tuple[int, int, int, int]
    close_ups_px: tuple[int, int, int, int] | None


def overlay(view: View, title: str = "Overlay", close_ups: Sequence[CloseUp] = ()) -> Overlay:
    """Return hematoxylin in magenta over the dense nuclei in green: white where they meet, coloured where they do not.

    Beside the whole slide stand the close-ups, H&E and overlay of each. Of a mask: its classes over the H&E.
    """
    height, width = view.rgb.shape[:2]
    field = 0, BAND_PX, width, height
    if view.number is not None:
        return Overlay(
            framed(outlined(view.rgb, view.number), view, f"{title}: {view.titled}", view.legend), field, None
        )
    assert view.dense is not None
    beyond = np.where(view.dense.inside, np.float32(1), np.float32(_BEYOND))
    picture = _both(_even(contrast(view.sparse)) * beyond, _even(contrast(view.dense)))
    legend = [
        ((255, 0, 255), "H&E nuclei"),
        ((0, 190, 0), "multiplex nuclei"),
        ((255, 255, 255), "both: white is good"),
    ]
    page = framed(picture, view, title, legend)
    if not close_ups:
        return Overlay(page, field, None)
    # Of the slide's own contrast at least half: a square of bare glass would show its noise in full colour.
    column = _column(close_ups, (span_of(view.sparse) / 2, span_of(view.dense) / 2))
    left = page.shape[1] + _GAP_PX
    whole = np.full((max(len(page), len(column)), left + column.shape[1], 3), 255, np.uint8)
    whole[: len(page), : page.shape[1]] = page
    whole[: len(column), left:] = column
    return Overlay(whole, field, (left, 0, column.shape[1], len(column)))


def _column(close_ups: Sequence[CloseUp], spans: tuple[float, float]) -> Picture:
    """Return the close-ups below one another: a caption, then H&E and overlay side by side.

    Args:
        close_ups: the places.
        spans: least difference of signal, of each side, that is drawn from black to full colour.
    """
    side, step = _CLOSE_UP_PX, _CAPTION_PX + _CLOSE_UP_PX
    page = Image.new("RGB", (2 * side + 4, step * len(close_ups)), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for number, item in enumerate(close_ups):
        draw.text((2, step * number + 3), f"{item.caption} (squares of {SIDE_UM:g} um)", fill=INK, font=font)
        sides = zip((item.sparse, item.dense), spans, strict=True)
        merged = _both(*(contrast(side, _BRIGHT, max(least, 1e-6)) for side, least in sides))
        for index, part in enumerate((item.rgb, merged)):
            drawn = Image.fromarray(part).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(drawn, (index * (side + 4), step * number + _CAPTION_PX))
    return np.asarray(page, np.uint8)


def _both(first: NDArray[np.float32], second: NDArray[np.float32]) -> Picture:
    """Return the first (H, W) of 0 to 1 in magenta, the second in green."""
    return eight_bit(np.stack([first, second, first], axis=-1))


def _even(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the signal (H, W) of 0 to 1 with more alike contrast in all parts of the slide.

    Stains fade over a slide, each in its own places: nuclei that meet would be green where hematoxylin is faint.
    """
    equalised = cv2.createCLAHE(_CLAHE_LIMIT, (_CLAHE_PARTS, _CLAHE_PARTS)).apply(
        np.rint(signal * 255).astype(np.uint8)
    )
    even: NDArray[np.float32] = ((signal + equalised / np.float32(255)) / 2).astype(np.float32)
    return even


def write_overlay(path: Path, drawn: Overlay) -> None:
    """Write the overlay, with the places of its parts as text chunks."""
    text = PngImagePlugin.PngInfo()
    for key, box in ((FIELD_KEY, drawn.field_px), (CLOSE_UPS_KEY, drawn.close_ups_px)):
        if box is not None:
            text.add_text(key, " ".join(map(str, box)))
    write_png(path, drawn.picture, text)
