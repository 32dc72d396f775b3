"""Describe the patches that an encoder or a probe was fitted on: the range of their features, and their patients.

Features far from those of the training say little: a linear probe extrapolates without limit. So each encoder and probe
has a `range.safetensors`: a covariance of the features in a few directions, and a limit from held-out tissue. The
distance is Mahalanobis's: in the directions of most variance by the variance of each, in all others by their mean one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.errors import StatedError
from pipeline.limits import MAX_FEATURES

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

RANGE_NAME = "range.safetensors"
SCHEMA_VERSION = 1
LIMIT_PERCENTILE = 99.0
UNKNOWN = "nothing says which patches it was fitted on, so whether this slide is like them is unknown"

_DIRECTIONS = 32
# Of the mean variance, added to that of every direction: few patches make small variances look smaller than they are.
_SHRINKAGE = 0.01
# A feature that is constant in the training is measured by this share of the others' spread.
_LEAST_SPREAD = 0.1
_ROWS_AT_ONCE = 4096
_ARRAYS = ("mean", "scale", "directions", "spread")
_METADATA = "more_from_less"
_EXPECTED = "a range of features as train and evaluate-probe write it"


@dataclass(frozen=True)
class FeatureRange:
    """Where the features lie of the patches that something was fitted on.

    Attributes:
        mean: (D,) their mean.
        scale: (D,) what each feature is divided by.
        directions: (K, D) orthonormal directions of most variance, in scaled features.
        spread: (K,) standard deviation along each.
        rest: standard deviation, per feature, of what these directions leave.
        limit: distance within which 99 % of held-out patches lie.
        patches: how many patches it was fitted on.
        patients: patient IDs, as in the sheet.
        held_out: what the limit was found on, in words.
        encoder: hash of the weights of the encoder whose features these are.
    """

    mean: Features
    scale: Features
    directions: Features
    spread: Features
    rest: float
    limit: float
    patches: int
    patients: tuple[str, ...]
    held_out: str
    encoder: str

    def distance(self, features: Features) -> Features:
        """Return distances (n,) of features (n, D) from those fitted on, in multiples of the limit.

        Above 1 is outside.
        """
        found = np.empty(len(features), dtype=np.float32)
        scale, directions = self.scale.astype(np.float64), self.directions.astype(np.float64).T
        for start in range(0, len(features), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            scaled = (features[part].astype(np.float64) - self.mean) / scale
            along = scaled @ directions
            left = np.clip((scaled**2).sum(axis=1) - (along**2).sum(axis=1), 0, None)
            squared = ((along / self.spread) ** 2).sum(axis=1) + left / self.rest**2
            found[part] = np.sqrt(squared) / self.limit
        return found

    def limited(self, distances: Sequence[Features], held_out: str) -> Self:
        """Return the same with the limit within which 99 % of these distances lie.

        Args:
            distances: those of held-out patches from this range or from ranges of other parts of its patches.
            held_out: what these patches are, in words.
        """
        limit = float(np.percentile(np.concatenate(distances), LIMIT_PERCENTILE))
        # Equal patches have equal features, and a distance of 0.
        return replace(self, limit=self.limit * limit if limit > 0 else self.limit, held_out=held_out)

    def to_bytes(self) -> bytes:
        """Return the contents of `range.safetensors`."""
        stated = {
            "schema": SCHEMA_VERSION,
            "encoder": self.encoder,
            "patients": list(self.patients),
            "patches": self.patches,
            "held_out": self.held_out,
            "limit": self.limit,
            "rest": self.rest,
        }
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        # One text, for the order in which safetensors writes several differs from run to run.
        return bytes(save(arrays, metadata={_METADATA: json.dumps(stated, sort_keys=True)}))


def fitted_range(features: Features, patients: Sequence[str], encoder: str = "") -> FeatureRange:
    """Return the range of features (n, D), of two patches or more; its limit, 1, is yet to be found (`limited`)."""
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = features.std(axis=0, dtype=np.float64)
    varying = deviation[deviation > 0]
    least = _LEAST_SPREAD * float(np.median(varying)) if len(varying) else 1.0
    scale = np.maximum(deviation, least)
    width, count = features.shape[1], len(features)
    covariance = np.zeros((width, width))
    for start in range(0, count, _ROWS_AT_ONCE):
        scaled = (features[start : start + _ROWS_AT_ONCE].astype(np.float64) - mean) / scale
        covariance += scaled.T @ scaled / count
    variances, vectors = np.linalg.eigh(covariance)
    kept = max(1, min(_DIRECTIONS, width, count // 4))
    ridge = _SHRINKAGE * float(np.trace(covariance)) / width or 1.0
    rest = max(0.0, float(variances[:-kept].mean())) if kept < width else 0.0
    return FeatureRange(
        mean=mean.astype(np.float32),
        scale=scale.astype(np.float32),
        directions=vectors[:, -kept:].T.astype(np.float32),
        spread=np.sqrt(np.clip(variances[-kept:], 0, None) + ridge).astype(np.float32),
        rest=math.sqrt(rest + ridge),
        limit=1.0,
        patches=count,
        patients=tuple(dict.fromkeys(patients)),
        held_out="",
        encoder=encoder,
    )


def read_range(folder: Path, encoder: str) -> FeatureRange | None:
    """Return the range beside an encoder or a probe; None where there is none, as of those made before it was kept.

    Args:
        folder: of the encoder or the probe.
        encoder: hash of the encoder's weights.

    Raises:
        StatedError: if it is broken, or is that of another encoder.
    """
    path = folder / RANGE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            stated = json.loads((file.metadata() or {})[_METADATA])
            arrays = {name: np.asarray(file.get_tensor(name), dtype=np.float32) for name in _ARRAYS}
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise StatedError(file=path, expected=_EXPECTED, found=str(error)) from None
    found = _checked(stated, arrays, path)
    if found.encoder != encoder:
        raise StatedError(
            file=path, expected=f"the range of the encoder {encoder[:12]}", found=f"that of {found.encoder[:12]}"
        )
    return found


def _checked(stated: Any, arrays: dict[str, Features], path: Path) -> FeatureRange:
    """Return the range that a file describes, or a StatedError that says what is wrong with it."""
    kinds = {"encoder": str, "patients": list, "patches": int, "held_out": str, "limit": float, "rest": float}
    if not isinstance(stated, dict) or stated.get("schema") != SCHEMA_VERSION:
        found = stated.get("schema") if isinstance(stated, dict) else stated
        raise StatedError(file=path, expected=f"schema {SCHEMA_VERSION}", found=f"schema {found!r}")
    wrong = [name for name, kind in kinds.items() if not isinstance(stated.get(name), kind)]
    if wrong:
        raise StatedError(file=path, expected=_EXPECTED, found=f"{wrong[0]} {stated.get(wrong[0])!r}")
    width, kept = arrays["mean"].size, arrays["spread"].size
    shapes = {"mean": (width,), "scale": (width,), "directions": (kept, width), "spread": (kept,)}
    unlike = [f"{name} {arrays[name].shape}" for name, shape in shapes.items() if arrays[name].shape != shape]
    if unlike or not 0 < kept <= width <= MAX_FEATURES:
        found = ", ".join(unlike) or f"{kept} directions of {width} features"
        raise StatedError(file=path, expected=_EXPECTED, found=found)
    values = arrays | {name: np.array([stated[name]]) for name in ("limit", "rest")}
    for name, item in values.items():
        allowed = np.isfinite(item) & ((item > 0) | (name in ("mean", "directions")))
        if not allowed.all():
            raise StatedError(file=path, expected=_EXPECTED, found=f"{name} {item[~allowed][0]:g}")
    return FeatureRange(
        **arrays,
        rest=stated["rest"],
        limit=stated["limit"],
        patches=stated["patches"],
        patients=tuple(map(str, stated["patients"])),
        held_out=stated["held_out"],
        encoder=stated["encoder"],
    )


def outside_share(distance: Features) -> float:
    """Share of the patches that lie outside."""
    return float((distance > 1).mean())


def outside_in_words(distance: Features, fitted: FeatureRange, what: str) -> str:
    """Return how much of a slide lies outside, for log, picture and page; `what` was fitted."""
    share, limit = outside_share(distance), 1 - LIMIT_PERCENTILE / 100
    return (
        f"{share:.0%} of {len(distance)} patches lie outside the range of features that {what} was fitted on "
        f"({named(fitted.patients, 'patient', 'patients')}; {limit:.0%} of {fitted.held_out} do), the median at "
        f"{float(np.median(distance)):.1f} times its limit"
    )


def embedded_in_words(slide: str, run: str, fitted: FeatureRange | None, distance: Features) -> str:
    """Return how much of a slide is unlike an encoder's training, for the log of embed."""
    what = f"the encoder {run}"
    if fitted is None:
        return f"embed {slide}: no {RANGE_NAME} beside {what}: {UNKNOWN}"
    return f"embed {slide}: {outside_in_words(distance, fitted, what)}"


def named(names: Sequence[str], one: str, many: str, most: int = 5) -> str:
    """Return names after what they are; of many the first few."""
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"{one if len(names) == 1 else many} {shown}" if names else f"no named {one}"
