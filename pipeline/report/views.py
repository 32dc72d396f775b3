"""From results to what the template shows: formatted numbers, drawn figures, encoded pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.figures import Estimate, curves, fates, forest, signed
from pipeline.report.results import Results, Score, SlideResults
from pipeline.report.words import DENSE_PROBE, MEAN
from pipeline.slides.kinds import kind_named

# Panels of antibodies are listed whole.
_MOST_NAMES = 64

FATES = (
    "usable as pair",
    "H&E only",
    "dense side outside its slide, or no spot",
    "dense side with NaN or infinite pixels",
    "dense side shifted too far",
    "dropped: excluded by annotation",
    "dropped: pen",
    "dropped: fold",
    "dropped: blur",
    "dropped: too little tissue",
    "dropped: cannot be decoded",
    "dense side never imaged",
)
NOTHING = "—"
MEASURES = {
    "pearson_r": "Pearson r",
    "recall": "recall",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "macro_auc": "mean AUC",
}


@dataclass(frozen=True)
class Badge:
    """A verdict with its sign, so that colour is never the only difference."""

    kind: str
    sign: str
    word: str

    def __str__(self) -> str:
        return self.word


@dataclass(frozen=True)
class CohortRow:
    """One line of the cohort table, formatted."""

    slide: str
    patient: str
    size_mm: str
    sparse_mpp: str
    dense_mpp: str
    markers: str
    patches: str
    pairs: str
    fold: str
    trained: bool
    verdict: Badge | None


@dataclass(frozen=True)
class ScoreView:
    """One line of the evidence table, formatted."""

    run: str
    probe: str
    target: str
    measure: str
    score: str
    within: str
    difference: str
    difference_within: str
    verdict: Badge | None
    train_patches: int
    test_patches: int
    seeds: str
    apart: str


@dataclass(frozen=True)
class EvidencePart:
    """The two forest plots of one probe.

    Attributes:
        title: the probe in words.
        group: under which title its figures are folded together with those of others; empty for none.
        guess: what a score without any knowledge would be.
        scores: of every run.
        differences: to the baseline; None where nothing was compared.
    """

    title: str
    group: str
    guess: str
    scores: Markup
    differences: Markup | None


def badge(verdict: str) -> Badge | None:
    """Return the badge of a verdict of registration or evidence; None for none."""
    known = {
        "pass": ("good", "✓"),
        "helped": ("good", "▲"),
        "warn": ("warn", "!"),
        "fail": ("bad", "✕"),
        "harmed": ("bad", "▼"),
    }
    return Badge(*known.get(verdict, ("plain", "·")), verdict) if verdict else None


def cohort_row(slide: SlideResults, trained: bool) -> CohortRow:
    """Return the slide's line in the cohort table; `trained` says whether its patient's pairs trained the encoder."""
    record, store = slide.record, slide.store
    size = " × ".join(f"{extent / 1000:.1f}" for extent in record.sparse.extent_um) if record else NOTHING
    dense = record.dense if record else None
    verdict = (slide.registration.verdict if slide.registration else "") or (store.attributes.verdict if store else "")
    markers = store.attributes.markers if store and store.has_dense else (dense.channels if dense else ())
    return CohortRow(
        slide=slide.slide,
        patient=slide.patient,
        size_mm=size,
        sparse_mpp=f"{record.sparse.mpp:.3g}" if record else NOTHING,
        dense_mpp=f"{dense.mpp:.3g}" if dense and kind_named(dense.kind).is_image else NOTHING,
        markers=_listed(markers) or ("not read" if slide.has_dense else "H&E only"),
        patches=str(len(store)) if store else NOTHING,
        pairs=NOTHING if slide.pairs is None or not slide.has_dense else str(slide.pairs),
        fold=", ".join(map(str, slide.folds)) or NOTHING,
        trained=trained,
        verdict=badge(verdict),
    )


def _listed(names: Sequence[str]) -> str:
    """Return the names, of many genes the first."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {len(names) - _MOST_NAMES} more"


def evidence_rows(rows: Sequence[Score]) -> list[ScoreView]:
    """Return the evidence table, formatted."""
    return [
        ScoreView(
            row.run,
            row.probe,
            row.target,
            MEASURES.get(row.metric, row.metric),
            _value(row.score),
            _interval(row.low, row.high),
            signed(row.difference, 3, plus=True) if math.isfinite(row.difference) else NOTHING,
            _interval(row.difference_low, row.difference_high, 3),
            badge(row.verdict),
            row.train_patches,
            row.test_patches,
            f"{row.seeds}: {_interval(row.seed_low, row.seed_high)}" if row.seeds > 1 else str(row.seeds),
            row.disjoint or NOTHING,
        )
        for row in rows
    ]


def evidence_parts(results: Results, series: dict[str, int]) -> list[EvidencePart]:
    """Return the forest plots of every probe in the table."""
    scales = {"recall": "recall (mean: balanced accuracy)", "auc": "area under the ROC curve"}
    guesses = {"recall": "guessing reaches 1 / the number of classes in the mean", "auc": "0.5 is guessing"}
    parts = []
    for probe in dict.fromkeys(row.probe for row in results.evidence):
        rows = [row for row in results.evidence if row.probe == probe]
        if not any(math.isfinite(row.score) for row in rows):
            continue  # of a probe that could not be fitted, told in words
        title, scale = probe_title(probe), scales.get(rows[0].metric, "Pearson r")
        compared = any(math.isfinite(row.difference) for row in rows)  # the baseline keeps its line, empty
        scores = _forest(rows, series, f"{title}: scores with intervals", scale, difference=False)
        differences = (
            _forest(rows, series, f"{title}: differences to {results.baseline}", f"difference in {scale}", True)
            if compared
            else None
        )
        parts.append(
            EvidencePart(title, probe_group(probe), guesses.get(rows[0].metric, "0 none"), scores, differences)
        )
    return parts


def probe_title(probe: str) -> str:
    """Return a probe's name in words."""
    own = probe.removeprefix(DENSE_PROBE)
    known = {"ridge": "Ridge probe", "knn": "Nearest-neighbour probe"}
    title = known.get(own) or _class_probe_title(own)
    return title if own == probe else f"The dense side itself: {title[:1].lower()}{title[1:]}"


def probe_group(probe: str) -> str:
    """Return what a probe shares with others: the side that it looks at, or what it asks for; empty for markers."""
    if probe.startswith(DENSE_PROBE):
        return "The dense side itself"
    return _class_probe_title(probe).partition(":")[0] if "-" in probe else ""


def _class_probe_title(probe: str) -> str:
    """Return the label of a probe which asks for the class in some column of the tables, such as `class-linear-auc`."""
    column, _, kind = probe.removesuffix("-auc").partition("-")
    shots = kind.removesuffix("-shot")
    words = {"linear": "linear probe", "knn": "nearest-neighbour probe", "mlp": "MLP head"}
    if kind not in words and not shots.isdecimal():
        return probe
    by = words.get(kind) or f"linear probe on {shots} {'patch' if shots == '1' else 'patches'} of each"
    return f"Which {column}: {by}{', area under the ROC curve' if probe.endswith('-auc') else ''}"


def headline_figure(results: Results, series: dict[str, int], probe: str) -> Markup | None:
    """Return the differences to the baseline, mean over markers, one row per run; None where nothing was compared."""
    rows = [
        (row.run, [Estimate(series[row.run], row.run, row.difference, row.difference_low, row.difference_high)])
        for row in results.evidence
        if row.probe == probe and row.target == MEAN and math.isfinite(row.difference)
    ]
    if not rows:
        return None
    name = f"Differences to {results.baseline} in mean Pearson r"
    return forest(rows, name=name, axis_label="difference in mean Pearson r", zero_line=True, width=340)


def tile_counts(slide: SlideResults) -> list[tuple[str, int]]:
    """Return how many grid positions of a slide met each of `FATES`."""
    counts = slide.store.attributes.counts if slide.store else {}
    lost = [counts.get(f"pair_{reason}", 0) for reason in ("outside", "not_finite", "residual")]
    unseen = counts.get("pair_not_imaged", 0)
    rest = counts.get("kept", 0) - sum(lost) - unseen
    paired = bool(slide.store and slide.store.has_dense)
    dropped = (counts.get(reason, 0) for reason in ("excluded", "pen", "fold", "blur", "no_tissue", "corrupt"))
    numbers = (rest if paired else 0, 0 if paired else rest, *lost, *dropped, unseen)
    return list(zip(FATES, numbers, strict=True))


def fates_met(slides: Sequence[SlideResults]) -> list[tuple[int, str]]:
    """Place in `FATES` and name of each fate that any patch of these slides met."""
    counts = [[count for _, count in tile_counts(slide)] for slide in slides]
    return [(place, name) for place, name in enumerate(FATES) if any(row[place] for row in counts)]


def tiles_figure(slides: Sequence[SlideResults]) -> Markup | None:
    """Return the bars of all slides that have a store; None where none has."""
    rows = [(slide.slide, tile_counts(slide)) for slide in slides if slide.store]
    return fates(rows, name="Patches kept and dropped, per slide") if rows else None


def training_curves(results: Results, series: dict[str, int], most: int = 6) -> list[Markup]:
    """Return one small figure per logged quantity: the loss first, then the others; `most` at most."""
    logged = dict.fromkeys(key for lines in results.curves.values() for line in lines for key in line)
    left_out = {"step", "epoch", "seconds", "images_per_s", "gradient_norm"}
    left_out |= {"embedding_std", "embedding_rank", "feature_std"}
    names = [key for key in logged if key not in left_out]
    names.sort(key=lambda key: key != "loss")
    figures = []
    for key in names[:most]:
        runs: dict[str, tuple[list[float], list[float]]] = {}
        for run, lines in results.curves.items():
            points = [(line.get("step", float(index)), line[key]) for index, line in enumerate(lines, 1) if key in line]
            if points:
                runs[run] = ([step for step, _ in points], [value for _, value in points])
        label = {"lr": "learning rate"}.get(key, key.replace("_", " "))
        figures.append(curves(runs, series, name=f"{label} over training steps", quantity=label))
    return figures


def _forest(rows: Sequence[Score], series: dict[str, int], name: str, axis_label: str, difference: bool) -> Markup:
    targets = list(dict.fromkeys(row.target for row in rows))
    targets.sort(key=lambda target: target != MEAN)  # the mean first; markers keep their order
    drawn = [
        (
            target,
            [
                Estimate(series[row.run], row.run, row.difference, row.difference_low, row.difference_high)
                if difference
                else Estimate(series[row.run], row.run, row.score, row.low, row.high)
                for row in rows
                if row.target == target
            ],
        )
        for target in targets
    ]
    return forest(drawn, name=name, axis_label=axis_label, zero_line=True, bold=MEAN)


def _value(value: float) -> str:
    return signed(value) if math.isfinite(value) else NOTHING


def _interval(low: float, high: float, decimals: int = 2) -> str:
    return f"{signed(low, decimals)} to {signed(high, decimals)}" if math.isfinite(low) else NOTHING
