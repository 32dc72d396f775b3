"""Find the pose where the first search is not decisive: a small region, a small overlap, glass, bubbles, labels.

The first search sees both slides whole in 128 px and lets their outlines speak. Here the density of nuclei is compared
with its own surroundings, within tissue alone, so neither outlines nor a brighter field, a label or a bubble decide;
pixels are as small as the smaller slide needs; and a correlation counts by the square root of the area that bears it,
as its significance does, so that a small overlap competes with a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.registration.coarse import Pose, density, pose_affine, turned
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.pair import tissue_of
from pipeline.registration.transform import Transform

# Pixels along the smaller and the larger slide; the second bounds the cost.
_SMALLER_PX, _LARGER_PX = 128, 384
_LEAST_MPP = 8.0
_LEAST_OVERLAP = 0.2
_STEP_DEGREES = (2.0, 5.0)
_PEAKS_PER_TURN = 3
_PEAK_PX = 3
_CANDIDATES = 4
_SURROUNDINGS_UM = 150.0
_MOST_CONTRAST = 3.0
# Each zoom looks at what both slides share with pixels a quarter as large.
_ZOOM, _ZOOM_TURNS, _ZOOM_PX = 4, 4, 640
_FINEST_MPP = 8.0
_SHARED_MARGIN_UM = 300.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A pose that the second search found.

    Attributes:
        pose: its `ncc` is that of the locally normalised densities over the shared tissue.
        score: the correlation times the square root of the pixels that both share.
    """

    pose: Pose
    score: float


@dataclass(frozen=True, eq=False)
class _Frame:
    """The dense side of a scan: its normalised density, with spectra padded for every shift.

    Attributes:
        image: normalised density.
        diagonal: side of the square that holds the sparse image at any rotation.
        shape: of the padded images.
        values: spectrum of the density.
        mask: spectrum of its tissue.
    """

    image: NuclearImage
    diagonal: int
    shape: tuple[int, int]
    values: Any
    mask: Any

    @classmethod
    def of(cls, fixed: NuclearImage, moving: NuclearImage) -> _Frame:
        """Return the frame in which `fixed` is turned and shifted over `moving`."""
        diagonal = int(np.ceil(np.hypot(*fixed.inside.shape))) + 2
        height, width = (scipy.fft.next_fast_len(diagonal + n, real=True) for n in moving.inside.shape)
        shape = (height, width)
        spectra = [_spectrum(part, shape) for part in (moving.values, moving.inside.astype(np.float32))]
        return cls(moving, diagonal, shape, spectra[0], spectra[1])


def search(sparse: NuclearImage, dense: NuclearImage, mirrors: Sequence[bool] = (False, True)) -> list[Candidate]:
    """Return the best poses, best first, each another mirror, rotation or place; empty where a side is blank.

    Args:
        sparse: overview of the tissue of the H&E slide.
        dense: of that of the dense slide.
        mirrors: whether the H&E may be as it is, flipped, or both.
    """
    extents = [max(image.inside.shape) * image.mpp for image in (sparse, dense)]
    mpp = max(min(extents) / _SMALLER_PX, max(extents) / _LARGER_PX, _LEAST_MPP, sparse.mpp, dense.mpp)
    fixed, moving = (local_density(image, mpp) for image in (sparse, dense))
    if min(float(fixed.values.std()), float(moving.values.std())) < 1e-6:
        return []
    reach = min(float(np.hypot(*image.inside.shape)) for image in (fixed, moving)) / 2
    step = float(np.clip(np.rad2deg(3 / reach), *_STEP_DEGREES))
    frame = _Frame.of(fixed, moving)
    found = [
        candidate
        for mirrored in mirrors
        for degrees in np.arange(-180, 180, step)
        for candidate in _peaks(fixed, frame, mirrored, float(degrees), _PEAKS_PER_TURN)
    ]
    return _distinct(found, dense, min(extents) / 4)


def margin(candidates: list[Candidate]) -> float:
    """Return how far the first pose stands above the others: its correlation times the share by which it scores higher.

    0 where there is no other.
    """
    if len(candidates) < 2:
        return 0.0
    return candidates[0].pose.ncc * (1 - max(candidates[1].score, 0.0) / max(candidates[0].score, 1e-9))


def zoomed(pose: Pose, sparse: NuclearImage, dense: NuclearImage) -> Pose:
    """Return a pose sharpened on what both slides share, in ever smaller pixels and turns.

    Args:
        pose: from `search`.
        sparse: overview of the H&E slide.
        dense: overview of the dense slide.
    """
    mpp, step_degrees = 0.0, _STEP_DEGREES[1] / 2
    while True:
        first, second = _shared(pose, sparse, dense)
        finest = max(_FINEST_MPP, max(max(part.inside.shape) * part.mpp for part in (first, second)) / _ZOOM_PX)
        finest = max(finest, sparse.mpp, dense.mpp)
        mpp = max(finest, mpp / _ZOOM) if mpp else 2 * finest
        fixed, moving = local_density(first, mpp), local_density(second, mpp)
        frame = _Frame.of(fixed, moving)
        turns = pose.degrees + np.linspace(-step_degrees, step_degrees, 2 * _ZOOM_TURNS + 1)
        tried = [one for turn in turns for one in _peaks(fixed, frame, pose.mirrored, float(turn), 1)]
        if not tried:
            return pose
        pose = max(tried, key=lambda candidate: candidate.score).pose
        step_degrees /= _ZOOM_TURNS
        if mpp <= finest:
            return pose


def local_density(image: NuclearImage, mpp: float) -> NuclearImage:
    """Return the nuclear density less its local mean, over its local spread, within tissue; 0 and not inside elsewhere.

    Args:
        image: nuclear signal, finer than `mpp`.
        mpp: wanted um per pixel.
    """
    coarse = density(image, mpp)
    inside = _laid_mask(tissue_of(image), coarse)
    mask = inside.astype(np.float32)
    sigma = _SURROUNDINGS_UM / coarse.mpp

    def around(values: NDArray[np.float32]) -> Any:
        return cv2.GaussianBlur(values, (0, 0), sigma)

    weight = around(mask) + 1e-3
    apart = (coarse.values - around(coarse.values * mask) / weight) * mask
    whole = _spread(apart, mask)
    # Half of the overall spread as a floor: what is blurred or empty stays as weak as it is.
    values = apart / (np.sqrt(around(apart * apart) / weight) + 0.5 * whole + 1e-9)
    values = np.clip(values, -_MOST_CONTRAST, _MOST_CONTRAST) * mask
    values /= max(_spread(values, mask), 1e-9)
    return NuclearImage(values.astype(np.float32), inside, coarse.origin_um, coarse.mpp)


def _spread(values: NDArray[np.float32], mask: NDArray[np.float32]) -> float:
    return float(np.sqrt((values * values).sum() / max(float(mask.sum()), 1.0)))


def _laid_mask(tissue: NuclearImage, grid: NuclearImage) -> NDArray[np.bool_]:
    """Return whether the pixels of a grid lie on tissue."""
    height, width = grid.inside.shape
    scale, start = grid.mpp / tissue.mpp, (np.array(grid.origin_um) - tissue.origin_um) / tissue.mpp
    matrix = np.array([[scale, 0, start[0]], [0, scale, start[1]]])
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    laid: Any = cv2.warpAffine(tissue.inside.astype(np.uint8), matrix, (width, height), flags=flags)
    return np.asarray(laid > 0)


def _spectrum(values: NDArray[np.float32], shape: tuple[int, int]) -> Any:
    return scipy.fft.rfft2(values, shape, workers=2)


def _peaks(fixed: NuclearImage, frame: _Frame, mirrored: bool, degrees: float, count: int) -> list[Candidate]:
    """Return the best shifts of one rotation and mirror."""
    turn = turned(fixed, mirrored, degrees, frame.diagonal)
    size = (frame.diagonal, frame.diagonal)
    values: Any = cv2.warpAffine(fixed.values, turn, size, flags=cv2.INTER_LINEAR)
    mask: Any = cv2.warpAffine(fixed.inside.astype(np.float32), turn, size, flags=cv2.INTER_LINEAR)
    cross = scipy.fft.irfft2(np.conj(_spectrum(values, frame.shape)) * frame.values, frame.shape, workers=2)
    shared = scipy.fft.irfft2(np.conj(_spectrum(mask, frame.shape)) * frame.mask, frame.shape, workers=2)
    least = max(_LEAST_OVERLAP * min(np.count_nonzero(fixed.inside), np.count_nonzero(frame.image.inside)), 16.0)
    score = np.where(shared >= least, cross / np.sqrt(np.maximum(shared, least)), -np.inf)
    found = []
    for _ in range(count):
        row, column = (int(at) for at in np.unravel_index(int(np.argmax(score)), score.shape))
        height = float(score[row, column])
        if not height > 0:
            break
        # A shift beyond the dense image is a negative one, wrapped round.
        sides = zip((row, column), frame.image.inside.shape, frame.shape, strict=True)
        y, x = (at if at < side else at - whole for at, side, whole in sides)
        affine = pose_affine(fixed, frame.image, turn, np.array([float(x), float(y)]))
        ncc = height / float(np.sqrt(shared[row, column]))
        found.append(Candidate(Pose(mirrored, degrees, ncc, affine), height))
        score[max(0, row - _PEAK_PX) : row + _PEAK_PX + 1, max(0, column - _PEAK_PX) : column + _PEAK_PX + 1] = -np.inf
    return found


def _distinct(found: list[Candidate], dense: NuclearImage, distance_um: float) -> list[Candidate]:
    """Return the best candidates that differ in mirror, rotation or place."""
    chosen: list[Candidate] = []
    middle = _extent(dense).mean(0)
    for candidate in sorted(found, key=lambda one: -one.score):
        if all(_differs(candidate.pose, other.pose, middle, distance_um) for other in chosen):
            chosen.append(candidate)
            if len(chosen) == _CANDIDATES:
                break
    return chosen


def _differs(pose: Pose, other: Pose, middle_um: Floats, distance_um: float) -> bool:
    """Return whether two poses differ in mirror or rotation, or in what they put under a point of the dense slide."""
    # Rotations about other places differ much far from what both slides share.
    apart = _inverse(pose).to_dense(middle_um[None]) - _inverse(other).to_dense(middle_um[None])
    return pose.differs(other) or float(np.linalg.norm(apart)) > distance_um


def _inverse(pose: Pose) -> Transform:
    inverse = np.linalg.inv(pose.affine[:, :2])
    return Transform(np.column_stack([inverse, -inverse @ pose.affine[:, 2]]))


def _shared(pose: Pose, sparse: NuclearImage, dense: NuclearImage) -> tuple[NuclearImage, NuclearImage]:
    """Return what a pose says both images share, each with a margin."""
    there, back = Transform(pose.affine), _inverse(pose)
    first, second = _extent(sparse), _extent(dense)
    box = _overlap(first, back.to_dense(_corners(second)))
    boxes = (box, _overlap(second, there.to_dense(_corners(box))))
    return sparse.cropped(boxes[0], _SHARED_MARGIN_UM), dense.cropped(boxes[1], _SHARED_MARGIN_UM)


def _extent(image: NuclearImage) -> Floats:
    height, width = image.inside.shape
    return image.to_um(np.array([[0, 0], [width - 1, height - 1]]))


def _corners(box: Floats) -> Floats:
    (left, top), (right, bottom) = box.tolist()
    return np.array([[left, top], [right, top], [left, bottom], [right, bottom]])


def _overlap(box: Floats, points: Floats) -> Floats:
    """Return the part of a box that the bounding box of some points covers; a point of it where there is none."""
    return np.stack([np.clip(points.min(0), box[0], box[1]), np.clip(points.max(0), box[0], box[1])])
