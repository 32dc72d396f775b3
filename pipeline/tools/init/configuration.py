"""Write a configuration: patches that fit the slides, and the three trainings that a claim needs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.tools.init.recognise import Recognised

_HEAD = """\
# Written by init. Every key, with its meaning, range and default: `python -m pipeline settings`.

slides: config/slides.tsv
"""

# Cells are seen well at 0.5 um per pixel, and most published encoders take 256 px of that.
_USUAL_MPP, _SIZES_PX = 0.5, (256, 128, 64)
# Fewer patches than this hardly train anything; then smaller ones are taken.
_ENOUGH_PATCHES = 1000
# Of a slide's area, where nobody has looked: about the middle of what the demo and public slides have.
_TISSUE_SHARE = 0.4
# A level that is finer than asked for by no more than this is taken as it is (pipeline.tiling).
_SAME_MPP = 0.01
_FOLDS = 4


@dataclass(frozen=True)
class Patches:
    """Size and resolution of the patches.

    Attributes:
        size_px: side in pixels.
        mpp: um per pixel.
        expected: about how many of them the pairs have.
        reason: why this resolution.
    """

    size_px: int
    mpp: float
    expected: int
    reason: str


@dataclass(frozen=True)
class Training:
    """What the three runs are trained with.

    Attributes:
        encoder: timm's name.
        epochs: passes over the training patches.
        batch_size: patches per step.
        reason: why these.
    """

    encoder: str
    epochs: int
    batch_size: int
    reason: str


# Training patches of 224 px per second and core: ResNet-50 as in benchmarks/train_step.py, the others by their
# arithmetic (ResNet-18) and by the demo's trainings (test_resnet, timm's smallest).
_CPU_RATE = {"resnet50": 3.25, "resnet18": 7.0, "test_resnet": 26.0}
_LEAST_EPOCHS, _MOST_EPOCHS = 20, 100


def patches_for(slides: Sequence[Recognised]) -> Patches:
    """Return patches that no slide is too coarse or too small for."""
    mpps = [item.mpp for item in slides if item.mpp is not None]
    coarsest = max(mpps)
    if coarsest <= _USUAL_MPP * (1 + _SAME_MPP):
        native = sorted(mpps)[len(mpps) // 2]
        near = native * 2 ** round(math.log2(_USUAL_MPP / native))
        even = all(abs(mpp * 2 ** round(math.log2(near / mpp)) / near - 1) <= _SAME_MPP for mpp in mpps)
        mpp = round(near, 4) if even and abs(near / _USUAL_MPP - 1) <= 2 * _SAME_MPP else _USUAL_MPP
        reason = f"the slides have {_range(mpps)} um per pixel"
    else:
        mpp = math.ceil(coarsest * 1000) / 1000
        reason = f"that of the coarsest slide; the slides have {_range(mpps)} um per pixel"
    areas_um2 = [item.size_xy[0] * item.size_xy[1] * item.mpp**2 for item in slides if item.mpp is not None]
    counts = {size: int(_TISSUE_SHARE * sum(areas_um2) / (size * mpp) ** 2) for size in _SIZES_PX}
    size = next((size for size, count in counts.items() if count >= _ENOUGH_PATCHES), _SIZES_PX[-1])
    return Patches(size, mpp, counts[size], reason)


def training_for(patches: Patches, *, gpus: int, cores: int, hours: float) -> Training:
    """Return the largest usual encoder that three trainings leave enough epochs for within some hours.

    With a GPU it is ResNet-50 and 100 epochs: no rate of one was measured, and this is what is published.
    """
    train = max(1, patches.expected * (_FOLDS - 1) // _FOLDS)
    batch = max(16, min(256, 2 ** int(math.log2(max(16, train / 16)))))
    if gpus:
        return Training("resnet50", _MOST_EPOCHS, batch, f"{gpus} GPU{'s' * (gpus > 1)} here: as published")
    per_epoch_s = {
        encoder: 3 * train / (rate * cores * (224 / patches.size_px) ** 2) for encoder, rate in _CPU_RATE.items()
    }
    fitting = {encoder: min(_MOST_EPOCHS, int(hours * 3600 / seconds)) for encoder, seconds in per_epoch_s.items()}
    encoder = next((name for name, epochs in fitting.items() if epochs >= _LEAST_EPOCHS), "test_resnet")
    epochs = max(2, fitting[encoder])
    minutes = epochs * per_epoch_s[encoder] / 60
    spent = f"{minutes / 60:.2g} h" if minutes >= 60 else f"{math.ceil(minutes)} min"
    return Training(encoder, epochs, min(batch, 64), f"about {spent} on {cores} CPU cores for all three; no GPU here")


def training_text(patches: Patches, training: Training) -> str:
    """Return the configuration of a cohort with pairs."""
    side_um, share = patches.size_px * patches.mpp, f"{_TISSUE_SHARE:.0%}"
    return f"""{_HEAD}
tile:
  size_px: {patches.size_px}   # {side_um:g} um; about {patches.expected} patches in the pairs, if {share} is tissue
  mpp: {patches.mpp:g}   # {patches.reason}

# Three trainings on the same patches; whoever says that the dense stain helped needs all of them.
runs:
  distilled: &training   # the method
    branches: [sparse, dense]
    encoder: {training.encoder}   # name in timm
    epochs: {training.epochs}   # {training.reason}
    batch_size: {training.batch_size}
    # seeds: [0, 1, 2]   # for a claim: every run three times, and their spread beside the score
  sparse-only:   # what it must beat
    <<: *training
    branches: [sparse, sparse]
  shuffled:   # a control that must not help
    <<: *training
    pairing: shuffled

# split: {{test: [PATIENT, PATIENT]}}   # held out; without this the seed chooses about a quarter of the pairs

embed:
  encoder: distilled
"""


def tiling_text(patches: Patches) -> str:
    """Return the configuration of a cohort without pairs and without an encoder: it is tiled, and no more."""
    return f"""{_HEAD}
tile:
  size_px: {patches.size_px}
  mpp: {patches.mpp:g}   # {patches.reason}

# No pair was found: nothing can be trained. `init --encoder FOLDER` writes a cohort that embeds H&E alone.
"""


def embedding_text(encoder: Path, patch_px: int, mpp: float, probe: Path | None, folder: Path) -> str:
    """Return the configuration of an H&E-only cohort: the encoder's own patches, and its probe where it has one."""
    predict = f"\npredict:\n  probe: {_quoted(probe, folder)}   # markers predicted over the slides\n" if probe else ""
    return f"""{_HEAD}
tile:   # as in the encoder's training; embed refuses others
  size_px: {patch_px}
  mpp: {mpp:g}

embed:
  encoder: {_quoted(encoder, folder)}
{predict}"""


def _quoted(path: Path, folder: Path) -> str:
    """Return a path relative to the cohort's folder as a YAML value."""
    return json.dumps(Path(os.path.relpath(path, folder)).as_posix(), ensure_ascii=False)


def _range(mpps: Sequence[float]) -> str:
    low, high = min(mpps), max(mpps)
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
