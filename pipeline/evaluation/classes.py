"""Classes of patches, where the dense side is a mask: the class that covers more than half of a patch is its class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.prediction import TrainingRows, held_out
from pipeline.evaluation.reading import Cohort
from pipeline.tiling.patch_targets import NO_CLASS, majority_class

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassTask:
    """What class probes are fitted on and asked for, the same for every run.

    Attributes:
        names: of the K classes that training and held-out patches both show.
        fitted: (n,) class of each training row, `NO_CLASS` where none covers more than half.
        tested: for each held-out slide, the class (n,) of its held-out pairs, likewise.
    """

    names: tuple[str, ...]
    fitted: Integers
    tested: tuple[Integers, ...]

    def told(self) -> dict[str, Any]:
        """Patches of each class, for the details."""
        return {
            name: {
                "train_patches": int((self.fitted == index).sum()),
                "test_patches": int(sum((labels == index).sum() for labels in self.tested)),
            }
            for index, name in enumerate(self.names)
        }


def class_task(cohort: Cohort, training: TrainingRows) -> ClassTask | None:
    """The task of a cohort of masks; None where it is of another kind, or shows fewer than two classes."""
    if any(slide.dense_kind != "mask" for slide in cohort.slides):
        return None
    fitted = np.concatenate(
        [majority_class(slide.marker_mean)[rows] for slide, rows in zip(cohort.slides, training.chosen, strict=True)]
    )
    tested = [majority_class(slide.marker_mean)[slide.fold == 0] for slide in held_out(cohort)]
    shared = np.intersect1d(fitted[fitted != NO_CLASS], np.concatenate(tested))
    if len(shared) < 2:
        return None
    number = np.full(len(cohort.markers) + 1, NO_CLASS)  # the last one is what NO_CLASS looks up
    number[shared] = np.arange(len(shared))
    names = tuple(cohort.markers[index] for index in shared)
    return ClassTask(names, number[fitted], tuple(number[labels] for labels in tested))
