"""Draw pictures by which a person judges a registration at a glance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from pipeline.provenance import finished
from pipeline.registration.class_map import class_colour, classes_on, painted
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import dense_under, laid_on
from pipeline.registration.pair import Pair
from pipeline.registration.quality import Quality
from pipeline.registration.transform import Transform

Picture = NDArray[np.uint8]

SIDE_PX = 1024
BAND_PX = 44
INK = (40, 40, 46)
PAPER = (255, 255, 255)
_NO_MATCH = (150, 0, 110)
_TILES = 8
_GRID_LINES = 24


@dataclass(frozen=True, eq=False)
class View:
    """Both sides of a slide on one grid of about `SIDE_PX` pixels.

    Attributes:
        rgb: uint8 (H, W, 3), the H&E.
        sparse: its nuclear signal.
        dense: the dense nuclear signal under the transform; None for a mask.
        number: of a mask: uint8 (H, W), i + 1 where there is class i, 0 where there is none.
        classes: names of the classes of a mask.
        titled: heading of their legend.
    """

    rgb: Picture
    sparse: NuclearImage
    dense: NuclearImage | None
    number: NDArray[np.uint8] | None = None
    classes: tuple[str, ...] = ()
    titled: str = ""

    @classmethod
    def of(cls, pair: Pair, transform: Transform) -> View:
        """Return the view of an open pair."""
        mpp = float((pair.sparse.extent_um[1] - pair.sparse.extent_um[0]).max()) / SIDE_PX
        rgb, signal = pair.sparse.read_colour(max(mpp, pair.sparse.mpp))
        if pair.classes:
            labels, names = zip(*pair.classes, strict=True)
            return cls(rgb, signal, None, classes_on(pair.dense, labels, transform, signal), names, pair.legend_title)
        # The dense slide may be far larger than a region of H&E: read whole, at this resolution, it fits no memory.
        under = dense_under(pair.dense, transform, signal, max(mpp, pair.dense.mpp))
        if under is None:
            blank = np.zeros(signal.inside.shape, np.float32)
            return cls(rgb, signal, replace(signal, values=blank, inside=np.zeros_like(signal.inside)))
        return cls(rgb, signal, laid_on(under, transform, signal))

    @property
    def legend(self) -> list[tuple[tuple[int, int, int], str]]:
        """Colours and names of the classes."""
        return [(class_colour(index), name) for index, name in enumerate(self.classes)]


def checkerboard(view: View) -> Picture:
    """Return tiles of the H&E beside tiles of the dense nuclei in a hematoxylin-like colour, or of the classes."""
    legend = [((225, 120, 190), "H&E")]
    if view.number is not None:
        drawn, legend = painted(view.number), legend + view.legend
    else:
        assert view.dense is not None
        drawn = eight_bit(1 - contrast(view.dense)[..., None] * (1 - np.array([0.22, 0.12, 0.50])))
        legend.append(((56, 31, 128), "dense nuclei"))
    height, width = view.rgb.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    side = max(height, width) / _TILES
    odd = ((y // side + x // side) % 2).astype(bool)
    picture = np.where(odd[..., None], drawn, view.rgb).astype(np.uint8)
    return framed(picture, view, "Checkerboard", legend)


def residual(view: View, quality: Quality, limit_um: float) -> Picture:
    """Return every measured block as a square, coloured by its residual; blocks without a clear peak are hollow."""
    grey = cv2.cvtColor(cv2.cvtColor(view.rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    picture: Any = (255 - (255 - grey.astype(np.float32)) * 0.35).astype(np.uint8)
    half = max(2, int(quality.block_side_um / view.sparse.mpp / 2) - 1)
    painted = picture.copy()
    hollow = []
    for (x, y), value in zip(view.sparse.to_px(quality.block_um), quality.block_residual_um, strict=True):
        corners = (round(x) - half, round(y) - half), (round(x) + half, round(y) + half)
        if np.isnan(value):
            hollow.append(corners)
        else:
            cv2.rectangle(painted, *corners, _colour(value / limit_um), -1)
    picture = cv2.addWeighted(painted, 0.75, picture, 0.25, 0)
    for corners in hollow:
        cv2.rectangle(picture, *corners, (170, 170, 176), 1)
    if not len(quality.block_um):
        return framed(picture, view, "Residual: not measured", [])
    _outline_areas(picture, view, quality)
    scale = [(_colour(t), f"{t * limit_um:.2g} um{' or more' if t == 1 else ''}") for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    legend = [*scale, ((170, 170, 176), "no peak")]
    if quality.areas:
        legend.append((_NO_MATCH, "nothing matches"))
    return framed(picture, view, "Residual", legend)


def _outline_areas(picture: Picture, view: View, quality: Quality) -> None:
    """Draw a box about each area where nothing agrees, with its share of the tissue."""
    for area in quality.areas:
        left, top, right, low = np.rint(view.sparse.to_px(np.array(area.box_um).reshape(2, 2))).astype(int).ravel()
        cv2.rectangle(picture, (int(left), int(top)), (int(right), int(low)), _NO_MATCH, 3)
        corner = (int(left) + 8, int(top) + 24)
        cv2.putText(picture, f"{area.share:.0%}", corner, cv2.FONT_HERSHEY_SIMPLEX, 0.8, _NO_MATCH, 2, cv2.LINE_AA)


def deformation(view: View, transform: Transform) -> Picture:
    """Return the smooth part of the map: a straight grid in grey, bent and magnified in colour by its length."""
    height, width = view.rgb.shape[:2]
    low, high = view.sparse.to_um(np.array([[0, 0], [width - 1, height - 1]]))
    step = float((high - low).max()) / _GRID_LINES
    fine = np.linspace(0, 1, 240)
    lines = [
        np.column_stack([np.full(240, low[0] + i * step), low[1] + fine * (high[1] - low[1])])
        for i in range(int((high[0] - low[0]) / step) + 1)
    ]
    lines += [
        np.column_stack([low[0] + fine * (high[0] - low[0]), np.full(240, low[1] + i * step)])
        for i in range(int((high[1] - low[1]) / step) + 1)
    ]
    shifts = [_smooth_part(transform, line) for line in lines]
    largest = max(float(np.linalg.norm(shift, axis=1).max()) for shift in shifts)
    magnified = 1.0 if largest < 1e-6 else min(1000.0, 0.6 * step / largest)
    white = np.full((height, width, 3), 255, np.uint8)
    picture: Any = cv2.addWeighted(white, 0.75, view.rgb, 0.25, 0)
    for line in lines:
        _polyline(picture, view.sparse.to_px(line), (190, 190, 196), 1)
    for line, shift in zip(lines, shifts, strict=True):
        bent = view.sparse.to_px(line + shift * magnified)
        lengths = np.linalg.norm(shift, axis=1) / max(largest, 1e-9)
        for i in range(0, len(bent) - 1, 4):
            _polyline(picture, bent[i : i + 5], _colour(float(lengths[i])), 2)
    title = f"Deformation, drawn {magnified:.0f} times as large" if largest >= 1e-6 else "Deformation: none"
    scale = [(_colour(t), f"{t * largest:.1f} um") for t in (0.0, 0.5, 1.0)] if largest >= 1e-6 else []
    return framed(picture, view, title, scale)


def write_png(path: Path, picture: Picture, text: PngImagePlugin.PngInfo | None = None) -> None:
    """Write a picture, whatever the file is called."""
    with finished(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", pnginfo=text)


def _smooth_part(transform: Transform, points_um: Floats) -> Floats:
    """Return displacement (N, 2) beyond the affine part, turned back into the axes of the sparse slide."""
    if transform.forward is None:
        return np.zeros_like(points_um)
    turned: Floats = transform.forward.at(points_um) @ np.linalg.inv(transform.affine[:, :2]).T
    return turned


def contrast(image: NuclearImage, brightest: float = 99.5, least_span: float = 1e-6) -> NDArray[np.float32]:
    """Return signal scaled to 0 to 1 between its background and a percentile, which lie `least_span` apart or more."""
    held = image.values[image.inside]
    if held.size == 0:
        return np.zeros_like(image.values)
    low, high = np.percentile(held, (5, brightest))
    span = max(high - low, least_span)
    scaled: NDArray[np.float32] = np.clip((image.values - low) / span, 0, 1) * image.inside
    return scaled.astype(np.float32)


def span_of(image: NuclearImage) -> float:
    """Return how far the 99.5th percentile of the signal lies above its background; 0 of an empty image."""
    held = image.values[image.inside]
    low, high = np.percentile(held, (5, 99.5)) if held.size else (0.0, 0.0)
    return float(high - low)


def eight_bit(picture: NDArray[Any]) -> Picture:
    """Return values of 0 to 1 as uint8."""
    scaled: Picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return scaled


def _colour(fraction: float) -> tuple[int, int, int]:
    """Return a colour from blue over yellow to red that keeps its order in grey (cividis-like ends, Turbo between)."""
    index = np.array([[round(20 + 215 * float(np.clip(fraction, 0, 1)))]], np.uint8)
    blue, green, red = cv2.applyColorMap(index, cv2.COLORMAP_TURBO)[0, 0].tolist()
    return red, green, blue


def _polyline(picture: Picture, points_px: Floats, colour: tuple[int, int, int], width: int) -> None:
    cv2.polylines(picture, [np.rint(points_px * 16).astype(np.int32)], False, colour, width, cv2.LINE_AA, 4)


def framed(picture: Picture, view: View, title: str, legend: list[tuple[tuple[int, int, int], str]]) -> Picture:
    """Return the picture under a line with its title, its legend and a scale bar."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (max(width, 720), height + BAND_PX), PAPER)
    page.paste(Image.fromarray(picture), (0, BAND_PX))
    draw = ImageDraw.Draw(page)
    bold, plain = ImageFont.load_default(20), ImageFont.load_default(15)
    draw.text((12, 10), title, fill=INK, font=bold)
    x = 12 + draw.textlength(title, font=bold) + 28
    for colour, label in legend:
        if x + 20 + draw.textlength(label, font=plain) > page.width:
            draw.text((min(x, page.width - 18), 13), "…", fill=INK, font=plain)
            break
        draw.rectangle((x, 15, x + 14, 29), fill=colour, outline=INK)
        draw.text((x + 20, 13), label, fill=INK, font=plain)
        x += 20 + draw.textlength(label, font=plain) + 18
    _scale_bar(draw, view.sparse.mpp, (width, height + BAND_PX), plain)
    return np.asarray(page, np.uint8)


def _scale_bar(draw: ImageDraw.ImageDraw, mpp: float, corner: tuple[int, int], font: Any) -> None:
    """Draw a bar of a round length, about a sixth of the width, in the lower right corner."""
    wanted = corner[0] * mpp / 6
    unit = 10.0 ** np.floor(np.log10(wanted))
    length_um = max(step * unit for step in (1, 2, 5) if step * unit <= wanted)
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
    length = length_um / mpp
    right, low = corner[0] - 20, corner[1] - 18
    draw.rectangle((right - length - 12, low - 34, right + 12, low + 12), fill=PAPER)
    draw.rectangle((right - length, low - 4, right, low + 2), fill=INK)
    draw.text((right - length / 2 - draw.textlength(label, font=font) / 2, low - 28), label, fill=INK, font=font)
