"""Compute the features of the training patches by the finished encoder, and their range."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.training.feature_range import FeatureRange, Features, fitted_range
from pipeline.training.normalisation import ColourStatistics, Normalisation
from pipeline.training.patches import TrainingPatches

_RANGE_PATCHES = 2000
# With fewer patients, one left out tells of one patient's difference from few, not of new tissue.
_FEWEST_PATIENTS = 4
_GROUPS = 5
# Tissue varies over a slide, and a part that is left out whole may be unlike all others of the same slide.
_STRIPS = 20
_RANGE_PIXELS = 256 * 256**2


def pixel_batches(
    patches: TrainingPatches,
    numbers: NDArray[np.int64],
    colour: ColourStatistics,
    size_px: int,
    device: torch.device,
    most_pixels: int,
) -> Iterator[torch.Tensor]:
    """Yield the normalised centres (n, 3, size_px, size_px) of these patches, so many pixels at a time."""
    # Of large patches a batch in training may be few, and all of these at once more than there is memory for.
    at_once = max(1, most_pixels // patches.rows.size_px**2)
    normalisation = Normalisation(colour, (), device)
    start = (patches.rows.size_px - size_px) // 2
    for part in np.split(numbers, range(at_once, len(numbers), at_once)):
        rgb = torch.from_numpy(patches.sparse(part)).to(device).permute(0, 3, 1, 2).float().div_(255)
        window = rgb[:, :, start : start + size_px, start : start + size_px]
        yield normalisation.sparse(window).contiguous(memory_format=torch.channels_last)


def encoder_range(
    encoder: torch.nn.Module, patches: TrainingPatches, colour: ColourStatistics, size_px: int, device: torch.device
) -> FeatureRange | None:
    """Return the range of features over at most 2000 training patches, spread evenly through the cohort.

    Its limit comes from patches that were left out: a fifth of the patients at a time or, of fewer than four patients,
    every fifth of twenty strips of each slide. Returns None where two patches are not left, or features are not finite.
    """
    numbers = np.unique(np.linspace(0, len(patches) - 1, _RANGE_PATCHES).astype(np.int64))
    with torch.inference_mode():
        batches = pixel_batches(patches, numbers, colour, size_px, device, _RANGE_PIXELS)
        features: Features = torch.cat([encoder(pixels).float().cpu() for pixels in batches]).numpy()
    patients = [patches.rows.slides[slide].store.attributes.patient for slide in patches.slide[numbers]]
    groups, held_out = _left_out(patches.slide[numbers], patients)
    fewest = len(features) - int(np.bincount(groups).max())
    if fewest < 2 or not np.isfinite(features).all():
        return None
    distances = [
        fitted_range(features[groups != group], ()).distance(features[groups == group]) for group in np.unique(groups)
    ]
    return fitted_range(features, patients).limited(distances, held_out)


def _left_out(slide: NDArray[np.int64], patients: list[str]) -> tuple[NDArray[np.int64], str]:
    """Return (n,) the group of each patch that is left out together, and what the groups are."""
    names = list(dict.fromkeys(patients))
    if len(names) >= _FEWEST_PATIENTS:
        number = {name: index % _GROUPS for index, name in enumerate(names)}
        return np.array([number[name] for name in patients]), "patients left out"
    groups = np.zeros(len(slide), dtype=np.int64)
    for one in np.unique(slide):
        here = np.flatnonzero(slide == one)
        groups[here] = np.arange(len(here)) * _STRIPS // len(here) % _GROUPS
    return groups, "parts of slides left out"
