"""Score the dense side alone: the same probes on features of the dense encoder that a run was trained with.

It is an upper reference, no contender: at inference there is no dense side. What the probes find there and not in H&E
is what training could at best bring over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.dense_patches import encoded, readable_slides
from pipeline.evaluation.probed_rows import FittingRows, held_out
from pipeline.evaluation.probing import Probed, Questions
from pipeline.evaluation.reading import Cohort, Features, SlidePairs
from pipeline.progress import progress, say
from pipeline.settings import PanelSettings
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.dense_description import DenseDescription
from pipeline.training.precision import best_device

Integers = NDArray[np.int64]


def probed_dense_sides(
    trainings: Path,
    stores: Path,
    questions: Questions,
    groups: Mapping[str, Sequence[str]],
    panel: PanelSettings,
) -> dict[str, Probed]:
    """Return for every training with a dense branch the probes of its dense encoder's features, of the same patches.

    Trainings whose dense branch saw blank patches tell nothing and are left out; so are runs of features from
    elsewhere, and, which is said, those whose dense branch cannot read some slide.

    Args:
        trainings: folder that holds RUN/encoder and RUN/branches.safetensors.
        stores: folder of the stores.
        questions: what every run is asked.
        groups: for each run the trainings that are its seeds.
        panel: what slides call the same marker.

    Raises:
        StatedError: if a training's branches are not there, or are not those of its encoder.
    """
    described = {
        name: DenseDescription.read(trainings / name / "encoder")
        for names in groups.values()
        for name in names
        if (trainings / name).is_dir()
    }
    asked = {name: dense for name, dense in described.items() if dense and not dense.blank}
    found = {}
    for name, dense in progress(asked.items(), label="probing dense sides", unit="runs"):
        features = _DenseFeatures.of(
            trainings / name / BRANCHES_NAME, dense, questions.cohort, questions.training, stores, panel
        )
        if features:
            found[name] = questions.probed(features, "dense")
        else:
            say(f"evaluate: the dense branch of {name} cannot read the dense side of every slide; it is not asked")
    return found


class _DenseFeatures:
    """Features of the dense side of those pairs that probes are fitted or scored on."""

    def __init__(self, pairs: Mapping[str, Integers], features: Mapping[str, Features]) -> None:
        self._pairs, self._features = pairs, features

    @classmethod
    def of(
        cls,
        path: Path,
        dense: DenseDescription,
        cohort: Cohort,
        training: FittingRows,
        stores: Path,
        panel: PanelSettings,
    ) -> _DenseFeatures | None:
        """Return those of the branches in `path`; None where some slide's dense side is not for them."""
        readable = readable_slides(dense, cohort.slides, stores, panel)
        if len(readable.slides) < len(cohort.slides):
            return None
        tested = {slide.slide for slide in held_out(cohort)}
        chosen = [
            np.union1d(fitted, np.flatnonzero(slide.held_out)) if slide.slide in tested else fitted
            for slide, fitted in zip(cohort.slides, training.chosen, strict=True)
        ]
        branches = KeptBranches.load(path, dense, best_device())
        features = encoded(readable.rows(chosen), branches.dense_features)
        parts = np.split(features, np.cumsum([len(pairs) for pairs in chosen])[:-1])
        names = [slide.slide for slide in cohort.slides]
        return cls(dict(zip(names, chosen, strict=True)), dict(zip(names, parts, strict=True)))

    def __call__(self, slide: SlidePairs, pairs: Integers) -> Features:
        """Return (n, F) of these pairs of a slide."""
        return self._features[slide.slide][np.searchsorted(self._pairs[slide.slide], pairs)]
