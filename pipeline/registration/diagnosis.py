"""Diagnose a given transform that fails: find another reading of its numbers by which the images agree.

Files from elsewhere differ in the direction of the map, in the order of the axes, and in the unit of either frame. All
combinations are compared by the density of nuclei, which takes milliseconds each; blocks judge the best ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.registration.assessment import assess
from pipeline.registration.coarse import density, masked_ncc
from pipeline.registration.displacement import Floats
from pipeline.registration.pair import Pair, overview
from pipeline.registration.sampled import fitted_affine
from pipeline.registration.transform import Transform
from pipeline.settings import RegisterSettings

# Nuclei by the dozen, and a large slide in a few hundred pixels a side.
_DENSITY_MPP = 32.0
_MOST_JUDGED = 2
# Readings of unrelated tissue stay below.
_LEAST_NCC = 0.3
_AS_IS, _SWAP = np.eye(3), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
# What is told of the order of the axes, and what exchanges them on the multiplex and on the H&E.
_ORDERS = (
    ("", _AS_IS, _AS_IS),
    ("be in the order row, column", _SWAP, _SWAP),
    ("be in the order row, column on the H&E alone", _AS_IS, _SWAP),
    ("be in the order row, column on the multiplex alone", _SWAP, _AS_IS),
)


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a matrix: its description, and the map (2, 3) from sparse um to dense um that it makes."""

    text: str
    affine: Floats


def likely_mistakes(pair: Pair, transform: Transform, settings: RegisterSettings) -> tuple[str, ...]:
    """Return one sentence for each other reading of a failed transform under which the images agree.

    Only the affine part is tried: it shows the mistake, and a map in a wrong frame has no grid to rely on.
    """
    fixed, moving = (density(overview(side), _DENSITY_MPP) for side in (pair.sparse, pair.dense))
    readings = list(_readings(pair, transform))
    ncc = np.array([masked_ncc(fixed, moving, reading.affine) for reading in readings])
    found = []
    for index in np.argsort(-ncc, kind="stable")[:_MOST_JUDGED]:
        if ncc[index] < _LEAST_NCC:
            break
        quality = assess(pair, Transform(readings[index].affine), settings)
        if quality.verdict != "fail":
            found.append(
                f"the transform seems to {readings[index].text}: read so, {quality.support:.0%} of the blocks agree, "
                f"median {quality.held_out.median_um:.1f} um off; expected sparse um to dense um"
            )
            break
    return tuple(found)


def _readings(pair: Pair, transform: Transform) -> Iterator[Reading]:
    """Yield all readings but the stated one, the simplest first, none twice."""
    low, high = pair.sparse.extent_um
    stated = np.vstack([fitted_affine(transform.to_dense, low, high), [0, 0, 1]])
    seen = [stated]
    for (direction, turned), (order, dense_order, sparse_order), (units, to_dense_um, to_sparse) in product(
        (("", stated), ("carry dense points to sparse points", np.linalg.inv(stated))),
        _ORDERS,
        _units(pair),
    ):
        matrix = to_dense_um @ dense_order @ turned @ sparse_order @ to_sparse
        if any(np.allclose(matrix, other, rtol=1e-6, atol=1e-3) for other in seen):
            continue
        seen.append(matrix)
        yield Reading(" and to ".join(filter(None, (direction, order, units))), matrix[:2])


def _units(pair: Pair) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield units by name, with what turns dense numbers into um, and um of the sparse frame into numbers."""
    sparse, dense = pair.sparse.mpp, pair.dense.mpp
    yield "", np.eye(3), np.eye(3)
    yield "be in level-0 pixels", _scale(dense), _scale(1 / sparse)
    yield "be in millimetres", _scale(1e3), _scale(1e-3)
    yield "lead from level-0 pixels to um", np.eye(3), _scale(1 / sparse)
    yield "lead from um to level-0 pixels", _scale(dense), np.eye(3)
    for downsample in _downsamples(pair):
        yield (
            f"be in pixels of a level {downsample:g} times coarser than level 0",
            _scale(dense * downsample),
            _scale(1 / (sparse * downsample)),
        )


def _downsamples(pair: Pair) -> list[float]:
    """Return the scales of levels that files have, and the powers of two that tools work at."""
    levels = {round(level.downsample, 3) for side in (pair.sparse, pair.dense) for level in side.slide.header.levels}
    return sorted((levels | {2.0, 4.0, 8.0, 16.0, 32.0}) - {1.0})


def _scale(factor: float) -> Floats:
    return np.diag([factor, factor, 1.0])
