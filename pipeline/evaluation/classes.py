"""Read the classes of patches from tables or, where the dense side is a mask, from most of the patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.probed_rows import FittingRows, held_out
from pipeline.evaluation.reading import Cohort
from pipeline.progress import say
from pipeline.slides.kinds import kind_named
from pipeline.store.class_tables import CLASS_COLUMN, NO_NAME, numbered, read_classes
from pipeline.store.targets import NO_CLASS, majority_class

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ClassTask:
    """What class probes are fitted on and asked for, the same for every run.

    Attributes:
        column: of the tables that its classes stand in; it names the probes.
        names: of the K classes that training and held-out patches both show.
        fitted: (n,) class of each training row, `NO_CLASS` where it has none of them.
        tested: for each held-out slide, the class (n,) of its held-out pairs, likewise.
    """

    column: str
    names: tuple[str, ...]
    fitted: Integers
    tested: tuple[Integers, ...]

    def summary(self) -> dict[str, Any]:
        """Return patches of each class, for the details."""
        return {
            name: {
                "train_patches": int((self.fitted == index).sum()),
                "test_patches": int(sum((labels == index).sum() for labels in self.tested)),
            }
            for index, name in enumerate(self.names)
        }


def class_tasks(
    cohort: Cohort, training: FittingRows, tables: Mapping[str, Path], columns: Sequence[str]
) -> list[ClassTask]:
    """Return the tasks that tables of classes set, one a column, or without any table the masks of a cohort.

    There is none for a cohort of another kind without tables, and none of classes of which training and held-out
    patches share fewer than two; where tables were given that is said.

    Args:
        cohort: the pairs.
        training: those that are fitted on.
        tables: by slide; a slide without one has no classes.
        columns: of the tables, those that hold classes. Masks set the task of `class`.

    Raises:
        StatedError: see `read_classes`, and for a table of a slide that has no pairs.
    """
    if not tables and not all(kind_named(slide.dense_kind).values_are_shares for slide in cohort.slides):
        return []
    found = []
    for column in columns:
        task = None
        if tables:
            task = _task_of_tables(cohort, training, tables, column)
        elif column == CLASS_COLUMN:
            labels = [majority_class(slide.marker_mean) for slide in cohort.slides]
            task = _task(column, cohort.markers, cohort, training, labels)
        if task:
            found.append(task)
        elif tables:
            say(
                f"evaluate: training and held-out patches share fewer than two classes of the tables, column {column}; "
                "none is asked for"
            )
    return found


def _task_of_tables(cohort: Cohort, training: FittingRows, tables: Mapping[str, Path], column: str) -> ClassTask | None:
    known = [slide.slide for slide in cohort.slides]
    for name, path in tables.items():
        if name not in known:
            expected = f"a table of one of the slides with pairs, {', '.join(known)}"
            raise StatedError(slide=name, file=path, expected=expected, found=f"of {name}")
    given = [
        read_classes(tables[slide.slide], slide.classified, column)
        if slide.slide in tables
        else np.full(len(slide.rows), NO_NAME, dtype=np.str_)
        for slide in cohort.slides
    ]
    names, labels = numbered(given)
    return _task(column, names, cohort, training, labels)


def _task(
    column: str, names: Sequence[str], cohort: Cohort, training: FittingRows, labels: Sequence[Integers]
) -> ClassTask | None:
    """Return the task of labels (n,) of each slide's pairs, of the classes that both sides of the split show."""
    fitted = np.concatenate([own[rows] for own, rows in zip(labels, training.chosen, strict=True)])
    by_slide = {slide.slide: own for slide, own in zip(cohort.slides, labels, strict=True)}
    tested = [by_slide[slide.slide][slide.held_out] for slide in held_out(cohort)]
    shared = np.intersect1d(fitted[fitted != NO_CLASS], np.concatenate(tested))
    if len(shared) < 2:
        return None
    number = np.full(len(names) + 1, NO_CLASS)  # the last one is what NO_CLASS looks up
    number[shared] = np.arange(len(shared))
    return ClassTask(
        column, tuple(names[index] for index in shared), number[fitted], tuple(number[own] for own in tested)
    )
