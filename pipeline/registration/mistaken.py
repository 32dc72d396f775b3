"""What is wrong with a given transform that fails: does it fit when turned round, or read in pixels?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.registration.engine import Pair, assess
from pipeline.registration.sampled import fitted_affine
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings


def likely_mistakes(pair: Pair, transform: Transform, settings: RegisterSettings) -> tuple[str, ...]:
    """One sentence for each reading of a failed transform under which the images do agree.

    Only the affine part is tried: it shows the mistake, and a map in a wrong frame has no grid to rely on.
    """
    told = []
    for reading, affine in _readings(pair, transform):
        quality = assess(pair, Transform(affine), settings)
        if quality.verdict != "fail":
            told.append(
                f"{reading}: read so, {quality.support:.0%} of the blocks agree, "
                f"median {quality.held_out.median_um:.1f} um off; expected sparse um to dense um"
            )
    return tuple(told)


def _readings(pair: Pair, transform: Transform) -> Iterator[tuple[str, np.ndarray]]:
    low, high = pair.sparse.extent_um
    forward = np.vstack([fitted_affine(transform.to_dense, low, high), [0, 0, 1]])
    backward = np.linalg.inv(forward)
    # Pixel centres: pixel i of level 0 lies at i times the um per pixel.
    to_dense_um = np.diag([pair.dense.mpp, pair.dense.mpp, 1.0])
    to_sparse_px = np.diag([1 / pair.sparse.mpp, 1 / pair.sparse.mpp, 1.0])
    yield "the transform seems to carry dense points to sparse points", backward[:2]
    if (pair.sparse.mpp, pair.dense.mpp) != (1.0, 1.0):
        yield "the transform seems to be in level-0 pixels", (to_dense_um @ forward @ to_sparse_px)[:2]
        yield (
            "the transform seems to carry dense points to sparse points, in level-0 pixels",
            (to_dense_um @ backward @ to_sparse_px)[:2],
        )
