"""Engine `sitk`: SimpleITK's registration by mutual information, from the pose of our search.

Mutual information (Mattes et al. 2003) asks only that the two images are alike in structure, so the dense side may show
anything: autofluorescence, second harmonics, a membrane marker. An affine map comes first, then a B-spline. Whether
the B-spline helps is judged by blocks that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import SimpleITK
from numpy.typing import NDArray

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse
from pipeline.registration.assessment import judging_step, quality_of
from pipeline.registration.deformable import Measured, Step, measure
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage, NuclearSource
from pipeline.registration.information import shared_information
from pipeline.registration.matching import dense_under, laid_on
from pipeline.registration.pair import Pair, centred, overview, tissue_of
from pipeline.registration.quality import Correspondences, Quality
from pipeline.registration.sampled import sampled
from pipeline.registration.transform import GRID_MARGIN_UM, Transform
from pipeline.settings import RegisterSettings

sitk: Any = SimpleITK
_MPP = 4.0
_SIDE_PX = 2048
_BINS = 32
_SEED = 42
# With two threads the last digits differed from run to run.
_THREADS = 1
_SHOWN: tuple[Literal["nuclei", "tissue", "absorbance", "red_excess"], ...] = (
    "nuclei",
    "tissue",
    "absorbance",
    "red_excess",
)
_KNOT_UM = {"same-section": 384.0, "serial": 1024.0}
_TISSUE_MARGIN_UM = 60.0


@dataclass(frozen=True, eq=False)
class Images:
    """What SimpleITK compares.

    Attributes:
        sparse: H&E signal.
        dense: what lies under it of the dense slide, in its own frame.
        mask: (H, W) uint8, 255 where the sparse side shows tissue.
    """

    sparse: NuclearImage
    dense: NuclearImage
    mask: NDArray[np.uint8]


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """Return the transform of an open pair by SimpleITK, and its quality at blocks not used for fitting."""
    pair = pair.shown_for(settings.mode)
    sparse, dense, refined = _searched(pair)
    if not pair.nuclei:
        pair = replace(pair, sparse=sparse)
    tissue = tissue_of(overview(replace(sparse, shows="tissue") if pair.compared else sparse))
    pose, margin = (refined[0], coarse.margin(refined)) if refined else (None, None)
    start = centred(pair) if pose is None else Transform(pose.affine)
    maps = [("initial", centred(pair), True), ("coarse", start, pose is not None)]
    images = None if pose is None else _images(sparse, dense, start, tissue)
    affine = start if images is None else Transform(_affine(images, start.affine))
    maps.append(("affine", affine, images is not None))
    judged = tissue if not pair.nuclei else tissue_of(overview(pair.sparse))
    step = judging_step(pair, affine, settings, judged)
    measured = measure(pair.sparse, pair.dense, affine, step, judged)
    found = Correspondences.of(measured, affine, measured.odd)
    fitted, held_out, accepted = affine, affine, False
    if images is not None:
        knot_um = _KNOT_UM[settings.mode]
        half = _bspline(replace(images, mask=_without(images, measured, step)), affine, knot_um, pair)
        accepted = found.residual(half).median_um < found.residual(affine).median_um
        if accepted:
            held_out, fitted = half, _bspline(images, affine, knot_um, pair)
    maps.append(("b-spline", held_out, accepted))
    return fitted, quality_of(pair, settings, fitted, found, maps, step, "sitk", pose, margin)


def _searched(pair: Pair) -> tuple[NuclearSource, NuclearSource, list[coarse.Pose]]:
    """Return both sides as they are compared best, and the poses of the search.

    What of the H&E a channel resembles is not known beforehand, so several views of it are searched. Of all their poses
    the one is taken under which the colours of the H&E tell most about the channel.
    """
    sparse, dense = pair.compared or (pair.sparse, pair.dense)
    partner = overview(dense)
    if pair.compared is None:
        shown = overview(sparse)
        return sparse, dense, affine_step.refined(coarse.search(shown, partner), shown, partner)
    views = {shows: overview(replace(sparse, shows=shows)) for shows in _SHOWN}
    trials = []
    for shows, shown in views.items():
        poses = affine_step.refined(coarse.search(shown, partner), shown, partner)
        for number, pose in enumerate(poses):
            shared = shared_information((views["nuclei"], views["red_excess"]), partner, pose.affine)
            # That pose first: where another one of its view correlates better, the margin is negative.
            ranked = [pose, *poses[:number], *poses[number + 1 :]]
            trials.append((shared, replace(sparse, shows=shows), ranked))
    if not trials:
        return sparse, dense, []
    _, source, poses = max(trials, key=lambda trial: trial[0])
    return source, dense, poses


def _images(sparse: NuclearSource, dense: NuclearSource, start: Transform, tissue: NuclearImage) -> Images | None:
    """Return both sides at the resolution of the work; None where the pose puts nothing under the H&E."""
    longest_um = float((sparse.extent_um[1] - sparse.extent_um[0]).max())
    mpp = max(_MPP, longest_um / _SIDE_PX, sparse.mpp, dense.mpp)
    fixed = sparse.read(mpp)
    moving = dense_under(dense, start, fixed, mpp)
    if moving is None:
        return None
    near = replace(tissue, values=tissue.inside.astype(np.float32))
    held = laid_on(near, Transform.identity(), fixed).values > 0.5
    side = 2 * round(_TISSUE_MARGIN_UM / fixed.mpp) + 1
    mask: Any = cv2.dilate((held & fixed.inside).astype(np.uint8) * 255, np.ones((side, side), np.uint8))
    return Images(fixed, moving, mask)


def _affine(images: Images, start: Floats) -> Floats:
    """Return the affine map of most mutual information near another one."""
    transform = _itk_affine(start, images)
    with _fixed_threads():
        method = _method(images, [0.5, 0.3, 0.2])
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200, relaxationFactor=0.6)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([4 * images.sparse.mpp, 2 * images.sparse.mpp, 0])
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(*_itk_images(images))
    return _as_matrix(transform)


def _bspline(images: Images, affine: Transform, knot_um: float, pair: Pair) -> Transform:
    """Return the affine map after the B-spline of most mutual information."""
    fixed, moving = _itk_images(images)
    height, width = images.sparse.inside.shape
    last = [max(1, round(side * images.sparse.mpp / knot_um)) for side in (width, height)]
    # Three levels, each with twice the knots of the one before.
    first = [max(1, round(count / 4)) for count in last]
    spline = sitk.BSplineTransformInitializer(fixed, first, order=3)
    with _fixed_threads():
        method = _method(images, [0.3, 0.2, 0.1])
        method.SetMovingInitialTransform(_itk_affine(affine.affine, images))
        method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2, 4])
        # A line search to the last digit took six times as long and came no closer.
        method.SetOptimizerAsGradientDescentLineSearch(
            learningRate=5.0,
            numberOfIterations=40,
            convergenceMinimumValue=1e-5,
            convergenceWindowSize=5,
            lineSearchEpsilon=0.1,
            lineSearchMaximumIterations=4,
        )
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([4 * images.sparse.mpp, 2 * images.sparse.mpp, 0])
        method.Execute(fixed, moving)
    domain = images.sparse.to_um(np.array([[0, 0], [width - 1, height - 1]]))

    def mapped(points_um: Floats) -> Floats:
        moved = np.array([spline.TransformPoint(point) for point in points_um.tolist()], np.float64)
        return affine.to_dense(moved)

    return sampled(mapped, domain, affine.affine, margin_um=GRID_MARGIN_UM, dense_extent_um=pair.dense.extent_um)


def _without(images: Images, measured: Measured, step: Step) -> NDArray[np.uint8]:
    """Return the mask without the held-out squares of the chequerboard of blocks."""
    mask = images.mask.copy()
    half = step.spacing_um / 2
    centres = measured.shifts.centre_um[measured.odd]
    corners = np.rint(images.sparse.to_px(np.concatenate([centres - half, centres + half]))).astype(int)
    for (left, top), (right, bottom) in zip(*np.split(np.maximum(corners, 0), 2), strict=True):
        mask[top:bottom, left:right] = 0
    return mask


def _method(images: Images, shares: list[float]) -> Any:
    """Return a registration by Mattes' mutual information of a share of the pixels at each of three levels."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(shares, seed=_SEED)
    method.SetMetricFixedMask(_itk(images.mask, images.sparse))
    method.SetMetricMovingMask(_itk(images.dense.inside.astype(np.uint8), images.dense))
    method.SetInterpolator(sitk.sitkLinear)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetNumberOfThreads(_THREADS)
    return method


def _itk_images(images: Images) -> tuple[Any, Any]:
    return _itk(images.sparse.values, images.sparse), _itk(images.dense.values, images.dense)


def _itk(values: NDArray[Any], grid: NuclearImage) -> Any:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((grid.mpp, grid.mpp))
    image.SetOrigin(grid.origin_um)
    return image


def _itk_affine(affine: Floats, images: Images) -> Any:
    """Return an affine map about the middle of the sparse image, where turns and shifts depend least on each other."""
    height, width = images.sparse.inside.shape
    middle = images.sparse.to_um(np.array([[(width - 1) / 2, (height - 1) / 2]]))[0]
    matrix = affine[:, :2]
    transform = sitk.AffineTransform(2)
    transform.SetCenter(middle.tolist())
    transform.SetMatrix(matrix.ravel().tolist())
    transform.SetTranslation((matrix @ middle + affine[:, 2] - middle).tolist())
    return transform


def _as_matrix(transform: Any) -> Floats:
    matrix = np.array(transform.GetMatrix(), np.float64).reshape(2, 2)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    return np.column_stack([matrix, shift + centre - matrix @ centre])


@contextmanager
def _fixed_threads() -> Iterator[None]:
    """Return hold the number of threads of SimpleITK for the time of a `with` block."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(_THREADS)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
