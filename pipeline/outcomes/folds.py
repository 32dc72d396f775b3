"""Parts of the patients: each is predicted by what was fitted on the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

# By how much intervals are wider than if what was fitted were beyond chance. Probes of patients are fitted on mostly
# the same others, and share what these taught wrongly. Nadeau and Bengio (Machine Learning 2003) take the variance of a
# mean over J tests, each on a share r of the data, for 1 / J + r times that of one; with each patient asked and fitted
# on alike, r is 1 / J, and the variance twice as large.
WIDENING = math.sqrt(2)


def stratified_folds(strata: Integers, folds: int, rng: np.random.Generator) -> Integers:
    """Return the fold (n,) of each patient: folds, and their shares of a stratum, differ by one patient at most."""
    # Dealt out one after the other, stratum after stratum, each in random order.
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(len(strata), dtype=np.int64)
    found[order] = rng.permutation(folds)[np.arange(len(strata)) % folds]
    return found


def fitted_and_asked(fold_of: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield for each fold the rows outside of it, and the rows in it."""
    for fold in np.unique(fold_of):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
