"""A ridge probe on disk: `probe.safetensors` with its weights, `probe.json` with all that one must know to use it, and
`range.safetensors` with the range of the features that it was fitted on.

A probe turns the features of one encoder into predicted marker intensities, on slides that have no dense side too. It
keeps its held-out scores with it, so that whoever draws a prediction can say how far it may be trusted.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from pipeline.errors import StatedError
from pipeline.json_file import MISFIT, read_json
from pipeline.limits import MAX_FEATURES, MAX_MARKERS
from pipeline.provenance import file_digest, finished
from pipeline.training.feature_range import RANGE_NAME, FeatureRange, read_range

Floats = NDArray[np.float64]

SCHEMA_VERSION = 2
# Of the first schema there is no range, no patients, and no word of what predictions a marker was fitted on.
_READABLE_SCHEMAS = (1, SCHEMA_VERSION)
WEIGHTS_NAME = "probe.safetensors"
DESCRIPTION_NAME = "probe.json"
UNIT = "SD"
UNIT_EXPLAINED = (
    "standard deviations from the mean of a slide, of what stands for the patch: log(1 + mean intensity) of a marker, "
    "mean optical density of a stain, share of a class, log(1 + counts per 10,000) of a gene"
)

_RANGE = ("range_low", "range_high")
_EXPECTED = "a probe's folder as evaluate-probe writes it"


@dataclass(frozen=True)
class MarkerProbe:
    """What is known of the probe of one marker; floats are nan where nothing can be said.

    Attributes:
        marker: its name.
        score: Pearson r on held-out patches within slides, as evaluate has it.
        low: lower end of its 95 % interval.
        high: upper end.
        penalty: the ridge penalty.
        train_patches: patches fitted on.
        test_patches: held-out patches scored.
        scale_low: 2nd percentile of the predictions on the patches fitted on, in `UNIT`; the colour scale's lower end.
        scale_high: their 98th percentile.
        range_low: 0.5th percentile of the predictions on the patches fitted on, or on those scored if that is lower.
        range_high: their 99.5th percentile, or that on those scored if it is higher.
        patients: held-out patients that the score comes from, named as in the sheet; empty where nothing tells.
    """

    marker: str
    score: float
    low: float
    high: float
    penalty: float
    train_patches: int
    test_patches: int
    scale_low: float
    scale_high: float
    range_low: float = math.nan
    range_high: float = math.nan
    patients: tuple[str, ...] = ()

    def scored(self) -> str:
        """Return the held-out score with its interval, in words."""
        if math.isnan(self.score):
            return "not scored"
        around = "" if math.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"r {self.score:.2f}{around}"


@dataclass(frozen=True)
class Probe:
    """The ridge probes of all markers, for the features of one encoder.

    Attributes:
        run: the training whose features they were fitted on.
        encoder: hash of its encoder's weights.
        markers: T of them, in the order of the columns.
        weights: (D, T), for features as they are; nan where no slide to fit on has the marker.
        intercept: (T,).
        fitted_on: hashes of the features files whose patches were fitted on.
        fitted: the range of their features; None where that is not known.
    """

    run: str
    encoder: str
    markers: tuple[MarkerProbe, ...]
    weights: Floats
    intercept: Floats
    fitted_on: frozenset[str]
    fitted: FeatureRange | None = None

    def write(self, out: Path, provenance: dict[str, Any]) -> None:
        """Write the folder `out`."""
        with finished(out) as folder:
            folder.mkdir()
            arrays = {"weights": np.ascontiguousarray(self.weights), "intercept": self.intercept}
            # Not save_file: it makes files that only their owner may read.
            (folder / WEIGHTS_NAME).write_bytes(save(arrays))
            if self.fitted is not None:
                (folder / RANGE_NAME).write_bytes(self.fitted.to_bytes())
            description = {
                "schema": SCHEMA_VERSION,
                "run": self.run,
                "encoder": self.encoder,
                "features": len(self.weights),
                "weights_sha256": file_digest(folder / WEIGHTS_NAME),
                "metric": "Pearson r within held-out slides",
                "unit": f"{UNIT}: {UNIT_EXPLAINED}",
                "markers": [
                    {key: None if value != value else value for key, value in asdict(item).items()}
                    for item in self.markers
                ],
                "fitted_on": sorted(self.fitted_on),
                "provenance": provenance,
            }
            text = json.dumps(description, indent=2, ensure_ascii=False)
            (folder / DESCRIPTION_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the probe in a folder.

        Raises:
            StatedError: if the folder is not a probe's, or its weights are not the ones its description speaks of.
        """
        for name in (DESCRIPTION_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise StatedError(file=folder, expected=_EXPECTED, found=f"no {name}")
        path = folder / WEIGHTS_NAME
        try:
            description = read_json(folder / DESCRIPTION_NAME)
            if description["schema"] not in _READABLE_SCHEMAS:
                raise ValueError(f"schema {description['schema']}")
            markers = tuple(marker_probe(item) for item in description["markers"])
            if not 0 < len(markers) <= MAX_MARKERS or len({item.marker for item in markers}) != len(markers):
                raise ValueError(f"{len(markers)} markers, or one of them twice")
            wanted, width = str(description["weights_sha256"]), int(description["features"])
            about = str(description["run"]), str(description["encoder"])
            fitted_on = frozenset(map(str, description["fitted_on"]))
        except (OSError, *MISFIT) as error:
            raise StatedError(file=folder / DESCRIPTION_NAME, expected=_EXPECTED, found=repr(error)) from None
        if (found := file_digest(path)) != wanted:
            raise StatedError(file=path, expected=f"weights of SHA-256 {wanted}", found=found)
        expected = f"weights of {width} features and {len(markers)} markers"
        try:
            arrays = load_file(path)
            weights, intercept = (arrays[name].astype(np.float64) for name in ("weights", "intercept"))
        except (SafetensorError, OSError, LookupError, ValueError) as error:
            raise StatedError(file=path, expected=expected, found=str(error)) from None
        fits = weights.shape == (width, len(markers)) and intercept.shape == (len(markers),)
        if not (fits and 0 < width <= MAX_FEATURES):
            raise StatedError(
                file=path, expected=expected, found=f"weights {weights.shape}, intercept {intercept.shape}"
            )
        fitted = read_range(folder, about[1])
        if fitted is not None and len(fitted.mean) != width:
            expected = f"a range of {width} features"
            raise StatedError(file=folder / RANGE_NAME, expected=expected, found=str(len(fitted.mean)))
        return cls(*about, markers, weights, intercept, fitted_on, fitted)


def marker_probe(value: dict[str, Any]) -> MarkerProbe:
    """Return what JSON says of the probe of one marker; null is nan, as is what the first schema did not tell.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: if it is not of this shape.
    """
    numbers = ("score", "low", "high", "penalty", "scale_low", "scale_high")
    value = {**dict.fromkeys(_RANGE), "patients": [], **value}
    if not isinstance(value["patients"], list):
        raise ValueError(f"patients {value['patients']!r:.80}")
    return MarkerProbe(
        marker=str(value["marker"]),
        train_patches=int(value["train_patches"]),
        test_patches=int(value["test_patches"]),
        patients=tuple(map(str, value["patients"])),
        **{name: math.nan if value[name] is None else float(value[name]) for name in (*numbers, *_RANGE)},
    )
