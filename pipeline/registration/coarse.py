"""Search the first pose: every rotation and both mirrors, by correlation of nuclear density over the overlap.

Silhouette and density of nuclei survive the change of stain, and a search over all poses cannot start wrongly. The
correlation is normalised over the overlap alone (Padfield 2012, masked FFT registration), so a field of view that
is cut, or black corners of a rotated scan, count neither for nor against a pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import laid_on
from pipeline.registration.transform import Transform

_SIDE_PX = 128
_STEP_DEGREES = 3.0
_BLUR_PX = 1.2
_MIN_OVERLAP = 0.5
_CANDIDATES = 6
OTHER_POSE_DEGREES = 20.0


@dataclass(frozen=True, eq=False)
class Pose:
    """One rigid placement of the sparse slide in the dense frame.

    Attributes:
        mirrored: whether the sparse image is flipped left to right.
        degrees: rotation that follows the flip.
        ncc: normalised correlation of the densities over the overlap.
        affine: (2, 3), sparse um to dense um.
    """

    mirrored: bool
    degrees: float
    ncc: float
    affine: Floats

    def differs(self, other: Pose, degrees: float = OTHER_POSE_DEGREES) -> bool:
        """Return whether this is another pose than a near variant of `other`."""
        turn = abs((self.degrees - other.degrees + 180) % 360 - 180)
        return self.mirrored != other.mirrored or turn > degrees


def density(image: NuclearImage, mpp: float, blur_px: float = _BLUR_PX) -> NuclearImage:
    """Return nuclear density at a coarse resolution: clipped at its 1st and 99.5th percentile, averaged, blurred.

    Args:
        image: nuclear signal, finer than `mpp`.
        mpp: wanted um per pixel.
        blur_px: standard deviation of the blur in pixels of the result.
    """
    signal: Any = _clipped(image)
    small: Any
    inside: Any
    height, width = signal.shape
    size = (max(8, round(width * image.mpp / mpp)), max(8, round(height * image.mpp / mpp)))
    # One factor for both axes keeps the pixels square; the last fraction of a pixel is cut or repeated.
    factor = mpp / image.mpp
    if factor < 1.01:
        small, inside, factor = signal, image.inside, 1.0
    else:
        smoothed = cv2.GaussianBlur(signal, (0, 0), factor / 2)
        matrix = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        small = cv2.warpAffine(smoothed, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        inside = (
            cv2.warpAffine(image.inside.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
            > 0
        )
    shift = (factor - 1) / 2 * image.mpp
    origin = (image.origin_um[0] + shift, image.origin_um[1] + shift)
    blurred: Any = cv2.GaussianBlur(small, (0, 0), blur_px)
    return NuclearImage(blurred, inside, origin, image.mpp * factor)


def masked_ncc(fixed: NuclearImage, moving: NuclearImage, affine: Floats) -> float:
    """Return normalised correlation of two densities under an affine map, over the pixels that both hold.

    0 where nothing varies, or where they share less than half of the smaller one.
    """
    laid = laid_on(moving, Transform(affine), fixed)
    both = laid.inside
    areas = [np.count_nonzero(image.inside) * image.mpp**2 for image in (fixed, moving)]
    if np.count_nonzero(both) * fixed.mpp**2 < 0.95 * _MIN_OVERLAP * min(areas):
        return 0.0
    a, b = fixed.values[both].astype(np.float64), laid.values[both].astype(np.float64)
    spread = float(a.std() * b.std())
    return 0.0 if spread < 1e-9 else float(np.mean((a - a.mean()) * (b - b.mean())) / spread)


def margin(poses: list[Pose]) -> float:
    """Return how much better the first pose correlates than the best one of another mirror or rotation.

    0 where there is none: a pose that was compared with no other is not decisive.
    """
    rivals = [pose.ncc for pose in poses[1:] if pose.differs(poses[0])]
    return poses[0].ncc - max(rivals) if rivals else 0.0


def search(sparse: NuclearImage, dense: NuclearImage, *, coarsen: int = 1) -> list[Pose]:
    """Return the best poses, best first, each of another mirror or rotation than those before it.

    Empty for a blank image.

    Both mirrors are among them, even where every turn of the one correlates better than any of the other.

    Args:
        sparse: nuclear signal of H&E.
        dense: of the dense slide.
        coarsen: factor on pixel and angle, for a search that is repeated.
    """
    extents = [max(image.inside.shape) * image.mpp for image in (sparse, dense)]
    step_degrees = _STEP_DEGREES * coarsen
    mpp = max(max(extents) / _SIDE_PX * coarsen, sparse.mpp, dense.mpp)
    fixed, moving = density(sparse, mpp), density(dense, mpp)
    if min(float(fixed.values.std()), float(moving.values.std())) < 1e-6:
        return []
    diagonal = int(np.ceil(np.hypot(*fixed.inside.shape))) + 2
    frame = tuple(scipy.fft.next_fast_len(diagonal + n, real=True) for n in moving.inside.shape)
    spectra = _spectra(moving.values, moving.inside, frame)
    area = min(int(image.inside.sum()) for image in (fixed, moving))
    poses = []
    for mirrored in (False, True):
        for degrees in np.arange(-180, 180, step_degrees):
            turn = turned(fixed, bool(mirrored), float(degrees), diagonal)
            values: Any = cv2.warpAffine(fixed.values, turn, (diagonal, diagonal), flags=cv2.INTER_LINEAR)
            inside = (
                cv2.warpAffine(fixed.inside.astype(np.uint8), turn, (diagonal, diagonal), flags=cv2.INTER_NEAREST) > 0
            )
            ncc, shift = _best_shift(_spectra(values, inside, frame), spectra, frame, area, moving.inside.shape)
            poses.append(Pose(bool(mirrored), float(degrees), ncc, pose_affine(fixed, moving, turn, shift)))
    poses.sort(key=lambda pose: -pose.ncc)
    chosen: list[Pose] = []
    for pose in poses:
        if all(pose.differs(other, 3 * step_degrees) for other in chosen):
            chosen.append(pose)
    best, rest = chosen[:_CANDIDATES], chosen[_CANDIDATES:]
    if all(pose.mirrored == best[0].mirrored for pose in best):
        # The search sees a slide in 128 px: which mirror is right shows only when both are refined.
        best[-1] = next(pose for pose in rest if pose.mirrored != best[0].mirrored)
    return best


def _clipped(image: NuclearImage) -> NDArray[np.float32]:
    """Return signal between its 1st and 99.5th percentile inside the slide, scaled to 0 to 1."""
    sample = image.values[image.inside]
    if sample.size == 0:
        return np.zeros_like(image.values)
    low, high = np.percentile(sample[:: max(1, sample.size // 1_000_000)], (1, 99.5))
    if high - low < 1e-6:
        return np.zeros_like(image.values)
    scaled: NDArray[np.float32] = np.clip((image.values - low) / (high - low), 0, 1).astype(np.float32)
    scaled[~image.inside] = 0
    return scaled


def turned(image: NuclearImage, mirrored: bool, degrees: float, diagonal: int) -> Floats:
    """Return (2, 3) pixel map that flips an image about its middle, rotates it and centres it in a square."""
    height, width = image.inside.shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored:
        matrix = matrix @ np.diag([-1.0, 1.0])
    return np.column_stack([matrix, (diagonal - 1) / 2 - matrix @ middle])


def pose_affine(fixed: NuclearImage, moving: NuclearImage, turn: Floats, shift_xy: Floats) -> Floats:
    """Return the pixel map as a map of um; both densities share one mpp."""
    matrix, offset = turn[:, :2], turn[:, 2] + shift_xy
    scale = moving.mpp / fixed.mpp
    linear = matrix * scale
    constant = offset * moving.mpp + np.asarray(moving.origin_um) - linear @ np.asarray(fixed.origin_um)
    return np.column_stack([linear, constant])


def _spectra(values: NDArray[np.float32], inside: NDArray[np.bool_], frame: Any) -> tuple[Any, Any, Any]:
    """Return Fourier transforms of the mask, the masked image and its square."""
    mask = inside.astype(np.float32)
    image = values * mask
    return tuple(scipy.fft.rfft2(part, frame) for part in (mask, image, image * image))


def _best_shift(first: Any, second: Any, frame: Any, area: int, shape: tuple[int, ...]) -> tuple[float, Floats]:
    """Return best correlation over all shifts, and the shift xy in pixels that carries the first image onto the second.

    Args:
        first: spectra of the image that is shifted, see `_spectra`.
        second: those of the image that it is laid on.
        frame: shape that both were padded to, at least the sum of their shapes.
        area: pixels of which a fraction has to be shared.
        shape: of the second image before it was padded.
    """
    mask_1, image_1, square_1 = (np.conj(part) for part in first)
    mask_2, image_2, square_2 = second
    products = np.stack(
        [mask_1 * mask_2, image_1 * mask_2, mask_1 * image_2, square_1 * mask_2, mask_1 * square_2, image_1 * image_2]
    )
    count, sum_1, sum_2, power_1, power_2, cross = scipy.fft.irfft2(products, frame, workers=2)
    enough = count >= _MIN_OVERLAP * area
    count = np.maximum(count, 1)
    variance_1 = np.maximum(power_1 - sum_1 * sum_1 / count, 0)
    variance_2 = np.maximum(power_2 - sum_2 * sum_2 / count, 0)
    spread = np.sqrt(variance_1 * variance_2)
    known = enough & (spread > 1e-4 * float(spread.max(initial=0)) + 1e-9)
    ncc = np.where(known, (cross - sum_1 * sum_2 / count) / np.where(known, spread, 1), -1)
    row, column = np.unravel_index(int(np.argmax(ncc)), ncc.shape)
    # No shift reaches beyond the second image, so what lies there is negative. Half of the frame would be the border
    # of images of one size only: a small dense slide at the far end of a large H&E would be laid elsewhere.
    y, x = (at if at < side else at - whole for at, side, whole in zip((row, column), shape, frame, strict=True))
    return float(ncc[row, column]), np.array([float(x), float(y)])
