"""Painted tissue seen twice, with a known map between the two views: what registration is tested against.

Nuclei are polygons in um. The H&E view paints them on the sparse grid, the dense view paints their images under the
true map on another grid, with intensities of their own, so that nothing but the place of the nuclei is shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from array_slide import ArraySlide
from numpy.typing import NDArray

_SUBPIXEL_BITS = 6


@dataclass(frozen=True, eq=False)
class Truth:
    """A rotation about a point, perhaps after a mirror, a shift, and a sum of smooth waves."""

    matrix: NDArray[np.float64]
    centre_um: NDArray[np.float64]
    shift_um: NDArray[np.float64]
    waves: NDArray[np.float64]

    def __call__(self, points_um: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = (points_um - self.centre_um) @ self.matrix.T + self.shift_um
        for kx, ky, phase, ax, ay in self.waves:
            wave = np.sin(points_um[:, 0] * kx + points_um[:, 1] * ky + phase)
            moved = moved + wave[:, None] * np.array([ax, ay])
        return moved


@dataclass(frozen=True, eq=False)
class SyntheticPair:
    """Two slides and the map between them.

    Attributes:
        sparse: H&E.
        dense: channels `CD3` and `DAPI`, uint16.
        mpp: of the sparse and of the dense slide.
        truth: sparse um to dense um.
        nuclei_um: (N, 2) true places of nuclei on the sparse slide.
    """

    sparse: ArraySlide
    dense: ArraySlide
    mpp: tuple[float, float]
    truth: Truth
    nuclei_um: NDArray[np.float64]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> NDArray[np.float32]:
    """Gaussian noise of mean 0 and spread 1 that varies over `sigma_px` pixels."""
    noise = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), sigma_px)
    return (noise - noise.mean()) / noise.std()


def tissue_density(rng: np.random.Generator, side_um: int) -> NDArray[np.float32]:
    """Expected nuclei per square of 8 um: an outline, dense and loose regions, and glands with a bright rim."""
    cells = side_um // 8
    y, x = np.mgrid[0:cells, 0:cells] / cells - 0.5
    outline = np.hypot(x, y) + 0.05 * smooth_noise(rng, (cells, cells), cells / 8) < 0.46
    texture = np.exp(0.5 * smooth_noise(rng, (cells, cells), 6) + 0.4 * smooth_noise(rng, (cells, cells), cells / 10))
    gland = smooth_noise(rng, (cells, cells), 5)
    rim = np.exp(-((gland - 0.9) ** 2) / 0.02) * 2.5
    lumen = gland > 1.1
    return (outline * np.where(lumen, 0.02, 0.25 * texture + 0.3 * rim)).astype(np.float32)


def random_truth(
    rng: np.random.Generator, side_um: float, *, degrees: float, mirrored: bool, deformation_um: float
) -> Truth:
    """A map with the given pose; its waves displace by `deformation_um` at most, over lengths of 0.7 to 2 mm."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix = matrix @ np.diag([-1.0, 1.0])
    waves = []
    for _ in range(4):
        direction, length = rng.uniform(0, 2 * np.pi), rng.uniform(700, 2000)
        k = 2 * np.pi / length
        push = rng.uniform(0, 2 * np.pi)
        waves.append([k * np.cos(direction), k * np.sin(direction), rng.uniform(0, 6.3), np.cos(push), np.sin(push)])
    table = np.array(waves)
    truth = Truth(matrix, np.full(2, side_um / 2), np.zeros(2), table)
    across = np.linspace(0, side_um, 40)
    points = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2)
    largest = np.linalg.norm(truth(points) - (points - side_um / 2) @ matrix.T, axis=1).max()
    table[:, 3:] *= deformation_um / largest
    moved = Truth(matrix, truth.centre_um, truth.shift_um, table)(points)
    return Truth(matrix, truth.centre_um, -moved.min(0) + rng.uniform(20, 120, 2), table)


def paint(polygons_um: NDArray[np.float64], values: NDArray[np.float64], size: tuple[int, int], mpp: float) -> Any:
    """Filled polygons (N, K, 2) on a grid of twice the resolution, averaged down: float32 (height, width)."""
    canvas = np.zeros((size[1] * 2, size[0] * 2), np.float32)
    # Pixel i of the fine canvas is centred at (i + 0.5) / 2 - 0.5 coarse pixels.
    position = ((polygons_um / mpp + 0.5) * 2 - 0.5) * (1 << _SUBPIXEL_BITS)
    for polygon, value in zip(np.rint(position).astype(np.int32), values, strict=True):
        cv2.fillPoly(canvas, [polygon], float(value), cv2.LINE_8, _SUBPIXEL_BITS)
    return canvas.reshape(size[1], 2, size[0], 2).mean((1, 3))


def synthetic_pair(
    seed: int,
    *,
    degrees: float = 0.0,
    mirrored: bool = False,
    deformation_um: float = 15.0,
    side_um: int = 1536,
    mpp: tuple[float, float] = (1.0, 0.8),
    shared: float = 0.95,
    tissue_seed: int | None = None,
    section_seed: int | None = None,
    whole_shift: bool = False,
) -> SyntheticPair:
    """A pair with a known map.

    Args:
        seed: of everything random but the dense tissue's, see `tissue_seed`.
        degrees: rotation.
        mirrored: whether the dense slide was turned over.
        deformation_um: largest displacement of the smooth part.
        side_um: side of the sparse slide.
        mpp: of both slides.
        shared: fraction of the nuclei that either view keeps.
        tissue_seed: seed of the dense slide's tissue where it is another one: a wrong pair.
        section_seed: seed of the dense slide's nuclei where they are others of the same tissue: a neighbouring section.
        whole_shift: round the shift to whole pixels of the dense slide.
    """
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, side_um, degrees=degrees, mirrored=mirrored, deformation_um=deformation_um)
    if whole_shift:
        # The places of sparse pixel (0, 0) and dense pixels then differ by whole pixels.
        offset = np.rint((truth.shift_um - truth.matrix @ truth.centre_um) / mpp[1]) * mpp[1]
        truth = Truth(truth.matrix, truth.centre_um, offset + truth.matrix @ truth.centre_um, truth.waves)
    polygons = _nuclei(np.random.default_rng(seed + 1000), side_um)
    other = polygons
    if tissue_seed is not None or section_seed is not None:
        tissue = np.random.default_rng((seed if tissue_seed is None else tissue_seed) + 1000)
        places = None if section_seed is None else np.random.default_rng(section_seed)
        other = _nuclei(tissue, side_um, places)
    sparse = _hematoxylin_eosin(rng, polygons[rng.uniform(size=len(polygons)) < shared], side_um, mpp[0])
    images = truth(other.reshape(-1, 2)).reshape(other.shape)
    corners = truth(np.array([[0.0, 0], [side_um, 0], [0, side_um], [side_um, side_um]]))
    extent = corners.max(0) + rng.uniform(20, 120, 2)
    dense = _fluorescence(rng, images[rng.uniform(size=len(images)) < shared], extent, mpp[1])
    return SyntheticPair(sparse, dense, mpp, truth, polygons.mean(1))


def _nuclei(
    rng: np.random.Generator, side_um: int, places_rng: np.random.Generator | None = None
) -> NDArray[np.float64]:
    """Outlines (N, 12, 2) in um; with a generator of their own the nuclei are others of the same tissue."""
    density = tissue_density(rng, side_um)
    rng = places_rng or rng
    counts = rng.poisson(density * 0.8)
    rows, columns = np.nonzero(counts)
    places = (np.stack([columns, rows], 1) + rng.uniform(size=(len(rows), 2))) * 8.0
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    long, short = rng.uniform(3, 5.5, (2, len(places), 1))
    turn = rng.uniform(0, np.pi, (len(places), 1))
    x, y = long * np.cos(angles), np.minimum(short, long) * np.sin(angles)
    outline = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], -1)
    return places[:, None] + outline


def _hematoxylin_eosin(rng: np.random.Generator, polygons: Any, side_um: int, mpp: float) -> ArraySlide:
    size = (round(side_um / mpp),) * 2
    nuclei = paint(polygons, rng.uniform(0.5, 1.0, len(polygons)), size, mpp)
    tissue = cv2.GaussianBlur((nuclei > 0).astype(np.float32), (0, 0), 18 / mpp)
    eosin = np.clip(tissue * 3, 0, 0.6) * (1 + 0.2 * smooth_noise(rng, nuclei.shape, 3)) * (nuclei < 0.2)
    density = nuclei[..., None] * np.array([0.65, 0.70, 0.29]) + eosin[..., None] * np.array([0.07, 0.5, 0.11])
    blurred = cv2.GaussianBlur(density.astype(np.float32), (0, 0), 0.5 / mpp)
    rgb = 245 * 10.0 ** (-blurred) + rng.normal(0, 3, density.shape)
    return ArraySlide(np.clip(rgb, 0, 255).astype(np.uint8), mpp=mpp, downsamples=(1, 2, 4))


def _fluorescence(rng: np.random.Generator, polygons: Any, extent_um: Any, mpp: float) -> ArraySlide:
    size = (int(np.ceil(extent_um[0] / mpp)), int(np.ceil(extent_um[1] / mpp)))
    nuclei = cv2.GaussianBlur(paint(polygons, rng.uniform(0.3, 1.0, len(polygons)), size, mpp), (0, 0), 0.6 / mpp)
    haze = cv2.GaussianBlur(nuclei, (0, 0), 20 / mpp)
    signal = 200 + 6000 * nuclei + 900 * haze
    dapi = rng.poisson(np.maximum(signal, 0)) + rng.normal(0, 40, signal.shape)
    marker = rng.poisson(np.full(signal.shape, 100.0))
    stack = np.stack([marker, np.clip(dapi, 0, 65535)], axis=-1).astype(np.uint16)
    return ArraySlide(stack, mpp=mpp, downsamples=(1, 2, 4), channels=("CD3", "DAPI"))
