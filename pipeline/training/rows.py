"""Choose the patches of a run, and check them as a whole before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.marker_names import NOTHING_LEFT_OUT, Aliases, LeftOut, Panel, check_overlap
from pipeline.settings import PanelSettings
from pipeline.settings.branches import Branch, branch_graph
from pipeline.splitting.table import HELD_OUT_FOLD, read_split_table
from pipeline.store.class_tables import ClassifiedPatches, numbered, read_classes
from pipeline.store.patch_indices import patch_centres_um
from pipeline.store.patch_store import PatchStore
from pipeline.store.targets import NO_CLASS
from pipeline.training.components import Components, component_panel, run_panel
from pipeline.training.dense_kinds import dense_kind

MPP_TOLERANCE = 0.05


@dataclass(frozen=True)
class TrainingSlide:
    """The training rows of one slide: `rows` (n,) of its open store, and the numbers of their classes.

    Those are `labels` (n,), `NO_CLASS` where a patch has none; None in a run that learns no classes of a table.
    """

    store: PatchStore
    rows: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a cohort.

    Attributes:
        slides: those with training rows, in sheet order.
        size_px: side of all patches.
        mpp: um per pixel of the first slide's patches; the others differ by at most 5 %.
        panel: the markers that the dense branches see, and where each slide's channels stand in it; without a dense
            branch empty.
        dense_kind: `fluorescence`, `brightfield`, `mask` or `counts`; without a dense branch empty.
        components: the dense encoders that see a part of the panel, and which.
        classes: what the slides' labels count, see `labelled_rows`; empty where none are learned.
    """

    slides: tuple[TrainingSlide, ...]
    size_px: int
    mpp: float
    panel: Panel
    dense_kind: str = ""
    components: Components = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def dense_channels(self) -> int:
        """Channels of a dense patch: R, G, B of brightfield, a marker, a class or a gene each of the others."""
        return dense_kind(self.dense_kind).channels(len(self.markers))

    def channels_of(self, branch: Branch) -> int:
        """Return channels of a view of that branch."""
        if branch.modality == "sparse":
            return 3
        return len(self.components[branch.encoder]) if branch.encoder in self.components else self.dense_channels

    @property
    def dense_size_px(self) -> int:
        """Side of all patches' dense side."""
        return dense_kind(self.dense_kind).side_px(self.size_px)

    @property
    def markers(self) -> tuple[str, ...]:
        """Names of the panel's markers."""
        return self.panel.markers

    def __len__(self) -> int:
        return sum(len(slide.rows) for slide in self.slides)


def read_training_rows(
    split: Path,
    stores: Path,
    *,
    branches: Sequence[str | Branch],
    batch_size: int,
    markers: Sequence[str] = (),
    panel: PanelSettings | None = None,
    left_out: LeftOut = NOTHING_LEFT_OUT,
) -> TrainingRows:
    """Return the usable pairs outside fold 0, the same for every run of a cohort, with or without a dense branch.

    Args:
        split: the `patches.tsv` of the stage split.
        stores: folder of the stores, `{slide}.zarr`.
        branches: those of the run, each a modality or more.
        batch_size: patches per step.
        markers: those that the dense branches see; empty for all.
        panel: what slides call the same marker.
        left_out: dense channels that count as absent from their slide.

    Raises:
        StatedError: for a table that is not the stores', no pairs, fewer patches than a batch, no dense side for a
            dense branch, slides that share no marker with each other, with `markers` or with those of a branch, markers
            of a branch that are not among them, or stores whose patches differ in size, resolution or kind of dense
            side.
    """
    table = read_split_table(split)
    chosen = table[(table["fold"] != HELD_OUT_FOLD) & (table["pair_quality"] > 0)]
    if chosen.empty:
        found = f"{len(table)} patches, {int((table['pair_quality'] > 0).sum())} of them pairs, all of those in fold 0"
        raise StatedError(file=split, expected="pairs to train on (pair_quality above 0, fold not 0)", found=found)
    if len(chosen) < batch_size:
        raise StatedError(
            file=split, expected=f"at least one batch of {batch_size} patches to train on", found=f"{len(chosen)}"
        )
    total = table["slide"].value_counts()
    slides = tuple(
        _training_slide(split, stores, str(name), part["row"].to_numpy(np.int64), int(total[name]))
        for name, part in chosen.groupby("slide", sort=False)
    )
    graph = branch_graph(branches)
    components: Components = {}
    if {branch.modality for branch in graph} & {"dense", "target"}:
        _check_dense(slides, [*markers, *(name for branch in graph for name in branch.markers)])
        own = panel or PanelSettings()
        channels = {slide.store.attributes.slide: slide.store.attributes.markers for slide in slides}
        kind = slides[0].store.attributes.dense_kind
        joint, components = run_panel(channels, Aliases(own.aliases, own.known_aliases), markers, graph, left_out)
        for part in (joint, *(component_panel(joint, component) for component in components.values())):
            check_overlap(part, channels)
    else:
        joint, kind = Panel((), {}), ""
    first = slides[0].store.attributes
    for slide in slides[1:]:
        _check_recipe(first.slide, first.size_px, first.mpp, slide.store)
    return TrainingRows(slides, first.size_px, first.mpp, joint, kind, components=components)


def labelled_rows(
    rows: TrainingRows, tables: Mapping[str, Path], *, batch_size: int, keep_others: bool = False
) -> TrainingRows:
    """Return the training patches with their classes, read as the probes of evaluate read them.

    Args:
        rows: all training patches.
        tables: by slide; those of slides without training patches are skipped.
        batch_size: patches per step.
        keep_others: whether patches without a class stay, because other branches learn from them; else they, and slides
            without any class, are left out.

    Raises:
        StatedError: see `read_classes`; without a table of a training slide, with fewer than two classes in them or
            fewer patches with one than a batch.
    """
    tabled = [slide for slide in rows.slides if slide.store.attributes.slide in tables]
    if not tabled:
        raise StatedError(
            file="--classes",
            expected="a table of classes of a training slide, for target is label (the sheet's column classes)",
            found=f"tables of {', '.join(tables)}" if tables else "none",
        )
    given = []
    for slide in tabled:
        name, centre_um = slide.store.attributes.slide, patch_centres_um(slide.store, slide.rows)
        given.append(read_classes(tables[name], ClassifiedPatches(name, slide.rows, centre_um, len(slide.store))))
    names, labels = numbered(given)
    if len(names) < 2:
        raise StatedError(
            file="--classes",
            expected="two classes or more of the training patches, for target is label",
            found=f"{names[0]} only" if names else "no class of any of them",
        )
    known = {slide.store.attributes.slide: own for slide, own in zip(tabled, labels, strict=True)}
    slides = []
    for slide in rows.slides:
        own = known.get(slide.store.attributes.slide, np.full(len(slide.rows), NO_CLASS))
        kept = (own != NO_CLASS) | keep_others
        if kept.any():
            slides.append(replace(slide, rows=slide.rows[kept], labels=own[kept]))
    found = replace(rows, slides=tuple(slides), classes=names)
    if len(found) < batch_size:
        raise StatedError(
            file="--classes",
            expected=f"at least one batch of {batch_size} patches with a class to train on",
            found=str(len(found)),
        )
    return found


def without_class(rows: TrainingRows, labelled: TrainingRows) -> str:
    """Return in a line how many patches have no class, and what that means for them; empty where all have one."""
    labels = [slide.labels for slide in labelled.slides if slide.labels is not None]
    without = len(rows) - int((np.concatenate(labels) != NO_CLASS).sum())
    fate = "are left out" if len(labelled) < len(rows) else "teach the other branches alone"
    return f"{without} of {len(rows)} patches have no class and {fate}" if without else ""


def _training_slide(split: Path, stores: Path, name: str, rows: NDArray[np.int64], total: int) -> TrainingSlide:
    store = PatchStore.open(stores / f"{name}.zarr")
    if total != len(store) or rows.max() >= len(store):
        raise StatedError(slide=name, file=split, expected=f"the {len(store)} rows of its store", found=f"{total}")
    return TrainingSlide(store, rows)


def _check_dense(slides: Sequence[TrainingSlide], markers: Sequence[str]) -> None:
    first = slides[0].store.attributes
    for slide in slides:
        known = slide.store.attributes
        if known.markers and known.dense_kind != first.dense_kind:
            raise StatedError(
                slide=known.slide,
                file=slide.store.path,
                expected=f"dense sides of one kind, {first.dense_kind} as of slide {first.slide}",
                found=known.dense_kind,
            )
        if markers and not dense_kind(known.dense_kind).has_panel:
            raise StatedError(
                slide=known.slide,
                expected=f"no choice of markers, for the dense side is {known.dense_kind}",
                found=", ".join(markers),
            )
        if not known.markers:
            raise StatedError(
                slide=known.slide,
                file=slide.store.path,
                expected="a dense side, because the run has a dense branch or a target",
                found="a store of sparse patches only",
            )


def _check_recipe(name: str, size_px: int, mpp: float, store: PatchStore) -> None:
    known = store.attributes
    if known.size_px != size_px or abs(known.mpp / mpp - 1) > MPP_TOLERANCE:
        raise StatedError(
            slide=known.slide,
            file=store.path,
            expected=f"patches of {size_px} px at {mpp:g} um/px, as of slide {name}",
            found=f"{known.size_px} px at {known.mpp:g} um/px",
        )
