"""How often outcomes is right about patients: drawn cohorts in which a run sees more than the baseline, and equal ones.

Usage: python benchmarks/patients.py [--cohorts N] [--patients N] [--kinds KIND …] [--probe mean|attention] [--check].

In each cohort of patients two runs see the tissue: equally well, where there is something to see and where not, and
every verdict but “no difference” is false, or one far better, in which case “helped” is right. Predictions, scores,
intervals and verdicts are those of `pipeline.outcomes`. Prints a table; the last line is JSON. With --check the exit
code is 1 where a goal is missed: of 100 cohorts at least 95 right, and 5 +- 2 false where runs are equal, within what
so many cohorts can tell.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import numpy as np

from benchmarks.drawn_patients import DrawnPatients, Features, draw_patients, draw_run
from pipeline.embedding.pooling import mean_and_std
from pipeline.evaluation.bootstrap import resample_counts
from pipeline.outcomes.attention import predict_from
from pipeline.outcomes.comparison import outcome_rows
from pipeline.outcomes.folds import WIDENING, stratified_folds
from pipeline.outcomes.linear import cross_validated
from pipeline.outcomes.task import Floats, OutcomeTask
from pipeline.settings import OutcomesSettings

EFFECT = 4.0
POOR, GOOD, EQUAL = 6.0, 0.2, 2.0
PATCHES, WIDTH = 100, 64
GROUPS = {"baseline": ["baseline"], "other": ["other"]}
RIGHT, FALSE, TOLERANCE = 0.95, 0.05, 0.02


def predictions(
    patients: DrawnPatients, bags: list[Features], task: OutcomeTask, probe: str, settings: OutcomesSettings
) -> Floats:
    """Return predictions (n, K) of one probe, as the stage makes them."""
    made = []
    for seed in range(settings.seed, settings.seed + settings.repeats):
        folds = stratified_folds(task.strata(), settings.folds, np.random.default_rng(seed))
        if probe == "mean":
            vectors = np.stack([mean_and_std(features)[0] for features in bags])
            made.append(cross_validated(vectors, task, settings.penalties, folds, seed))
        else:
            drawn = dict(zip(patients.names, bags, strict=True))
            made.append(predict_from(drawn, drawn.__getitem__, task, settings.attention_epochs, folds, seed, "cpu"))
    return np.mean(made, axis=0)


def verdict(kind: str, equal: bool, count: int, probe: str, settings: OutcomesSettings, seed: int) -> tuple[str, float]:
    """Return the verdict on one drawn cohort, and the score of the better run."""
    rng = np.random.default_rng(seed)
    # Every other cohort of equal runs has nothing that could be seen.
    patients = draw_patients(count, 0.0 if equal and seed % 2 else EFFECT, rng)
    task = OutcomeTask.of(patients.outcomes[kind])
    mistaken = {"baseline": EQUAL if equal else POOR, "other": EQUAL if equal else GOOD}
    predicted = {
        run: predictions(patients, draw_run(patients, how, PATCHES, WIDTH, rng), task, probe, settings)
        for run, how in mistaken.items()
    }
    halves = resample_counts([count], settings.bootstrap, settings.seed)[0]
    rows = outcome_rows(task, probe, predicted, GROUPS, "baseline", halves, WIDENING)
    return rows[1].verdict, rows[1].score


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=100, help="of each kind, with and without an effect")
    parser.add_argument("--patients", type=int, default=60, help="of each cohort")
    parser.add_argument("--kinds", nargs="+", default=["class", "number", "survival"])
    parser.add_argument("--probe", choices=["mean", "attention"], default="mean")
    parser.add_argument("--repeats", type=int, default=OutcomesSettings().repeats)
    parser.add_argument("--check", action="store_true")
    parsed = parser.parse_args()
    settings = OutcomesSettings(repeats=parsed.repeats)
    found, missed = [], []
    print("outcome   runs     score  helped  harmed  no difference  s of processor")
    for kind in parsed.kinds:
        for equal in (False, True):
            began = time.process_time()
            told = [
                verdict(kind, equal, parsed.patients, parsed.probe, settings, seed) for seed in range(parsed.cohorts)
            ]
            share = {word: sum(one == word for one, _ in told) / len(told) for word in ("helped", "harmed")}
            score = float(np.mean([score for _, score in told]))
            seconds = time.process_time() - began
            rest = 1 - sum(share.values())
            print(
                f"{kind:9} {'equal' if equal else 'better':8} {score:5.2f}  {share['helped']:6.2f}"
                f"  {share['harmed']:6.2f}  {rest:13.2f}  {seconds:6.0f}",
                flush=True,
            )
            found.append({"kind": kind, "equal": equal, "score": score, **share, "seconds": seconds})
            if not equal and share["helped"] < RIGHT:
                missed.append(f"{kind}: right in {share['helped']:.2f}")
    false = [row["helped"] + row["harmed"] for row in found if row["equal"]]
    cohorts = parsed.cohorts * len(false)
    rate = float(np.mean(false))
    # What so many cohorts leave open: two standard errors of a share of 5 %.
    open_by = 2 * math.sqrt(FALSE * (1 - FALSE) / cohorts)
    print(f"false where runs are equal: {rate:.3f} of {cohorts} cohorts (two standard errors at 0.05: {open_by:.3f})")
    if abs(rate - FALSE) > max(TOLERANCE, open_by):
        missed.append(f"false in {rate:.3f}")
    print("\n".join(f"missed: {one}" for one in missed) or "all goals met")
    print(json.dumps({"rows": found, "false": rate, "missed": missed}))
    return int(parsed.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
