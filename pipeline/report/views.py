"""Turn results into what the template shows: formatted numbers, drawn figures, encoded pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.figure_numbers import Plot, drops_plot, training_plot
from pipeline.report.figures import curves, drop_bars
from pipeline.report.results import Results, SlideResults
from pipeline.slides.kinds import kind_named

# Panels of antibodies are listed whole.
_MOST_NAMES = 64

OUTCOMES = (
    "usable as pair",
    "H&E only",
    "outside the paired slide, or no spot",
    "paired slide with NaN or infinite pixels",
    "paired slide shifted too far",
    "dropped: excluded by annotation",
    "dropped: pen",
    "dropped: fold",
    "dropped: blur",
    "dropped: too little tissue",
    "dropped: cannot be decoded",
    "paired slide never imaged",
)
NOTHING = "—"


@dataclass(frozen=True)
class Badge:
    """A verdict with its sign, so that colour is never the only difference."""

    kind: str
    sign: str
    text: str

    def __str__(self) -> str:
        return self.text


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


def tile_counts(slide: SlideResults) -> list[tuple[str, int]]:
    """Return how many grid positions of a slide met each of `OUTCOMES`."""
    counts = slide.store.attributes.counts if slide.store else {}
    lost = [counts.get(f"pair_{reason}", 0) for reason in ("outside", "not_finite", "residual")]
    unseen = counts.get("pair_not_imaged", 0)
    rest = counts.get("kept", 0) - sum(lost) - unseen
    paired = bool(slide.store and slide.store.has_dense)
    dropped = (counts.get(reason, 0) for reason in ("excluded", "pen", "fold", "blur", "no_tissue", "corrupt"))
    numbers = (rest if paired else 0, 0 if paired else rest, *lost, *dropped, unseen)
    return list(zip(OUTCOMES, numbers, strict=True))


def drop_reasons_met(slides: Sequence[SlideResults]) -> list[tuple[int, str]]:
    """Place in `OUTCOMES` and name of each outcome that any patch of these slides met."""
    counts = [[count for _, count in tile_counts(slide)] for slide in slides]
    return [(place, name) for place, name in enumerate(OUTCOMES) if any(row[place] for row in counts)]


def tiles_figure(slides: Sequence[SlideResults]) -> Plot | None:
    """Return the bars of all slides that have a store; None where none has."""
    rows = [(slide.slide, tile_counts(slide)) for slide in slides if slide.store]
    return drops_plot(drop_bars(rows, name="Patches kept and dropped, per slide"), "patches", rows) if rows else None


def training_curves(results: Results, series: dict[str, int], most: int = 6) -> list[Plot]:
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
        picture = curves(runs, series, name=f"{label} over training steps", quantity=label)
        figures.append(training_plot(picture, f"training-{key}", runs, label))
    return figures
