"""Training patches with the class that a table gives them: what a supervised network learns to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import StatedError
from pipeline.tiling.class_tables import ClassifiedPatches, numbered, read_classes
from pipeline.tiling.patch_places import patch_centres_um
from pipeline.tiling.patch_targets import NO_CLASS
from pipeline.training.rows import TrainingRows


def labelled_rows(rows: TrainingRows, tables: Mapping[str, Path], *, batch_size: int) -> TrainingRows:
    """The training patches that have a class, with it; the others, and slides without any, are left out.

    Classes are read as the probes of evaluate read them.

    Args:
        rows: all training patches.
        tables: by slide; those of slides without training patches are passed over.
        batch_size: patches per step.

    Raises:
        StatedError: see `read_classes`; without a table of a training slide, with fewer than two classes in them or
            fewer patches with one than a batch.
    """
    slides = [slide for slide in rows.slides if slide.store.attributes.slide in tables]
    if not slides:
        raise StatedError(
            file="--classes",
            expected="a table of classes of a training slide, for target is label (the sheet's column classes)",
            found=f"tables of {', '.join(tables)}" if tables else "none",
        )
    given = []
    for slide in slides:
        name, centre_um = slide.store.attributes.slide, patch_centres_um(slide.store, slide.rows)
        given.append(read_classes(tables[name], ClassifiedPatches(name, slide.rows, centre_um, len(slide.store))))
    names, labels = numbered(given)
    if len(names) < 2:
        raise StatedError(
            file="--classes",
            expected="two classes or more of the training patches, for target is label",
            found=f"{names[0]} only" if names else "no class of any of them",
        )
    kept = tuple(
        replace(slide, rows=slide.rows[own != NO_CLASS], labels=own[own != NO_CLASS])
        for slide, own in zip(slides, labels, strict=True)
        if (own != NO_CLASS).any()
    )
    found = replace(rows, slides=kept, classes=names)
    if len(found) < batch_size:
        raise StatedError(
            file="--classes",
            expected=f"at least one batch of {batch_size} patches with a class to train on",
            found=str(len(found)),
        )
    return found


def left_out(rows: TrainingRows, labelled: TrainingRows) -> str:
    """How many patches have no class, in a line; empty where all have one."""
    without = len(rows) - len(labelled)
    return f"{without} of {len(rows)} patches have no class and are left out" if without else ""
