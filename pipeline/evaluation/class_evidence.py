"""How well the probes tell classes of patches: linear, nearest neighbours and few-shot, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Parts
from pipeline.evaluation.class_probes import Standard, draw_shots, fit_logistic
from pipeline.evaluation.class_scores import area_parts, areas, recall_parts, recalls
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.evidence import (
    EvidenceRow,
    FittedProbe,
    Scores,
    evidence_rows,
    missing_rows,
    stacked,
    with_mean,
    with_mean_of_all,
)
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.prediction import FittingRows, held_out, training_features
from pipeline.evaluation.probes import fit_knn
from pipeline.evaluation.reading import Cohort, FeaturesOf
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import NO_CLASS

Floats = NDArray[np.float64]
# One prediction (n, K) for all held-out patches with a class; several where patches to fit on are drawn.
Draws = list[Floats]

_MEAN_OF = {"recall": "balanced_accuracy", "auc": "macro_auc"}


def class_evidence(
    predicted: Mapping[str, Mapping[str, Draws]],
    task: ClassTask,
    groups: Mapping[str, Sequence[str]],
    tested: HeldOut,
    baseline: str,
    prefix: str = "",
) -> list[EvidenceRow]:
    """Return rows of every class probe and class, with their mean.

    The probes are `class-linear`, `class-knn` and, where it is asked for, `class-mlp`, scored by recall (mean: balanced
    accuracy), the same with `-auc` scored by the area under the ROC curve of each class against the rest, and
    `class-{n}-shot` for the numbers of patches that every class has to fit on. Of another column of the tables than
    `class` its name stands there.

    Args:
        predicted: of each training, by probe, see `class_predictions`.
        task: the classes.
        groups: for each row's run the trainings that are its seeds.
        tested: the held-out blocks and their resamples.
        baseline: run that the others are compared with.
        prefix: of the names of the probes.
    """
    rows = []
    for probe in next(iter(predicted.values())):
        if not all(predicted[name][probe] for names in groups.values() for name in names):
            metrics = ("recall", _MEAN_OF["recall"])
            rows += missing_rows(prefix + probe, metrics, task.names, groups, too_few_shots(probe, task))
            continue
        fitted = FittedProbe(_fitted_on(probe, task), None)
        for metric in ("recall", "auc"):
            if metric == "auc" and probe.endswith("-shot"):
                continue
            scores = {
                run: stacked([_scores(metric, task, predicted[name][probe]) for name in names])
                for run, names in groups.items()
            }
            title = prefix + (probe if metric == "recall" else f"{probe}-auc")
            metrics = (metric, _MEAN_OF[metric])
            of_all = dict.fromkeys(groups, fitted)
            rows += evidence_rows(title, metrics, task.names, scores, of_all, baseline, _with_class(task, tested))
    return rows


def class_predictions(
    features_of: FeaturesOf, cohort: Cohort, training: FittingRows, task: ClassTask, settings: EvaluateSettings
) -> dict[str, Draws]:
    """Return by probe its predictions for all held-out patches with a class, fitted to the features of one run.

    Of few-shot probes that some class has too few patches for there is no draw.

    Raises:
        StatedError: if a slide has no features there, or features of other patches.
    """
    features, known = training_features(features_of, cohort, training), task.fitted != NO_CLASS
    held = [features_of(slide, np.flatnonzero(slide.held_out)) for slide in held_out(cohort)]
    seen = np.concatenate([rows[labels != NO_CLASS] for rows, labels in zip(held, task.tested, strict=True)])
    # Few-shot probes too are standardised by all training patches: that takes no labels.
    standard, labels, classes = Standard.of(features), task.fitted[known], len(task.names)
    x, asked = standard(features[known]), standard(seen)
    found = {
        f"{task.column}-linear": [fit_logistic(x, labels, classes).predict(asked)],
        f"{task.column}-knn": [fit_knn(features[known], np.eye(classes)[labels], settings.neighbours).predict(seen)],
    }
    if settings.mlp_epochs:
        # Here and not above: without it no class probe needs torch.
        from pipeline.evaluation.mlp_probe import fit_mlp, predict_mlp

        head = fit_mlp(x, labels, classes, settings.mlp_epochs, settings.seed)
        found[f"{task.column}-mlp"] = [predict_mlp(head, asked)]
    for shots in settings.shots:
        seeds = [settings.seed * settings.shot_draws + draw for draw in range(settings.shot_draws)]
        drawn = [draw_shots(labels, classes, shots, seed) for seed in seeds]
        fits = [fit_logistic(x[rows], labels[rows], classes).predict(asked) for rows in drawn if rows is not None]
        found[f"{task.column}-{shots}-shot"] = fits
    return found


def _scores(metric: str, task: ClassTask, draws: Draws) -> Scores:
    """Return the scores, of several draws their means."""
    known = [labels != NO_CLASS for labels in task.tested]
    truth = np.concatenate([labels[rows] for labels, rows in zip(task.tested, known, strict=True)])
    slide = np.repeat(np.arange(len(known)), [int(rows.sum()) for rows in known])
    within = (slide == np.arange(len(known))[:, None]).astype(np.float64)
    # Recall is linear in the hits, so that the mean over draws takes one pass.
    hits = np.stack([scores.argmax(axis=1) == truth for scores in draws]).astype(np.float64)
    classes = len(task.names)
    if metric == "auc":
        parts, per_slide = area_parts(truth, draws[0]), areas(truth, draws[0], within)
    else:
        parts, per_slide = (
            recall_parts(truth, hits.mean(axis=0), classes),
            recalls(truth, hits.mean(axis=0), classes, within),
        )
    each = np.concatenate([with_mean(recalls(truth, one, classes, np.ones((1, len(truth))))) for one in hits])
    nothing = np.full(classes + 1, np.nan)
    whole = _of_all_patches(parts.with_mean(), np.concatenate(known))
    return Scores(
        point=with_mean(parts.score[None])[0],
        contribution=whole.contribution,
        influence=whole.influence,
        share=whole.share,
        per_slide=with_mean_of_all(per_slide, parts.score),
        r2=nothing,
        spearman=nothing,
        draw_std=each.std(axis=0, ddof=1) if len(draws) > 1 else nothing,
    )


def too_few_shots(probe: str, task: ClassTask) -> str:
    """Return why a few-shot probe was not fitted, naming the rarest class."""
    shots = probe.removeprefix(f"{task.column}-").removesuffix("-shot")
    counts = np.bincount(task.fitted[task.fitted != NO_CLASS], minlength=len(task.names))
    rarest = int(counts.argmin())
    return f"not fitted: class {task.names[rarest]} has {counts[rarest]} of the {shots} patches to fit on"


def _of_all_patches(parts: Parts, known: NDArray[np.bool_]) -> Parts:
    """Return the parts of patches with a class among those of all held-out patches."""
    return Parts(*(_among(values, known) for values in (parts.contribution, parts.influence, parts.share)))


def _among(values: Floats, known: NDArray[np.bool_]) -> Floats:
    found = np.zeros((len(known), values.shape[1]))
    found[known] = values
    return found


def _with_class(task: ClassTask, tested: HeldOut) -> HeldOut:
    """Return the same with the number of patches that have a class."""
    patches = tuple(int((labels != NO_CLASS).sum()) for labels in task.tested)
    return replace(tested, patches=patches)


def _fitted_on(probe: str, task: ClassTask) -> NDArray[np.int64]:
    """Return patches that a probe was fitted on, the same for every class."""
    shots = probe.removeprefix(f"{task.column}-").removesuffix("-shot")
    count = int(shots) * len(task.names) if shots.isdecimal() else int((task.fitted != NO_CLASS).sum())
    return np.full(len(task.names), count)
