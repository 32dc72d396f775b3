"""How well the probes predict markers: Pearson r within held-out slides, of every run, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import correlation_parts, explained, pearson, spearman
from pipeline.evaluation.evidence import (
    EvidenceRow,
    FittedProbe,
    Scores,
    evidence_rows,
    stacked,
    with_mean,
    with_mean_of_all,
)
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.prediction import PROBES, RunPredictions, held_out, held_out_truth
from pipeline.evaluation.reading import Cohort

Floats = NDArray[np.float64]

METRIC = "pearson_r"


def marker_evidence(
    cohort: Cohort,
    runs: Mapping[str, RunPredictions],
    groups: Mapping[str, Sequence[str]],
    tested: HeldOut,
    baseline: str,
    prefix: str = "",
) -> list[EvidenceRow]:
    """Return rows of every probe and marker, with their mean.

    Args:
        cohort: the pairs.
        runs: predictions of each training.
        groups: for each row's run the trainings that are its seeds.
        tested: the held-out blocks and their resamples.
        baseline: run that the others are compared with.
        prefix: of the names of the probes.
    """
    truths = [held_out_truth(slide) for slide in held_out(cohort)]
    rows = []
    for probe in PROBES:
        scores = {
            run: stacked([_scores(truths, runs[name].predicted[probe], tested) for name in names])
            for run, names in groups.items()
        }
        fitted = {
            run: FittedProbe(
                runs[names[0]].train_patches,
                np.median([runs[name].penalty for name in names], axis=0) if probe == "ridge" else None,
            )
            for run, names in groups.items()
        }
        rows += evidence_rows(prefix + probe, (METRIC, METRIC), cohort.markers, scores, fitted, baseline, tested)
    return rows


def _scores(truths: Sequence[Floats], predicted: Sequence[Floats], tested: HeldOut) -> Scores:
    """Return the scores of one training on the held-out slides, whose truths and predictions are (n, T)."""
    # A marker without a probe (no slide to fit on has it) is not a zero: it is left out like a missing truth.
    known = [np.where(np.isfinite(p), y, np.nan) for y, p in zip(truths, predicted, strict=True)]
    parts = correlation_parts(known, predicted)
    per_slide = np.stack([pearson(y, p) for y, p in zip(known, predicted, strict=True)])
    weight = np.array(tested.patches, dtype=np.float64)
    whole = parts.with_mean()
    return Scores(
        point=with_mean(parts.score[None])[0],
        contribution=whole.contribution,
        influence=whole.influence,
        share=whole.share,
        per_slide=with_mean_of_all(per_slide, parts.score),
        r2=_averaged([explained(y, p) for y, p in zip(known, predicted, strict=True)], weight),
        spearman=_averaged([spearman(y, p) for y, p in zip(known, predicted, strict=True)], weight),
        draw_std=np.full(per_slide.shape[1] + 1, np.nan),
    )


def _averaged(values: Sequence[Floats], weight: Floats) -> Floats:
    """Return mean over slides (T + 1,), weighted, of what is known; the mean over targets last."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    total = (known * weight[:, None]).sum(axis=0)
    mean = np.where(known, stacked * weight[:, None], 0).sum(axis=0) / np.where(total > 0, total, np.nan)
    return np.asarray(with_mean(mean[None])[0])
