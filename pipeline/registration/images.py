"""Read both sides of a slide as the same kind of image: nuclear signal on a grid of um, at any resolution.

Nothing is read whole at level 0: a region is read from the level that is just fine enough, in strips, and averaged
down by a whole number, so that the pixel centres of the result are known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.registration.displacement import Floats
from pipeline.registration.stain import absorbance, hematoxylin, red_excess, tissue_presence
from pipeline.slides.base import Slide, level_for
from pipeline.slides.imaged import LARGEST_SPECKS, void_of

_STRIP_PIXELS = 1 << 23
_BRIGHTFIELD = {
    "nuclei": hematoxylin,
    "tissue": tissue_presence,
    "absorbance": absorbance,
    "red_excess": red_excess,
}


@dataclass(frozen=True, eq=False)
class NuclearImage:
    """Nuclear signal on a regular grid.

    Attributes:
        values: float32 (H, W), hematoxylin in optical density or the square root of fluorescence; of a mask its labels.
        inside: bool (H, W), whether the slide holds this pixel.
        origin_um: x and y of the centre of pixel (0, 0) in the slide's frame.
        mpp: um per pixel.
    """

    values: NDArray[np.float32]
    inside: NDArray[np.bool_]
    origin_um: tuple[float, float]
    mpp: float

    def to_um(self, points_px: NDArray[Any]) -> Floats:
        """Return pixel positions (N, 2), xy, as um."""
        position: Floats = np.asarray(points_px, np.float64) * self.mpp + np.asarray(self.origin_um)
        return position

    def to_px(self, points_um: NDArray[Any]) -> Floats:
        """Return positions in um (N, 2) as pixel positions, xy."""
        position: Floats = (np.asarray(points_um, np.float64) - np.asarray(self.origin_um)) / self.mpp
        return position

    def held_at(self, grid: NuclearImage) -> NDArray[np.bool_]:
        """Return `inside` at the pixels of another image (H, W); the last row and column reach to the slide's end."""
        height, width = grid.inside.shape
        x, y = (
            np.clip(
                np.rint((grid.origin_um[axis] + np.arange(count) * grid.mpp - self.origin_um[axis]) / self.mpp), 0, end
            )
            for axis, count, end in ((0, width, self.inside.shape[1] - 1), (1, height, self.inside.shape[0] - 1))
        )
        held: NDArray[np.bool_] = self.inside[np.ix_(y.astype(int), x.astype(int))]
        return held

    def cropped(self, box_um: Floats, margin_um: float) -> NuclearImage:
        """Return the part within a box (2, 2) and a margin, at least 8 pixels a side."""
        whole = np.array(self.inside.shape[::-1])
        low, high = np.floor(self.to_px(box_um[0] - margin_um)), np.ceil(self.to_px(box_um[1] + margin_um)) + 1
        left, top = np.clip(low, 0, np.maximum(whole - 8, 0)).astype(int).tolist()
        right, bottom = np.clip(high, [left + 8, top + 8], None).astype(int).tolist()
        x, y = self.to_um(np.array([left, top])).tolist()
        return NuclearImage(self.values[top:bottom, left:right], self.inside[top:bottom, left:right], (x, y), self.mpp)


@dataclass(frozen=True)
class NuclearSource:
    """A slide that can be read as nuclear signal.

    Attributes:
        slide: an open slide, RGB (H&E) or multi-channel.
        mpp: um per level-0 pixel.
        channel: index of the nuclear channel; None for brightfield.
        shows: of brightfield: `nuclei`, its hematoxylin, or `tissue`, where there is any at all. Sections that share no
            nuclei and are stained otherwise still share their outlines, gaps and lumina; `absorbance`, all of its
            stain, and `red_excess`, its red rather than blue parts, are for a partner that shows other structures. Of a
            mask: `labels`, or the numbers of its channels from 1.
        imaged: the whole slide at low resolution, `inside` where it was imaged; None where all of it was.
    """

    slide: Slide
    mpp: float
    channel: int | None
    shows: Literal["nuclei", "tissue", "absorbance", "red_excess", "labels"] = "nuclei"
    imaged: NuclearImage | None = None

    @property
    def extent_um(self) -> Floats:
        """(2, 2): centres of the first and of the last level-0 pixel."""
        width, height = self.slide.header.size_xy
        return np.array([[0.0, 0.0], [(width - 1) * self.mpp, (height - 1) * self.mpp]])

    def read(self, mpp: float, bounds_um: Floats | None = None) -> NuclearImage:
        """Return the nuclear signal of a region; what float32 holds of nan and infinity is 0 and not inside.

        Args:
            mpp: the wanted resolution; the result has the nearest one that divides a level of the pyramid evenly.
            bounds_um: (2, 2), lower and upper corner; None is the whole slide. It may reach outside.
        """
        values, image = self._averaged(mpp, bounds_um, colour=False)
        known = np.isfinite(values)
        return NuclearImage(np.where(known, values, 0), image.inside & known, image.origin_um, image.mpp)

    def read_colour(self, mpp: float, bounds_um: Floats | None = None) -> tuple[NDArray[np.uint8], NuclearImage]:
        """Return the RGB pixels (H, W, 3) of a region of an H&E slide, with what is shown of them on the same grid."""
        pixels, image = self._averaged(mpp, bounds_um, colour=True)
        rgb = np.rint(pixels).astype(np.uint8)
        return rgb, NuclearImage(self._signal(pixels, colour=False), image.inside, image.origin_um, image.mpp)

    def _averaged(self, mpp: float, bounds_um: Floats | None, *, colour: bool) -> tuple[Any, NuclearImage]:
        level = level_for(self.slide.header.levels, max(mpp / self.mpp, 1.0))
        chosen = self.slide.header.levels[level]
        fine_mpp = chosen.downsample * self.mpp
        factor = max(1, round(mpp / fine_mpp))
        first_um = (chosen.downsample - 1) / 2 * self.mpp
        bounds = self.extent_um if bounds_um is None else bounds_um
        low = np.floor((bounds[0] - first_um) / fine_mpp + 0.5).astype(int)
        size = np.maximum(np.ceil((bounds[1] - bounds[0]) / (fine_mpp * factor)).astype(int), 1)
        if bounds_um is None:
            size = np.maximum(np.array(chosen.size_xy) // factor, 1)
            low = np.zeros(2, int)
        origin = first_um + (low + (factor - 1) / 2) * fine_mpp
        values = self._strips(level, low, size, factor, colour=colour)
        inside = _inside(low, size, factor, chosen.size_xy)
        blank = np.zeros((0, 0), np.float32)
        image = NuclearImage(blank, inside, (float(origin[0]), float(origin[1])), fine_mpp * factor)
        return values, image if self.imaged is None else replace(image, inside=inside & self.imaged.held_at(image))

    def imaged_at(self, points_um: Floats) -> NDArray[np.bool_]:
        """Return which points (N, 2) were imaged; all of them where nothing is known to be left out."""
        if self.imaged is None:
            return np.ones(len(points_um), np.bool_)
        height, width = self.imaged.inside.shape
        x, y = np.rint(self.imaged.to_px(points_um)).astype(int).T
        held: NDArray[np.bool_] = self.imaged.inside[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
        return held

    def without_void(self, mpp: float) -> NuclearSource:
        """Return the source that counts as inside only what was imaged, as looked at `mpp` tells."""
        pixels, image = self._averaged(mpp, None, colour=True)
        void = void_of(pixels if self.channel is None else pixels[..., :1], is_rgb=self.channel is None)
        if void is None or void.specks > LARGEST_SPECKS:
            return self
        return replace(self, imaged=replace(image, inside=~void.mask))

    def _strips(self, level: int, low: NDArray[Any], size: NDArray[Any], factor: int, *, colour: bool) -> Any:
        width, height = int(size[0]), int(size[1])
        values = np.zeros((height, width, 3) if colour else (height, width), np.float32)
        rows = max(1, _STRIP_PIXELS // max(1, width * factor * factor))
        channels = None if self.channel is None else [self.channel]
        for top in range(0, height, rows):
            count = min(rows, height - top)
            corner = (int(low[0]), int(low[1]) + top * factor)
            pixels = self.slide.read_region(level, corner, (width * factor, count * factor), channels)
            reduced = _nearest if self.shows == "labels" else _block_mean
            values[top : top + count] = self._signal(reduced(pixels, factor), colour=colour)
        return values

    def _signal(self, pixels: NDArray[np.float32], *, colour: bool) -> Any:
        if colour:
            return pixels
        if self.shows == "labels":
            return pixels[..., 0] if pixels.shape[-1] == 1 else (pixels > 0).any(axis=-1) * (pixels.argmax(axis=-1) + 1)
        if self.channel is None:
            return _BRIGHTFIELD[self.shows](np.rint(pixels).astype(np.uint8))
        return np.sqrt(np.maximum(pixels[..., 0], 0))


def _nearest(pixels: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Return the middle pixel of squares of `factor` pixels: labels have no mean."""
    return pixels[factor // 2 :: factor, factor // 2 :: factor].astype(np.float32)


def _block_mean(pixels: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Return means over squares of `factor` pixels: (H * factor, W * factor, C) to float32 (H, W, C)."""
    if factor == 1:
        return pixels.astype(np.float32)
    height, width, channels = pixels.shape[0] // factor, pixels.shape[1] // factor, pixels.shape[2]
    total = np.zeros((height, width, channels), np.float32)
    for row in range(factor):
        for column in range(factor):
            total += pixels[row::factor, column::factor]
    mean: NDArray[np.float32] = (total / factor**2).astype(np.float32)
    return mean


def _inside(low: NDArray[Any], size: NDArray[Any], factor: int, level_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a region lie wholly within a level."""
    x = low[0] + np.arange(int(size[0])) * factor
    y = low[1] + np.arange(int(size[1])) * factor
    across = (x >= 0) & (x + factor <= level_size[0])
    down = (y >= 0) & (y + factor <= level_size[1])
    inside: NDArray[np.bool_] = down[:, None] & across[None, :]
    return inside
