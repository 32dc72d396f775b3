"""Patients whose outcome shows in their tissue, and the features in which runs see it, drawn with known truth.

A patient's severity decides what share of its patches is of one kind among several. A run sees kinds as places in its
feature space, and mistakes some patches for others, each run different ones; how many it mistakes makes it a good or a
poor one. All patches of a patient also share a shift, as stain and scanner make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.pooling import SlideVector, mean_and_std, write_slide_vectors
from pipeline.outcomes.table import Outcome

Floats = NDArray[np.float64]
Features = NDArray[np.float32]

KINDS = 5
_STAIN = 0.5
_SPREAD = 1.0


@dataclass(frozen=True)
class DrawnPatients:
    """n patients: their names, severities (n,), and the outcomes that follow from these."""

    names: tuple[str, ...]
    severity: Floats
    outcomes: dict[str, Outcome]


def draw_patients(count: int, effect: float, rng: np.random.Generator) -> DrawnPatients:
    """Return patients, half of each class; severity differs between classes by `effect` standard deviations.

    The number rises with severity, as does the hazard; a third of the times is censored.
    """
    names = tuple(f"P{index:03d}" for index in range(count))
    label = rng.permutation(count) < count // 2
    severity = effect * (label - 0.5) + rng.normal(size=count)
    number = effect / 2 * severity + rng.normal(size=count)
    time = rng.exponential(np.exp(-effect / 2 * severity))
    censored = rng.exponential(2.0, size=count)
    outcomes = {
        "class": Outcome(
            "class", "class", {n: "high" if one else "low" for n, one in zip(names, label, strict=True)}, {}, {}
        ),
        "number": Outcome("number", "number", {}, dict(zip(names, number.tolist(), strict=True)), {}),
        "survival": Outcome(
            "survival",
            "survival",
            {},
            dict(zip(names, np.minimum(time, censored).tolist(), strict=True)),
            dict(zip(names, (time <= censored).tolist(), strict=True)),
        ),
    }
    return DrawnPatients(names, severity, outcomes)


def draw_run(
    patients: DrawnPatients, mistaken: float, patches: int, width: int, rng: np.random.Generator
) -> list[Features]:
    """Return the features (patches, width) of each patient as a run sees them.

    Args:
        patients: whose.
        mistaken: standard deviation, in severities, of what the run takes a patient's severity for.
        patches: of each patient.
        width: of a feature vector.
        rng: of the run.
    """
    places = rng.normal(size=(KINDS, width))
    stain = rng.normal(size=(KINDS, width))
    found = []
    for severity in patients.severity:
        mixture = np.array([0.7 * (severity + mistaken * rng.normal()) - 1, *(0.5 * rng.normal(size=KINDS - 1))])
        share = np.exp(mixture) / np.exp(mixture).sum()
        kind = rng.choice(KINDS, size=patches, p=share)
        shift = _STAIN * rng.normal(size=KINDS) @ stain / np.sqrt(KINDS)
        found.append((places[kind] + shift + _SPREAD * rng.normal(size=(patches, width))).astype(np.float32))
    return found


def write_run(folder: Path, patients: DrawnPatients, bags: list[Features]) -> None:
    """Write SLIDE.h5 and slides.parquet of a run, a slide `s-PATIENT` each, as embed and embed-slides do."""
    folder.mkdir(parents=True)
    vectors = []
    for name, features in zip(patients.names, bags, strict=True):
        with h5py.File(folder / f"s-{name}.h5", "w") as file:
            file["features"] = features
            file.attrs["encoder"] = folder.name
        mean, std = mean_and_std(features)
        vectors.append(SlideVector(f"s-{name}", name, len(features), "recipe", folder.name, mean, std))
    write_slide_vectors(vectors, folder / "slides.parquet", {})


def write_table(path: Path, patients: DrawnPatients) -> None:
    """Write the table of patients: columns patient, label, number, months and death."""
    known = patients.outcomes
    lines = ["patient,label,number,months,death"]
    for name in patients.names:
        survival = f"{known['survival'].numbers[name]:.4f},{int(known['survival'].events[name])}"
        lines.append(f"{name},{known['class'].classes[name]},{known['number'].numbers[name]:.4f},{survival}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
