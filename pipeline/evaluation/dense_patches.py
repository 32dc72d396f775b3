"""Read the dense patches of a cohort's pairs as the dense branch of a trained run reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.reading import Features, SlidePairs
from pipeline.marker_names import UNUSED, Aliases, Panel, panel_of
from pipeline.settings import PanelSettings
from pipeline.store.patch_store import PatchStore
from pipeline.training.dense_description import DenseDescription
from pipeline.training.patches import TrainingPatches
from pipeline.training.rows import TrainingRows, TrainingSlide

Integers = NDArray[np.int64]
# From dense patches (n, M, P, P) and which channels (n, M) are there to (n, D).
EncodeDense = Callable[[NDArray[np.float32], NDArray[np.bool_]], Features]

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class ReadableSlides:
    """Slides whose dense side is of a run's kind and shows one of its markers.

    Attributes:
        slides: the pairs of each.
        stores: by slide.
        panel: the run's, and where the slides' channels stand in it.
        kind: of the dense side.
    """

    slides: tuple[SlidePairs, ...]
    stores: Mapping[str, PatchStore]
    panel: Panel
    kind: str

    def rows(self, chosen: Sequence[Integers]) -> TrainingRows:
        """Return pairs as the dense branch reads them.

        Args:
            chosen: for each slide which of its pairs, indices into `SlidePairs.rows`.
        """
        read = tuple(
            TrainingSlide(self.stores[slide.slide], slide.rows[pairs])
            for slide, pairs in zip(self.slides, chosen, strict=True)
        )
        known = read[0].store.attributes
        return TrainingRows(read, known.size_px, known.mpp, self.panel, self.kind)


def readable_slides(
    dense: DenseDescription, slides: Sequence[SlidePairs], stores: Path, panel: PanelSettings
) -> ReadableSlides:
    """Return those of the slides that the dense branch of a run can read, in their order.

    Args:
        dense: the run's dense branch.
        slides: to choose from.
        stores: folder of the stores.
        panel: what slides call the same marker.

    Raises:
        StatedError: if a store cannot be read.
    """
    alike = [slide for slide in slides if slide.dense_kind == dense.kind]
    opened = {slide.slide: PatchStore.open(stores / f"{slide.slide}.zarr") for slide in alike}
    channels = {name: store.attributes.markers for name, store in opened.items()}
    # The run's own panel comes first: slides may lack a marker of it, or have more.
    aliases = Aliases(panel.aliases, panel.known_aliases)
    joint = panel_of({"": dense.panel} | channels, aliases, dense.panel)
    usable = tuple(slide for slide in alike if any(index != UNUSED for index in joint.indices[slide.slide]))
    return ReadableSlides(usable, opened, joint, dense.kind)


def encoded(rows: TrainingRows, encode: EncodeDense) -> Features:
    """Return what `encode` makes of the dense side of all rows, (N, D) float32 in their order."""
    patches = TrainingPatches(rows, dense=True, budget_bytes=0)
    numbers = np.arange(len(patches))
    parts = [
        encode(*patches.dense(numbers[start : start + _ROWS_AT_ONCE]))
        for start in range(0, len(numbers), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)
