"""Pairs cut from a real slide, H&E and Hoechst of one section, with the truth they were cut by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from array_slide import ArraySlide
from hard_pairs import Try
from numpy.typing import NDArray
from synthetic_pair import SyntheticPair, Truth

_MPP = 1.3
_HOECHST = 0
_DOWNSAMPLES = (1, 4)
_STEP_PX = 60


def real_tries() -> Iterator[Try]:
    """Yield what a search loses first: a small region, a small overlap, a bubble, a biopsy on a whole glass."""
    he, nuclei = _west()
    whole = (0, 0, he.shape[1], he.shape[0])
    yield _cut("region of 1 mm", he, nuclei, whole, (5600, 2700, 800, 800), 12, counts=True)
    yield _cut("overlap of 30 %", he, nuclei, (700, 900, 3800, 3800), (3360, 900, 3800, 3800), 40)
    yield _cut("bubble", he, _bubble(nuclei, (3000, 3200), 800), (1200, 700, 4000, 4400), (1200, 700, 4000, 4400), -15)
    yield _on_glass("biopsy on a glass", he, nuclei, (6300, 700, 800, 4800), 97)


def _west() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    folder = Path(os.environ["MFL_REAL_DATA"]) / "orion_crc01"
    he = tifffile.imread(folder / "west_he.tif", level=0)
    with tifffile.TiffFile(folder / "west_mif.ome.tif") as file:
        level = file.series[0].levels[0]
        channel = "C" in level.axes and level.axes.index("C") == 0
        stack = level.asarray()
    return he[..., :3], stack[_HOECHST] if channel else stack[..., _HOECHST]


def _bubble(nuclei: NDArray[np.uint8], middle_px: tuple[int, int], radius_px: int) -> NDArray[np.uint8]:
    """Return the image with a disc that is blurred and brighter."""
    y, x = np.ogrid[0 : nuclei.shape[0], 0 : nuclei.shape[1]]
    held = np.hypot(x - middle_px[0], y - middle_px[1]) < radius_px
    blurred = cv2.GaussianBlur(nuclei, (0, 0), 9).astype(np.int64) + 15
    return np.where(held, np.clip(blurred, 0, 255), nuclei).astype(np.uint8)


def _cut(
    case: str,
    he: NDArray[np.uint8],
    nuclei: NDArray[np.uint8],
    sparse_xywh: tuple[int, int, int, int],
    dense_xywh: tuple[int, int, int, int],
    degrees: float,
    *,
    counts: bool = False,
) -> Try:
    """Return the pair of two fields of the slide, the second one turned about its middle."""
    x, y, width, height = sparse_xywh
    left, top, across, down = dense_xywh
    cut = np.zeros_like(nuclei)
    cut[top : top + down, left : left + across] = nuclei[top : top + down, left : left + across]
    cut = nuclei if counts else cut
    side = across if counts else int(1.45 * max(across, down))
    truth = _truth(degrees, np.array([left - x + across / 2, top - y + down / 2]), np.array([side / 2, side / 2]))
    linear = np.column_stack([truth.matrix, truth.shift_um / _MPP - truth.matrix @ (truth.centre_um / _MPP + [x, y])])
    dense = cv2.warpAffine(cut, linear, (side, side))
    if counts:
        dense = np.random.default_rng(0).poisson(dense * 0.3 + 0.5).astype(np.uint16)
    points = _grid(sparse_xywh, dense_xywh)
    return _try(case, he[y : y + height, x : x + width], dense, truth, points)


def _on_glass(
    case: str, he: NDArray[np.uint8], nuclei: NDArray[np.uint8], core_xywh: tuple[int, int, int, int], degrees: float
) -> Try:
    """Return the pair of a whole glass with label and pen, and a dense scan of the tissue alone."""
    x, y, width, height = core_xywh
    glass = np.full((15000, 20000, 3), 243, np.uint8)
    cv2.putText(glass, "S21 A1", (500, 4000), cv2.FONT_HERSHEY_SIMPLEX, 14, (20, 20, 20), 60)
    cv2.ellipse(glass, (12400, 7400), (1500, 4200), 8, 0, 360, (40, 60, 190), 90)
    left, top = 12000, 5000
    glass[top : top + height, left : left + width] = he[y : y + height, x : x + width]
    side = int(1.1 * np.hypot(width, height))
    truth = _truth(degrees, np.array([left + width / 2, top + height / 2]), np.array([side / 2, side / 2]))
    middle = np.array([width / 2, height / 2])
    linear = np.column_stack([truth.matrix, np.array([side / 2, side / 2]) - truth.matrix @ middle])
    dense = cv2.warpAffine(np.ascontiguousarray(nuclei[y : y + height, x : x + width]), linear, (side, side))
    return _try(case, glass, dense, truth, _grid((0, 0, *glass.shape[1::-1]), (left, top, width, height)))


def _truth(degrees: float, from_px: NDArray[np.float64], to_px: NDArray[np.float64]) -> Truth:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Truth(matrix, from_px * _MPP, to_px * _MPP, np.zeros((0, 5)))


def _grid(sparse_xywh: tuple[int, int, int, int], dense_xywh: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Return points in um of the sparse frame where both fields lie."""
    low = np.maximum(sparse_xywh[:2], dense_xywh[:2])
    high = np.minimum(np.add(sparse_xywh[:2], sparse_xywh[2:]), np.add(dense_xywh[:2], dense_xywh[2:]))
    x, y = (np.arange(first + _STEP_PX, last - _STEP_PX, _STEP_PX) for first, last in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2) - sparse_xywh[:2]
    return points * _MPP


def _try(
    case: str, he: NDArray[np.uint8], dense: NDArray[np.generic], truth: Truth, points_um: NDArray[np.float64]
) -> Try:
    sparse = ArraySlide(_even(he), mpp=_MPP, downsamples=_DOWNSAMPLES)
    slide = ArraySlide(_even(dense[..., None]), mpp=_MPP, downsamples=_DOWNSAMPLES, channels=("Hoechst",))
    return Try(case, SyntheticPair(sparse, slide, (_MPP, _MPP), truth, points_um), "right")


def _even(image: NDArray[np.generic]) -> NDArray[np.generic]:
    side = _DOWNSAMPLES[-1]
    return np.ascontiguousarray(image[: image.shape[0] // side * side, : image.shape[1] // side * side])
