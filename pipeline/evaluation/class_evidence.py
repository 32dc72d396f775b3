"""Fit and score the probes of classes on one run's features: linear, nearest neighbours, MLP, few labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import Parts
from pipeline.evaluation.class_probes import Standard, fit_logistic
from pipeline.evaluation.class_scores import area_parts, areas, recall_parts, recalls
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.label_draws import LabelDraws
from pipeline.evaluation.probe_spec import ProbeSpec, Side
from pipeline.evaluation.probed_rows import RunFeatures
from pipeline.evaluation.scores import FittedProbe, ProbedTargets, Scores, curve_point, over_draws
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import NO_CLASS

Floats = NDArray[np.float64]


def probed_classes(
    features: RunFeatures,
    task: ClassTask,
    draws: LabelDraws,
    tested: HeldOut,
    settings: EvaluateSettings,
    side: Side = "sparse",
) -> Iterator[ProbedTargets]:
    """Yield the linear and nearest-neighbour probes of a task, the MLP where it is asked for, then few labels.

    Each of the first is scored by recall (mean: balanced accuracy) and by the area under the ROC curve of each class
    against the rest; few-label probes, which are linear, by recall.

    Args:
        features: of the run.
        task: the classes.
        draws: of few labels, spread evenly over the classes.
        tested: the held-out patches.
        settings: of the stage.
        side: whose features these are.
    """
    targets, known = Targets.of(task.names), np.flatnonzero(task.fitted != NO_CLASS)
    fitted_on = np.full(len(task.names), len(known))
    for kind, scores in _predictions(features, task, known, settings):
        for metric in ("recall", "auc"):
            spec = ProbeSpec(side, task.column, kind, metric)
            yield probed_class(spec, targets, task, [scores], fitted_on, tested)
    # Few-label probes too are standardised by all training patches: that takes no labels.
    standard = Standard.of(features.training)
    asked = standard(_asked(features, task))
    for count in draws.counts:
        few = []
        for draw in range(len(draws.ranks)):
            rows = draws.evenly(draw, task.fitted, count)
            few.append(
                fit_logistic(standard(features.training[rows]), task.fitted[rows], len(task.names)).predict(asked)
            )
        spec = ProbeSpec(side, task.column, "linear", "recall", count)
        yield probed_class(spec, targets, task, few, np.full(len(task.names), count), tested)


def probed_class(
    spec: ProbeSpec,
    targets: Targets,
    task: ClassTask,
    draws: Sequence[Floats],
    fitted_on: NDArray[np.int64],
    tested: HeldOut,
) -> ProbedTargets:
    """Return the scored probe of predictions (n, K) for all held-out patches with a class, of each draw of labels."""
    scores = [class_scores(spec.metric, task, targets, one) for one in draws]
    on_curve = spec.kind == "linear" and spec.metric == "recall"
    curve = curve_point(scores, targets, fitted_on, tested) if on_curve else None
    patches = tuple(int((labels != NO_CLASS).sum()) for labels in task.tested)
    return ProbedTargets(spec, targets, over_draws(scores), FittedProbe(fitted_on, None), patches, curve)


def class_scores(metric: str, task: ClassTask, targets: Targets, predicted: Floats) -> Scores:
    """Return the scores of predictions (n, K), without an axis for seeds."""
    known = [labels != NO_CLASS for labels in task.tested]
    truth = np.concatenate([labels[rows] for labels, rows in zip(task.tested, known, strict=True)])
    slide = np.repeat(np.arange(len(known)), [int(rows.sum()) for rows in known])
    within = (slide == np.arange(len(known))[:, None]).astype(np.float64)
    classes = len(task.names)
    if metric == "auc":
        own, per_slide = area_parts(truth, predicted), areas(truth, predicted, within)
    else:
        hits = (predicted.argmax(axis=1) == truth).astype(np.float64)
        own, per_slide = recall_parts(truth, hits, classes), recalls(truth, hits, classes, within)
    nothing = np.full(len(targets.columns), np.nan)
    whole = _of_all_patches(targets.parts(own), np.concatenate(known))
    return Scores(
        point=targets.known(own.score[None])[0],
        contribution=whole.contribution,
        influence=whole.influence,
        share=whole.share,
        per_slide=targets.complete(per_slide, own.score),
        r2=nothing,
        spearman=nothing,
        draw_std=nothing,
    )


def _predictions(
    features: RunFeatures, task: ClassTask, known: NDArray[np.int64], settings: EvaluateSettings
) -> Iterator[tuple[str, Floats]]:
    """Yield kind and scores (n, K), for all held-out patches with a class, of each probe on all labels."""
    standard, labels, classes = Standard.of(features.training), task.fitted[known], len(task.names)
    x, asked = standard(features.training[known]), standard(_asked(features, task))
    yield "linear", fit_logistic(x, labels, classes).predict(asked)
    member = np.eye(classes)[labels]
    nearest = zip(features.nearest(known, settings.neighbours), task.tested, strict=True)
    yield "knn", np.concatenate([member[rows[own != NO_CLASS]].mean(axis=1) for rows, own in nearest])
    if settings.mlp_epochs:
        # Here and not above: without it no class probe needs torch.
        from pipeline.evaluation.mlp_probe import fit_mlp, predict_mlp

        yield "mlp", predict_mlp(fit_mlp(x, labels, classes, settings.mlp_epochs, settings.seed), asked)


def _asked(features: RunFeatures, task: ClassTask) -> NDArray[np.float32]:
    """Return the features (n, D) of all held-out patches with a class."""
    held = zip(features.held_out, task.tested, strict=True)
    return np.concatenate([rows[labels != NO_CLASS] for rows, labels in held])


def _of_all_patches(parts: Parts, known: NDArray[np.bool_]) -> Parts:
    """Return the parts of patches with a class among those of all held-out patches."""
    return Parts(*(_among(values, known) for values in (parts.contribution, parts.influence, parts.share)))


def _among(values: Floats, known: NDArray[np.bool_]) -> Floats:
    found = np.zeros((len(known), values.shape[1]))
    found[known] = values
    return found
