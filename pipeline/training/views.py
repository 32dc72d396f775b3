"""From a batch of patches to one augmented, normalised view per branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.augmentation import (
    Augmentation,
    blur_some,
    by_opencv,
    draw_orientations,
    draw_windows,
    drop_channels,
    jitter_intensity,
    jitter_stain,
    resample,
    sparse_views_by_opencv,
)
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
        target: (n, T) float32, what a supervised run predicts, see `training_targets`; None in other runs.
    """

    sparse: Tensor
    dense: Tensor | None
    present: Tensor | None
    target: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        dense = None if self.dense is None else self.dense.to(device, non_blocking=True)
        present = None if self.present is None else self.present.to(device, non_blocking=True)
        target = None if self.target is None else self.target.to(device, non_blocking=True)
        return Batch(self.sparse.to(device, non_blocking=True), dense, present, target)


# From a batch to one view (n, C, size_px, size_px) per branch.
MakeViews = Callable[[Batch, Draws], list[Tensor]]


class ViewMaker:
    """Makes the views of a branch graph.

    Args:
        branches: modality of each branch.
        augmentation: what varies between views.
        shared_geometry: whether the first sparse and the first dense branch (the second ones, and so on) see the same
            window of the patch. Orientation and colour are always drawn for each branch on its own.
        normalisation: of both modalities.
        dense_kind: `fluorescence`, `brightfield`, `mask` or `counts`, whose views are no images but (n, M, 1, 1).
    """

    def __init__(
        self,
        branches: Sequence[str],
        augmentation: Augmentation,
        *,
        shared_geometry: bool,
        normalisation: Normalisation,
        dense_kind: str = "fluorescence",
    ) -> None:
        self._branches = tuple(branches)
        self._augmentation = augmentation
        self._normalisation = normalisation
        self._dense_kind = dense_kind
        self._window_of = window_numbers(branches, shared_geometry=shared_geometry)

    def __call__(self, batch: Batch, draws: Draws) -> list[Tensor]:
        """One (n, C, size_px, size_px) float32 view per branch; overwrites the batch's dense pixels."""
        patch_px = batch.sparse.shape[1]
        numbers = range(max(self._window_of) + 1)
        windows = [draw_windows(patch_px, self._augmentation, draws) for _ in numbers]
        opencv = by_opencv(batch.sparse)
        rgb = None if opencv else batch.sparse.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        dense = None if batch.dense is None else self._prepared(batch.dense)
        views = []
        for modality, number in zip(self._branches, self._window_of, strict=True):
            orientations = draw_orientations(draws)
            if modality == "sparse" and opencv:
                known, colour = self._augmentation, self._normalisation.colour
                views.append(sparse_views_by_opencv(batch.sparse, windows[number], orientations, known, colour, draws))
                continue
            source = rgb if modality == "sparse" else dense
            if source is None:
                raise ValueError("a dense branch needs a batch with a dense side")
            if modality == "dense" and self._dense_kind == "counts":
                views.append(self._recolour(modality, source, batch.present, draws))
                continue
            # Between two classes there is none.
            mode = "nearest" if modality == "dense" and self._dense_kind == "mask" else "bilinear"
            view = resample(source, windows[number], orientations, self._augmentation.size_px, mode)
            views.append(self._recolour(modality, view, batch.present, draws))
        return views

    def _recolour(self, modality: str, view: Tensor, present: Tensor | None, draws: Draws) -> Tensor:
        if modality == "dense":
            if present is None:
                raise ValueError("a dense view needs to know which markers are present")
            return self._recolour_dense(view, present, draws)
        coloured = jitter_stain(view, self._augmentation.colour, draws)
        return self._normalisation.sparse(blur_some(coloured, self._augmentation.blur, draws))

    def _prepared(self, dense: Tensor) -> Tensor:
        """The dense side as it is resampled; overwrites it."""
        if self._dense_kind in ("fluorescence", "counts"):
            return self._normalisation.dense(dense)
        return dense.div_(255) if self._dense_kind == "brightfield" else dense

    def _recolour_dense(self, view: Tensor, present: Tensor, draws: Draws) -> Tensor:
        strength, dropout = self._augmentation.dense_colour, self._augmentation.channel_dropout
        if self._dense_kind == "fluorescence":
            return jitter_intensity(view, present, strength, dropout, draws)
        if self._dense_kind in ("mask", "counts"):
            return drop_channels(view, present, dropout, draws)
        standard = self._normalisation.brightfield(jitter_stain(view, strength, draws))
        return torch.where(present[:, :, None, None], standard, 0.0)


def window_numbers(branches: Sequence[str], *, shared_geometry: bool) -> tuple[int, ...]:
    """Which drawn window each branch looks through: its place among its modality's branches, or one of its own."""
    if not shared_geometry:
        return tuple(range(len(branches)))
    return tuple(list(branches[:index]).count(modality) for index, modality in enumerate(branches))
