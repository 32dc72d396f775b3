"""Engine `valis`: VALIS (Gatenbee et al. 2023, doi 10.1038/s41467-023-40218-9) in a separate environment.

VALIS gets both sides as grey nuclear images that our own readers made, the dense one already laid on the grid of the
sparse one by the pose of our density search. So it needs neither Java nor OpenSlide, crops nothing to the slide's
bounds, scales nothing, and need not look for mirrors, which misled it on painted pairs. What it finds becomes our
transform at once; its files, the pickle among them, go with their temporary folder.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse
from pipeline.registration.assessment import assess_steps
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.matching import dense_under, laid_on
from pipeline.registration.pair import Pair, centred, overview, sparse_overview, tissue_of
from pipeline.registration.quality import MIN_MARGIN, MIN_NCC, Quality
from pipeline.registration.sampled import fitted_affine, sampled
from pipeline.registration.transform import GRID_MARGIN_UM, Transform
from pipeline.registration.valis_import import valis_registration
from pipeline.settings import RegisterSettings

# What VALIS makes its non-rigid step with unless told otherwise; larger images gave no smaller error.
SIDE_PX = 2048
# The search is right to about 20 um, and deformation that it does not know adds a few cells.
MAX_POSE_DISTANCE_UM = 64.0
_TISSUE_POINTS = 2000
_CONTRAST_PERCENTILES = (1.0, 99.8)


@dataclass(frozen=True, eq=False)
class ValisResult:
    """What VALIS made of two images.

    Attributes:
        rigid: its similarity.
        non_rigid: with its deformation.
    """

    rigid: Transform
    non_rigid: Transform


def align(pair: Pair, settings: RegisterSettings) -> tuple[Transform, Quality]:
    """Return the transform of an open pair by VALIS, judged by blocks and by the pose of our own search.

    Blocks alone would not do: the optical flow of its non-rigid step lays nuclei on whatever nuclei are near, so that
    they agree in a map that is off by many cells. So the map must also lie where the density search, which has
    no flow, puts the tissue. Where VALIS finds nothing, or the two differ, the verdict is `fail`.

    Raises:
        StatedError: if valis is not installed in this interpreter.
    """
    valis = valis_registration()
    shown = pair.shown_for(settings.mode)
    sparse, dense = sparse_overview(shown.sparse), overview(shown.dense)
    refined = affine_step.refined(coarse.search(sparse, dense), sparse, dense)
    pose = refined[0] if refined else None
    margin = coarse.margin(refined) if refined else None
    steps = [("initial", centred(pair)), ("coarse", centred(pair) if pose is None else Transform(pose.affine))]
    with tempfile.TemporaryDirectory(prefix="valis-") as folder:
        found = _registered(valis, pair, steps[-1][1], Path(folder))
    if isinstance(found, str):
        quality = assess_steps(pair, steps, settings, "valis", pose, margin)
        return steps[-1][1], _failed(quality, f"VALIS found no transform: {found}")
    steps += [("rigid", found.rigid), ("non-rigid", found.non_rigid)]
    quality = assess_steps(pair, steps, settings, "valis", pose, margin)
    doubt = _doubt(found.non_rigid, tissue_of(sparse), pose, margin)
    return found.non_rigid, quality if doubt is None else _failed(quality, doubt)


def _doubt(transform: Transform, tissue: NuclearImage, pose: coarse.Pose | None, margin: float | None) -> str | None:
    """Return why the pose of our own search does not confirm a map; None where it does."""
    if pose is None or margin is None or pose.ncc < MIN_NCC or margin < MIN_MARGIN:
        return "the density search finds no decisive pose, and nothing else confirms the map"
    rows, columns = np.nonzero(tissue.inside)
    points = tissue.to_um(np.stack([columns, rows], axis=1)[:: max(1, len(rows) // _TISSUE_POINTS)])
    apart = np.linalg.norm(transform.to_dense(points) - Transform(pose.affine).to_dense(points), axis=1)
    median_um = float(np.median(apart))
    if median_um <= MAX_POSE_DISTANCE_UM:
        return None
    return f"the map lies {median_um:.0f} um from where the density search puts the tissue"


def _failed(quality: Quality, reason: str) -> Quality:
    return replace(quality, verdict="fail", reasons=(reason, *quality.reasons))


def _registered(valis: Any, pair: Pair, start: Transform, folder: Path) -> ValisResult | str:
    """Return what VALIS finds, or its own words on why it found nothing."""
    longest_um = float((pair.sparse.extent_um[1] - pair.sparse.extent_um[0]).max())
    mpp = max(longest_um / SIDE_PX, pair.sparse.mpp, pair.dense.mpp)
    sparse = pair.sparse.read(mpp)
    under = dense_under(pair.dense, start, sparse, mpp)
    if under is None:
        return "no part of the dense slide lies under the sparse one"
    laid = laid_on(under, start, sparse)
    # The names decide in which order VALIS takes the images.
    paths = [_written(image, folder / f"{name}.ome.tif") for name, image in (("1-sparse", sparse), ("2-dense", laid))]
    registrar = valis.Valis(
        str(folder),
        str(folder / "result"),
        name="pair",
        img_list=paths,
        imgs_ordered=True,
        reference_img_f=paths[0],
        align_to_reference=True,
        matcher=_matcher(valis),
        matcher_for_sorting=_matcher(valis),
        max_non_rigid_registration_dim_px=max(sparse.values.shape),
    )
    processor = _processor(valis)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        rigid, _, _ = registrar.register(processor_dict={path: [processor, {}] for path in paths})
    if rigid is None or rigid is False:
        # It prints what went wrong, and goes on.
        return _last_line(output.getvalue())
    fixed, moving = (registrar.get_slide(path) for path in paths)

    def mapped(points_um: Floats, *, non_rigid: bool) -> Floats:
        on_laid = fixed.warp_xy_from_to(sparse.to_px(points_um), moving, non_rigid=non_rigid)
        return start.to_dense(sparse.to_um(on_laid))

    low, high = pair.sparse.extent_um
    affine = fitted_affine(lambda points: mapped(points, non_rigid=False), low, high)
    # VALIS knows no deformation beyond its image.
    non_rigid = sampled(
        lambda points: mapped(points, non_rigid=True),
        pair.sparse.extent_um,
        affine,
        margin_um=GRID_MARGIN_UM,
        dense_extent_um=pair.dense.extent_um,
    )
    return ValisResult(Transform(affine), non_rigid)


def _written(image: NuclearImage, path: Path) -> str:
    """Write a nuclear image as OME-TIFF, uint8, dark where the slide holds nothing; the path comes back."""
    held = image.values[image.inside]
    low, high = np.percentile(held, _CONTRAST_PERCENTILES) if held.size else (0.0, 1.0)
    scaled = np.clip((image.values - low) / max(float(high - low), 1e-6), 0, 1) * image.inside
    pixels = np.rint(scaled * 255).astype(np.uint8)
    metadata = {"axes": "YX", "PhysicalSizeX": image.mpp, "PhysicalSizeY": image.mpp}
    tifffile.imwrite(path, pixels, photometric="minisblack", tile=(256, 256), metadata=metadata)
    return str(path)


def _matcher(valis: Any) -> Any:
    """Return VGG descriptors, matched by brute force and RANSAC: no weights, no restrictive licence."""
    detector = valis.feature_detectors.VggFD()
    method = valis.feature_matcher.DEFAULT_RANSAC_NAME
    return valis.feature_matcher.Matcher(match_filter_method=method, feature_detector=detector)


def _processor(valis: Any) -> Any:
    """Return the class by which VALIS takes an image as it is."""

    class NuclearSignal(valis.preprocessing.ImageProcesser):  # type: ignore[misc]
        """Signal that needs no processing; tissue is where VALIS sees it in fluorescence."""

        def create_mask(self) -> Any:
            return valis.preprocessing.create_tissue_mask_from_multichannel(self.image)[1]

        def process_image(self, *_: object, **__: object) -> Any:
            return self.image if self.image.ndim == 2 else self.image[..., 0]

    return NuclearSignal


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"
