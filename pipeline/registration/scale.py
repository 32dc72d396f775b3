"""Try other um per pixel where nothing matches at the stated one.

The stated scale alone does not distinguish a wrong mpp from a wrong pair, and the remedy differs. So the
search is repeated with the dense slide taken for larger and smaller, which needs no finer images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.registration import affine as affine_step
from pipeline.registration import coarse
from pipeline.registration.coarse import Pose
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage

# Steps of 12 %: what is off by half a step still correlates, and the affine step finds the rest.
SCALES = tuple(float(2 ** (step / 6)) for step in (*range(-9, 0), *range(1, 10)))
_COARSEN = 2
_CANDIDATES = 3


@dataclass(frozen=True, eq=False)
class ScaledPose:
    """A pose at another scale than the stated one.

    Attributes:
        pose: its affine map leads to stated um.
        margin: correlation above the best other pose at this scale.
    """

    pose: Pose
    margin: float


def other_scales(sparse: NuclearImage, dense: NuclearImage) -> list[ScaledPose]:
    """Return the most decisive poses at other scales, best first."""
    searched = []
    for scale in SCALES:
        poses = coarse.search(sparse, _scaled(dense, scale), coarsen=_COARSEN)
        searched.append((coarse.margin(poses), scale, poses))
    searched.sort(key=lambda found: -found[0])
    candidates = []
    for _, scale, poses in searched[:_CANDIDATES]:
        refined = affine_step.refined(poses, sparse, _scaled(dense, scale))
        if refined:
            best = refined[0]
            pose = replace(best, affine=best.affine / scale)
            candidates.append(ScaledPose(pose, coarse.margin(refined)))
    return sorted(candidates, key=lambda candidate: -candidate.margin)


def scale_between(sparse_um: Floats, dense_um: Floats, parts: NDArray[Any] | None = None) -> float | None:
    """Return the true um per stated dense um, from correspondences (N, 2); None where they share one place.

    By how far the points lie from their centre on either side, which is the scale of the similarity between them and
    asks nothing of their layout: blocks of a narrow strip may all stand in one column.

    Args:
        sparse_um: (N, 2).
        dense_um: (N, 2).
        parts: (N,) the part of the tissue that each belongs to, with a centre of its own: how far parts moved from each
            other is no scale. None for one part.
    """
    _, group = np.unique(np.zeros(len(sparse_um)) if parts is None else parts, return_inverse=True)
    count = np.maximum(np.bincount(group), 1)
    spreads = []
    for points in (sparse_um, dense_um):
        centre = np.stack([np.bincount(group, points[:, axis]) / count for axis in (0, 1)], axis=1)
        spreads.append(float(np.linalg.norm(points - centre[group])))
    return spreads[0] / spreads[1] if min(spreads) > 0 else None


def _scaled(image: NuclearImage, scale: float) -> NuclearImage:
    """Return the same pixels as if the slide were larger by a factor."""
    origin = (image.origin_um[0] * scale, image.origin_um[1] * scale)
    return replace(image, origin_um=origin, mpp=image.mpp * scale)
