"""Name probes and scores on the page by the question they answer."""

from __future__ import annotations

from pipeline.evaluation.probe_spec import MARKERS, ProbeSpec

MEASURES = {
    "pearson_r": "Pearson r",
    "recall": "recall",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "macro_auc": "mean AUC",
}
DENSE_GROUP = "The paired slide itself"

_KINDS = {
    "ridge": "linear prediction (ridge)",
    "knn": "nearest neighbours",
    "linear": "linear prediction (logistic)",
    "mlp": "small network (MLP)",
}


def probe_name(spec: ProbeSpec) -> str:
    """Return a probe's name in words, without its measure."""
    kind = _KINDS.get(spec.kind, spec.kind)
    name = f"{kind[:1].upper()}{kind[1:]}" if spec.target == MARKERS else f"Which {spec.target}: {kind}"
    return name if spec.side == "sparse" else f"{DENSE_GROUP}: {name[:1].lower()}{name[1:]}"


def probe_title(spec: ProbeSpec) -> str:
    """Return a probe's name with its measure, where it is not the usual one."""
    return f"{probe_name(spec)}, area under the ROC curve" if spec.metric == "auc" else probe_name(spec)


def probe_group(spec: ProbeSpec) -> str:
    """Return what a probe shares with others: the side that it looks at, or what it asks for; empty for markers."""
    if spec.side == "dense":
        return DENSE_GROUP
    return "" if spec.target == MARKERS else f"Which {spec.target}"
