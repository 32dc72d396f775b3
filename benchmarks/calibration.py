"""How often equal runs are told apart: false verdicts of evaluate on drawn tissue, and its power.

Usage: python benchmarks/calibration.py [--check] [--repeats N] [--blocks N ...] [--tissue NAME ...] [--seed N]
[--block-um X] [--cores N]

Draws the truth and the errors of two runs on one slide of square blocks, patch by patch, and asks evaluate's own
functions for the verdicts on ridge and few-shot probes. `independent`: patches have nothing in common. `correlated`:
correlation exp(-distance / 250 um). `smooth`: white noise smoothed by a Gaussian of 250 um, alike over half a
millimetre and more. `ragged`: the outline of the tissue cuts the blocks. `seeds`: three trainings per run, whose
errors differ. A rate is the share of verdicts `helped` or `harmed` on pairs of equal runs, where each of the three
markers and classes of a pair gives one; power is that of a run whose errors are smaller. A pair without a verdict
counts as not told apart; the share of such pairs is given.

The last line is JSON. With --check the exit code is 1 where a rate of equal runs, as it was found, leaves 0.05 +- 0.02.
Of 2,000 pairs its standard error is 0.005 for a mean and 0.003 for markers, which are independent of each other. Too
few false verdicts are the lesser fault: with several seeds, which all have to agree, on 8 blocks, where 12 of 256 flips
are let pass, and on `smooth` tissue, which counts as few blocks, a rate may be lower. Evaluate gives no verdict on 4.
`smooth` on 8 blocks is shown only: a slide of 1 x 2 mm is hardly wider than what is alike on it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import block_labels, enough_blocks, resample_counts
from pipeline.evaluation.class_evidence import probed_class
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.evidence import evidence_rows
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.marker_evidence import marker_scores
from pipeline.evaluation.probe_spec import ProbeSpec, marker_probe_spec
from pipeline.evaluation.probing import evidence
from pipeline.evaluation.scores import FittedProbe, stacked

Floats = NDArray[np.float64]

SPACING_UM = 100.0
RATE, TOLERANCE = 0.05, 0.02
MARKERS = ("A", "B", "C")


@dataclass(frozen=True)
class Case:
    """One kind of tissue: correlation by distance, outline and trainings per run; `least` counts from that many blocks.

    Attributes:
        name: of the case.
        kind: of the correlation: empty, `exponential` or `smooth`.
        range_um: its length.
        ragged: whether the outline cuts blocks.
        seeds: trainings of each run.
        least: blocks from which the rate counts for --check.
    """

    name: str
    kind: str = ""
    range_um: float = 0.0
    ragged: bool = False
    seeds: int = 1
    least: int = 8


CASES = (
    Case("independent"),
    Case("correlated", "exponential", 250.0),
    Case("smooth", "smooth", 250.0, least=25),
    Case("ragged", ragged=True),
    Case("ragged correlated", "exponential", 250.0, ragged=True),
    Case("seeds", seeds=3),
)
LAYOUTS = {4: (2, 2), 8: (2, 4), 25: (5, 5), 100: (10, 10)}


class Field:
    """Draws of a stationary Gaussian field on a grid of patches, by its spectrum on a torus that no range spans."""

    def __init__(self, shape_yx: tuple[int, int], case: Case) -> None:
        """Prepare draws of unit variance."""
        self._shape = shape_yx
        margin = math.ceil(8 * case.range_um / SPACING_UM)
        y, x = (np.minimum(np.arange(size), size - np.arange(size)) for size in (side + margin for side in shape_yx))
        distance = np.hypot(y[:, None], x[None]) * SPACING_UM
        if case.kind == "smooth":
            correlation = np.exp(-((distance / (2 * case.range_um)) ** 2))
        elif case.kind == "exponential":
            correlation = np.exp(-distance / case.range_um)
        else:
            correlation = (distance == 0).astype(np.float64)
        self._amplitude = np.sqrt(np.clip(np.fft.fft2(correlation).real, 0, None))

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Return (count, height, width)."""
        size = (-(-count // 2), *self._amplitude.shape)
        noise = rng.normal(size=size) + 1j * rng.normal(size=size)
        found = np.fft.fft2(noise * self._amplitude, norm="ortho")
        return np.concatenate([found.real, found.imag])[:count, : self._shape[0], : self._shape[1]]


def main() -> int:
    """Run all cases; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit with 1 where a rate is off")
    parser.add_argument("--repeats", type=int, default=2000, help="pairs of runs per rate")
    parser.add_argument(
        "--blocks", type=int, nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="blocks of tissue"
    )
    names = [case.name for case in CASES]
    parser.add_argument("--tissue", nargs="+", choices=names, default=names, help="kinds of tissue")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--block-um", type=float, default=500.0, help="side of a block")
    parser.add_argument("--cores", type=int, default=2, help="processes")
    parsed = parser.parse_args()
    print(f"{'tissue':20}{'blocks':>8}{'marker':>9}{'mean':>9}{'class':>9}{'mean':>9}{'none':>8}{'power':>9}{'s':>7}")
    cases = [case for case in CASES if case.name in parsed.tissue]
    jobs = [(case, blocks, parsed.repeats, parsed.seed, parsed.block_um) for case in cases for blocks in parsed.blocks]
    with ProcessPoolExecutor(parsed.cores) as pool:
        rows = list(map(shown, pool.map(measured, jobs)))
    print(json.dumps({"benchmark": "calibration", "repeats": parsed.repeats, "rows": rows}))
    return 1 if parsed.check and any(row["off"] for row in rows) else 0


def measured(job: tuple[Case, int, int, int, float]) -> dict[str, Any]:
    """Return one line of the table."""
    case, blocks, repeats, seed, block_um = job
    started = time.perf_counter()
    equal = rates(case, blocks, repeats, 1.0, seed, block_um)
    better = rates(case, blocks, max(1, repeats // 5), 0.8, seed + 1, block_um)
    asked = [name for name in equal if name != "none" and blocks >= case.least]
    return {
        "tissue": case.name,
        "blocks": blocks,
        "equal": equal,
        "power": better["mean"],
        "off": [name for name in asked if is_off(equal[name], case.seeds > 1 or case.kind == "smooth" or blocks < 25)],
        "seconds": time.perf_counter() - started,
    }


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Print a line as soon as it is there."""
    cells = "".join(f"{row['equal'][name]:9.3f}" for name in ("marker", "mean", "class", "class mean"))
    tail = f"{row['equal']['none']:8.2f}{row['power']:9.2f}{row['seconds']:7.1f}"
    print(f"{row['tissue']:20}{row['blocks']:8}{cells}{tail}{'  OFF' if row['off'] else ''}", flush=True)
    return row


def is_off(rate: float, may_be_lower: bool) -> bool:
    """Return whether a rate of false verdicts leaves what is promised."""
    return not (0.0 if may_be_lower else RATE - TOLERANCE) <= rate <= RATE + TOLERANCE


def rates(case: Case, blocks: int, repeats: int, noise: float, seed: int, block_um: float) -> dict[str, float]:
    """Return shares of pairs of runs with a verdict, by target; `none` is the share without any.

    Args:
        case: the tissue.
        blocks: of it.
        repeats: pairs of runs.
        noise: size of the errors of the run that is compared, those of the baseline being 1.
        seed: of the draws.
        block_um: side of a block.
    """
    rng = np.random.default_rng([seed, blocks, CASES.index(case)])
    held, inside = tissue(case, blocks, block_um)
    height, width = inside.shape
    field = Field((height, width), case)
    told: dict[str, list[str]] = {"marker": [], "mean": [], "class": [], "class mean": []}
    for _ in range(repeats):
        truth, shared, latent = field.draw(rng, 3 * len(MARKERS)).reshape(3, len(MARKERS), -1)[:, :, inside.reshape(-1)]
        errors = field.draw(rng, 2 * case.seeds * len(MARKERS)).reshape(2, case.seeds, len(MARKERS), -1)
        errors = errors[..., inside.reshape(-1)] * np.array([1.0, noise])[:, None, None, None]
        predicted = truth + 0.5 * shared + errors
        rows = verdicts(truth.T, np.swapaxes(predicted, -1, -2), latent.T, held)
        for name, found_rows in rows.items():
            told[name].extend(row.verdict for row in found_rows)
    found = {name: float(np.mean([verdict in ("helped", "harmed") for verdict in seen])) for name, seen in told.items()}
    return found | {"none": float(np.mean([verdict == "" for verdict in told["mean"]]))}


def tissue(case: Case, blocks: int, block_um: float) -> tuple[HeldOut, NDArray[np.bool_]]:
    """Return the held-out patches of one slide, and which of the grid (height, width) are tissue."""
    rows, columns = LAYOUTS[blocks]
    side = round(block_um / SPACING_UM)
    y, x = np.mgrid[: rows * side, : columns * side]
    inside = np.ones(y.shape, np.bool_)
    if case.ragged:
        # An ellipse that just fits, as a biopsy: blocks at its edge keep a few patches only.
        inside = ((y + 0.5) / y.shape[0] * 2 - 1) ** 2 + ((x + 0.5) / x.shape[1] * 2 - 1) ** 2 <= 1
    position = np.stack([x[inside], y[inside]], axis=1) * SPACING_UM
    labels = block_labels(position, block_um)
    counts = resample_counts([int(labels.max()) + 1], 1000, 0)
    held = HeldOut(("s",), (len(labels),), (labels,), tuple(counts), enough_blocks([labels]), (position,), block_um)
    return held, inside


def verdicts(truth: Floats, predicted: Floats, latent: Floats, held: HeldOut) -> dict[str, list[EvidenceRow]]:
    """Return the rows of the run `other` against the run `base`: the markers, the mean, the classes, balanced accuracy.

    Args:
        truth: (n, T).
        predicted: (2, seeds, n, T) of the baseline and the other.
        latent: (n, T), whose largest is the class; predictions of it have the errors of `predicted`.
        held: the patches.
    """
    runs, targets, ridge = ("base", "other"), Targets.of(MARKERS), marker_probe_spec("ridge")
    scores = {
        run: stacked([marker_scores([truth], [one], targets, held.patches, whole=False) for one in own])
        for run, own in zip(runs, predicted, strict=True)
    }
    fitted_on = np.full(len(MARKERS), 100)
    fitted = {run: FittedProbe(fitted_on, None) for run in runs}
    markers = evidence_rows(ridge, targets, scores, fitted, "base", held)
    labels, few = latent.argmax(axis=1), ProbeSpec("sparse", "class", "linear", "recall", 100)
    task = ClassTask("class", MARKERS, labels, (labels,))
    groups = {run: [f"{run}{seed}" for seed in range(len(predicted[0]))] for run in runs}
    probed = {
        name: {few: probed_class(few, targets, task, [latent + predicted[run, seed] - truth], fitted_on, held)}
        for run, names in enumerate(groups.values())
        for seed, name in enumerate(names)
    }
    classes = evidence(probed, groups, held, "base", 0)
    rows = {(row.run, row.spec, row.target): row for row in (*markers, *classes)}
    asked = {
        "marker": (ridge, MARKERS),
        "mean": (ridge, ("mean",)),
        "class": (few, MARKERS),
        "class mean": (few, ("mean",)),
    }
    return {name: [rows["other", spec, target] for target in names] for name, (spec, names) in asked.items()}


if __name__ == "__main__":
    sys.exit(main())
