"""Recognise what a file shows: H&E, a dense side, or something that a person has to look at."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.registration.stain import shows_nuclei
from pipeline.slides.base import SlideHeader
from pipeline.slides.brightness import is_on_black, sampled_pixels
from pipeline.slides.chosen_mpp import MPP_RANGE
from pipeline.slides.opening import open_slide

Side = Literal["sparse", "dense"]

# Optical density from which a pixel counts as stained, and how much more blue than green DAB takes out of the light:
# hematoxylin and eosin both take out more green.
_STAINED, _BROWN_RATIO, _BROWN_SHARE = 0.15, 1.1, 0.05


@dataclass(frozen=True)
class Recognised:
    """One file that opens.

    Attributes:
        path: of the file.
        place: folder that it was found below.
        side: which side of a pair it can be.
        mpp: um per pixel; None where the file states none that can be used.
        size_xy: width and height of level 0 in pixels.
        channels: names.
        dense_kind: what the sheet must say of the dense side; empty where inspect recognises it.
        needs: what a person must add before the workflow takes the file; empty where nothing.
    """

    path: Path
    place: Path
    side: Side
    mpp: float | None
    size_xy: tuple[int, int]
    channels: tuple[str, ...]
    dense_kind: str = ""
    needs: str = ""


def recognise(path: Path, place: Path) -> Recognised | StatedError:
    """Return what a file shows, or why it cannot be opened; pixels are read of three channels of 8 bits only."""
    try:
        with open_slide(path) as opened:
            header = opened.header
        side: Side = "sparse" if header.is_rgb else "dense"
        kind = ""
        if header.is_rgb and header.dtype == "uint8":
            with open_slide(path, levels=header.levels, shows="channels") as opened:
                pixels = sampled_pixels(opened)
            if is_on_black(pixels):
                side, kind = "dense", "fluorescence"
            elif is_brown(pixels):
                side, kind = "dense", "brightfield"
    except StatedError as error:
        return error
    channels = ("red", "green", "blue") if kind == "fluorescence" else header.channels
    needs = "; ".join(filter(None, (_mpp_need(header, side), _other_need(header, side, kind))))
    return Recognised(path, place, side, header.mpp, header.size_xy, channels, kind, needs)


def is_brown(pixels: NDArray[np.uint8]) -> bool:
    """Return whether (n, 3) pixels of brightfield show a brown stain, as the DAB of immunohistochemistry is."""
    density = -np.log10(np.maximum(pixels, 1) / 255.0)
    stained = density[density.max(axis=1) > _STAINED]
    return bool(len(stained)) and bool((stained[:, 2] > _BROWN_RATIO * stained[:, 1]).mean() > _BROWN_SHARE)


def _mpp_need(header: SlideHeader, side: Side) -> str:
    if header.mpp is None:
        remark = f" ({header.mpp_remark})" if header.mpp_remark else ""
        return f"the file states no um per pixel{remark}: write it in the column {side}_mpp"
    if not MPP_RANGE[0] <= header.mpp <= MPP_RANGE[1]:
        return f"the file states {header.mpp:g} um per pixel: write the right one in the column {side}_mpp"
    return ""


def _other_need(header: SlideHeader, side: Side, kind: str) -> str:
    if side == "sparse":
        return "" if header.dtype == "uint8" else f"an RGB image of 8 bits is needed, found {header.dtype}"
    if kind == "brightfield":
        return ""
    if len(header.channels) == 1 and re.fullmatch(r"C\d+", header.channels[0]):
        return "one channel without a name: say fluorescence or mask in the column dense_kind (docs/markers.md)"
    repeated = [name for name, count in Counter(header.channels).items() if count > 1]
    if repeated:
        return f"channels of one name ({', '.join(repeated[:4])}): name them by a CSV in the column markers"
    if not shows_nuclei(header.channels):
        shown = ", ".join(header.channels[:6])
        return f"no channel has the name of a nuclear stain ({shown}): name it by a CSV in the column markers"
    return ""
