"""The search for a part of the tissue that lies anywhere and turned by any angle: a fragment that came off and floated.

It is looked for in what is left of the dense slide, the tissue there that no other part claims. Where nothing is left,
as where tissue was washed off, nothing is searched. What it finds is a candidate; blocks decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from pipeline.registration import second_search
from pipeline.registration.displacement import Floats
from pipeline.registration.images import NuclearImage
from pipeline.registration.pair import tissue_of
from pipeline.registration.transform import Transform

# Of the area of a part, what has to be left of the dense tissue.
_LEAST_LEFT = 0.5
# The right pose is among the first; each costs about a second.
_CANDIDATES = 2


def unclaimed(dense: NuclearImage, claimed_um: Floats, spacing_um: float) -> NuclearImage:
    """Return an overview of the dense slide, `inside` narrowed to tissue that no block claims.

    Args:
        dense: the overview.
        claimed_um: (N, 2) where blocks that agree with their map lie on it.
        spacing_um: distance of the blocks.
    """
    free = np.ones(dense.inside.shape, np.uint8)
    radius = max(1, round(spacing_um * 0.75 / dense.mpp))
    for x, y in np.rint(dense.to_px(claimed_um)).astype(int).tolist():
        cv2.circle(free, (x, y), radius, 0, thickness=-1)
    left = tissue_of(dense)
    return replace(left, inside=left.inside & (free > 0))


def candidates(part: NuclearImage, left: NuclearImage, rest: Transform) -> Iterator[Floats]:
    """Yield affine maps (2, 3) under which the nuclear density of a part matches what is left, best first.

    Args:
        part: the sparse slide at low resolution, `inside` narrowed to the part.
        left: the dense slide, as `unclaimed` gives it.
        rest: the map of the rest, mirrored where a part has to be.
    """
    areas_um2 = [float(np.count_nonzero(image.inside)) * image.mpp**2 for image in (part, left)]
    if not areas_um2[0] or areas_um2[1] < _LEAST_LEFT * areas_um2[0]:
        return
    held, free = (image.cropped(_box(image), 0.0) for image in (part, left))
    mirrored = bool(np.linalg.det(rest.affine[:, :2]) < 0)
    for candidate in second_search.search(held, free, mirrors=(mirrored,))[:_CANDIDATES]:
        yield second_search.zoomed(candidate.pose, held, free).affine


def _box(image: NuclearImage) -> Floats:
    rows, columns = np.nonzero(image.inside)
    return image.to_um(np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]]))
