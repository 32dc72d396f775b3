"""Turn a batch of patches into one augmented, normalised view per branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.settings.branches import Branch, branch_graph
from pipeline.training.augmentation import (
    Augmentation,
    blur_some,
    by_opencv,
    draw_orientations,
    draw_windows,
    jitter_stain,
    resample,
    sparse_views_by_opencv,
)
from pipeline.training.components import WHOLE_PANEL, Components
from pipeline.training.dense_kinds import dense_kind as kind_of
from pipeline.training.draws import Draws
from pipeline.training.normalisation import Normalisation


@dataclass(frozen=True)
class Batch:
    """Patches of n training rows.

    Attributes:
        sparse: (n, P, P, 3) uint8.
        dense: (n, M, P, P) float32, see `TrainingPatches.dense`; zero where `present` is false; None without a dense
            branch.
        present: (n, M) bool, whether the row's slide shows the channel; all false for blank pairing.
        target: (n, T) float32, what a target branch predicts, see `training_targets`; None without one.
    """

    sparse: Tensor
    dense: Tensor | None
    present: Tensor | None
    target: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        dense = None if self.dense is None else self.dense.to(device, non_blocking=True)
        present = None if self.present is None else self.present.to(device, non_blocking=True)
        target = None if self.target is None else self.target.to(device, non_blocking=True)
        return Batch(self.sparse.to(device, non_blocking=True), dense, present, target)


# From a batch to one view (n, C, size_px, size_px) per branch.
MakeViews = Callable[[Batch, Draws], list[Tensor]]


class ChannelChoice:
    """Takes the channels that a dense branch sees out of those of the panel.

    Args:
        components: the encoders that do not see all of the panel, and what they see.
        device: where the pixels are.
    """

    def __init__(self, components: Components, device: torch.device) -> None:
        self._indices = {name: torch.tensor(indices, device=device) for name, indices in components.items()}

    def indices(self, encoder: str) -> Tensor | None:
        """Return (M',) places in the panel of the channels of that encoder, in their order.

        None for all as they are.
        """
        return self._indices.get(encoder)

    def of(self, encoder: str, values: Tensor) -> Tensor:
        """Return (n, M', …) of values (n, M, …) of the panel; the same tensor where the encoder sees all of it."""
        indices = self.indices(encoder)
        return values if indices is None else values.index_select(1, indices)


class ViewMaker:
    """Makes the views of a branch graph.

    Args:
        branches: a modality each, or what more is to be said of the branch.
        augmentation: what varies between views.
        shared_geometry: whether the first sparse and the first dense branch (the second ones, and so on) see the same
            window of the patch. Orientation and colour are always drawn for each branch on its own.
        normalisation: of both modalities.
        dense_kind: `fluorescence`, `brightfield`, `mask` or `counts`, whose views are not images but (n, M, 1, 1).
        components: the dense encoders that see a part of the panel, and which.
    """

    def __init__(
        self,
        branches: Sequence[str | Branch],
        augmentation: Augmentation,
        *,
        shared_geometry: bool,
        normalisation: Normalisation,
        dense_kind: str = "fluorescence",
        components: Components = WHOLE_PANEL,
    ) -> None:
        self._branches = branch_graph(branches)
        self._channels = ChannelChoice(components, normalisation.device)
        self._augmentation = augmentation
        self._normalisation = normalisation
        self._kind = kind_of(dense_kind)
        self._window_of = window_numbers(branches, shared_geometry=shared_geometry)

    def __call__(self, batch: Batch, draws: Draws) -> list[Tensor]:
        """Return one (n, C, size_px, size_px) float32 view per branch; overwrites the batch's dense pixels."""
        patch_px = batch.sparse.shape[1]
        numbers = range(max(self._window_of) + 1)
        windows = [draw_windows(patch_px, self._augmentation, draws) for _ in numbers]
        opencv = by_opencv(batch.sparse)
        rgb = None if opencv else batch.sparse.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        dense = None if batch.dense is None else self._kind.prepare(batch.dense, self._normalisation)
        views = []
        for branch, number in zip(self._branches, self._window_of, strict=True):
            modality = branch.modality
            orientations = draw_orientations(draws)
            if modality == "sparse" and opencv:
                known, colour = self._augmentation, self._normalisation.colour
                views.append(sparse_views_by_opencv(batch.sparse, windows[number], orientations, known, colour, draws))
                continue
            source = rgb if modality == "sparse" else dense
            if source is None:
                raise ValueError("a dense branch needs a batch with a dense side")
            present = batch.present
            if modality == "dense":
                source = self._channels.of(branch.encoder, source)
                present = None if present is None else self._channels.of(branch.encoder, present)
            mode = self._kind.resampling if modality == "dense" else "bilinear"
            if mode is None:
                views.append(self._recolour(modality, source, present, draws))
                continue
            view = resample(source, windows[number], orientations, self._augmentation.size_px, mode)
            views.append(self._recolour(modality, view, present, draws))
        return views

    def _recolour(self, modality: str, view: Tensor, present: Tensor | None, draws: Draws) -> Tensor:
        if modality == "dense":
            if present is None:
                raise ValueError("a dense view needs to know which markers are present")
            return self._kind.recolour(view, present, self._augmentation, self._normalisation, draws)
        coloured = jitter_stain(view, self._augmentation.colour, draws)
        return self._normalisation.sparse(blur_some(coloured, self._augmentation.blur, draws))


def window_numbers(branches: Sequence[str | Branch], *, shared_geometry: bool) -> tuple[int, ...]:
    """Return which drawn window each branch looks through: its place among its modality's branches, or a separate one.

    Dense branches with separate encoders are components of one dense side: each counts among those of its encoder,
    so that all of them can show what the sparse branch sees.
    """
    if not shared_geometry:
        return tuple(range(len(branches)))
    alike = [branch.encoder if branch.modality == "dense" else "" for branch in branch_graph(branches)]
    return tuple(alike[:index].count(name) for index, name in enumerate(alike))
