"""Draw nuclei as small images: one shape per cell, the same in both modalities, at exact positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.tools.demo.cells import DrawnCells
from pipeline.tools.demo.fields import Plane

_BATCH_PIXELS = 2_000_000
_TEXTURE_SIZE_UM = 128.0
_TEXTURE_SPACING_UM = 0.25


@dataclass(frozen=True)
class Stamps:
    """A batch of cells as images of one size.

    Attributes:
        cells: the n cells of the batch.
        rows: (n,) their indices among all the cells given.
        corner_px: (n, 2) upper-left pixel (x, y) of each image in the plane to paint on.
        reach: (n, S, S) distance from the centre in units of the distance of the nucleus's border: 1 on the border.
        offset: (2, n, S, S) position in the cell's own axes, in units of the nucleus's half axes.
        mpp: um per pixel.
    """

    cells: DrawnCells
    rows: NDArray[np.intp]
    corner_px: NDArray[np.intp]
    reach: Plane
    offset: Plane
    mpp: float

    def beyond_um(self) -> Plane:
        """Return (n, S, S) distance in um outside the border of the nucleus, negative inside.

        Nearly so for long nuclei.
        """
        return (self.reach - 1) * self.cells.radius_um.astype(np.float32)[:, None, None]

    def coverage(self, blur_um: float = 0.0) -> Plane:
        """Return (n, S, S) how much of each pixel the nucleus covers, 0 to 1."""
        return np.clip(0.5 - self.beyond_um() / (self.mpp + blur_um), 0, 1)


def stamps_of(
    cells: DrawnCells,
    centre_um: NDArray[np.float64],
    mpp: float,
    jacobian: NDArray[np.float64] | None = None,
    margin_um: float = 1.5,
) -> Iterator[Stamps]:
    """Yield the cells in batches of images, small nuclei first.

    Args:
        cells: what to draw.
        centre_um: (N, 2) centres in the frame of the image to paint on.
        mpp: um per pixel of that image.
        jacobian: (N, 2, 2) derivative of the map from the sparse frame to that of the image; None is the identity.
        margin_um: how far beyond the nucleus the images must reach.
    """
    half_um = cells.radius_um * np.sqrt(cells.axis_ratio) * 1.25 + margin_um
    order = np.argsort(half_um, kind="stable")
    start = 0
    while start < len(order):
        side = 2 * int(np.ceil(half_um[order[min(start + 400, len(order) - 1)]] / mpp)) + 3
        size = max(1, min(_BATCH_PIXELS // side**2, 3000))
        rows = order[start : start + size]
        side = 2 * int(np.ceil(half_um[rows[-1]] / mpp)) + 3
        yield _stamps(cells, rows, centre_um, mpp, jacobian, side)
        start += size


def _stamps(
    all_cells: DrawnCells,
    rows: NDArray[np.intp],
    centre_um: NDArray[np.float64],
    mpp: float,
    jacobian: NDArray[np.float64] | None,
    side: int,
) -> Stamps:
    cells = all_cells.take(rows)
    centre_px = centre_um[rows] / mpp
    corner = np.rint(centre_px).astype(np.intp) - side // 2
    remainder = corner - centre_px
    steps = np.arange(side)
    x = ((remainder[:, 0, None] + steps) * mpp).astype(np.float32)[:, None, :]
    y = ((remainder[:, 1, None] + steps) * mpp).astype(np.float32)[:, :, None]
    # One matrix per cell takes offsets in the image to the cell's own axes, in units of the half axes.
    cosine, sine = np.cos(cells.angle_rad), np.sin(cells.angle_rad)
    to_axes = np.stack([np.stack([cosine, sine], -1), np.stack([-sine, cosine], -1)], axis=1)
    half = cells.radius_um[:, None] * np.stack([np.sqrt(cells.axis_ratio), 1 / np.sqrt(cells.axis_ratio)], axis=1)
    matrix = to_axes / half[:, :, None]
    if jacobian is not None:
        matrix = matrix @ np.linalg.inv(jacobian[rows])
    m = matrix.astype(np.float32)[:, :, :, None, None]
    a = m[:, 0, 0] * x + m[:, 0, 1] * y
    b = m[:, 1, 0] * x + m[:, 1, 1] * y
    return Stamps(cells, rows, corner, _reach(cells, a, b), np.stack([a, b]), mpp)


def _reach(cells: DrawnCells, a: Plane, b: Plane) -> Plane:
    """Return the shape: an ellipse, bent and lobed."""
    bend, (lobe_cosine, lobe_sine) = _column(cells.bend), (_column(part) for part in cells.lobes.T)
    bent = b + bend * (a * a - np.float32(0.25))
    square = a * a + bent * bent + np.float32(1e-6)
    radius = np.sqrt(square)
    cube = square * radius
    three_cosine = a * (a * a - 3 * bent * bent) / cube
    three_sine = bent * (3 * a * a - bent * bent) / cube
    shape: Plane = radius * (1 - lobe_cosine * three_cosine - lobe_sine * three_sine)
    return shape


def chromatin(stamps: Stamps, texture: tuple[Plane, Plane]) -> Plane:
    """Return (n, S, S) density of chromatin, mean 1 over each nucleus whatever its kind.

    Args:
        stamps: a batch of cells.
        texture: coarse and fine noise from `draw_texture`.
    """
    cells, (a, b) = stamps.cells, stamps.offset
    reach = np.minimum(stamps.reach, 1.2)
    at_x, at_y = (_column(part) for part in cells.spot_at.T)
    spot = np.exp(-((a - at_x) ** 2 + (b - at_y) ** 2) / np.float32(0.28**2))
    coarse, fine = (_look_up(plane, stamps) for plane in texture)
    density = (
        1
        + _column(cells.rim) * (reach * reach - np.float32(0.5))
        + _column(cells.spot) * spot
        + _column(cells.grain) * coarse
        + np.float32(0.10) * fine
    )
    density = np.clip(density, 0.15, 3)
    inside = stamps.coverage()
    mean = (density * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1e-3)
    normalised: Plane = density / mean[:, None, None]
    return normalised


def draw_texture(rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return coarse and fine tiles of noise (variance 1) that repeat seamlessly, for `chromatin`."""
    size = round(_TEXTURE_SIZE_UM / _TEXTURE_SPACING_UM)
    tiles = []
    for sigma_um in (0.85, 0.35):
        white = rng.standard_normal((size, size), dtype=np.float32)
        wrapped = np.pad(white, 16, mode="wrap")
        smooth = cv2.GaussianBlur(wrapped, (0, 0), sigma_um / _TEXTURE_SPACING_UM)[16:-16, 16:-16]
        tiles.append(np.asarray(smooth / smooth.std(), np.float32))
    return tiles[0], tiles[1]


def _look_up(tile: Plane, stamps: Stamps) -> Plane:
    """Return the texture under every pixel; it sticks to the cell, so both modalities see the same clumps."""
    radius = _column(stamps.cells.radius_um / _TEXTURE_SPACING_UM)
    at_x, at_y = (_column(part / _TEXTURE_SPACING_UM) for part in stamps.cells.grain_at.T)
    size = tile.shape[0]
    columns = (stamps.offset[0] * radius + at_x).astype(np.int32) % size
    rows = (stamps.offset[1] * radius + at_y).astype(np.int32) % size
    found: Plane = tile[rows, columns]
    return found


def paint_max(plane: Plane, corner_px: NDArray[np.intp], images: Plane) -> None:
    """Keep the larger of plane and image, pixel by pixel, for each image (n, S, S) at its corner."""
    for (x, y), image in _clipped(plane, corner_px, images):
        window = plane[y : y + image.shape[0], x : x + image.shape[1]]
        np.maximum(window, image, out=window)


def _clipped(plane: Plane, corner_px: NDArray[np.intp], images: Plane) -> Iterator[tuple[tuple[int, int], Plane]]:
    """Yield each image with its corner, cut where it leaves the plane."""
    height, width = plane.shape
    side = images.shape[1]
    for (x, y), image in zip(corner_px.tolist(), images, strict=True):
        if 0 <= x <= width - side and 0 <= y <= height - side:
            yield (x, y), image
        elif -side < x < width and -side < y < height:
            left, top = max(0, -x), max(0, -y)
            yield (x + left, y + top), image[top : height - y, left : width - x]


def _column(values: NDArray[np.float64]) -> Plane:
    return values.astype(np.float32)[:, None, None]
