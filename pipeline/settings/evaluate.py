"""The section `evaluate` of the configuration."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.settings.closed import CLOSED

# All that the ridge probe of a run depends on: what else changes redoes no prediction.
PROBE_KEYS = ("block_um", "bootstrap", "max_train_patches", "ridge", "seed")
USUAL_BASELINE = "sparse-only"
_NO_CLASSES = ("dense", "row", "x_um", "y_um", "size_um")


@dataclass(frozen=True, config=CLOSED)
class EvaluateSettings:
    """Settings of the stage evaluate."""

    neighbours: int = Field(default=20, ge=1, description="k of the kNN probe")
    ridge: tuple[float, ...] = Field(
        default=(0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0),
        min_length=1,
        description="ridge penalties to choose from within the training folds",
    )
    classes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")], ...] = Field(
        default=("class",),
        min_length=1,
        description="columns of the tables of classes that the class probes are asked for, each on its own: `class` "
        "(or `label`) gives `class-linear` and so on, another one, e.g. `cell`, `cell-linear`",
    )
    dense_side: bool = Field(
        default=False,
        description="whether the same probes are fitted to features of each run's dense encoder, too: what the dense "
        "side shows alone, an upper reference. It costs a pass of that encoder over the dense side of all patches "
        "that are fitted or scored on",
    )
    labels: tuple[Annotated[int, Field(ge=2)] | Literal["all"], ...] = Field(
        default=(30, 100, 300, 1000, 3000, "all"),
        description="numbers of labelled training patches that the linear probes are fitted on, for the curve of "
        "scores over labels: of markers drawn at random, of classes as evenly from each as there are. `all` is always "
        "among them; numbers that reach it are left out",
    )
    label_draws: int = Field(
        default=5,
        ge=2,
        description="how often fewer labels than all are drawn, the same patches for all runs; scores are the means "
        "over the draws",
    )
    mlp_epochs: int = Field(
        default=0,
        ge=0,
        description="where there are classes: epochs of a further probe, the MLP head of More From Less, whose code "
        "takes 100; 0 leaves it out",
    )
    bootstrap: int = Field(
        default=1000, ge=20, description="random halves of the blocks of tissue, for the 95 % intervals"
    )
    block_um: float = Field(
        default=500.0, gt=0, description="side in um of the tissue blocks that are kept together in an interval"
    )
    baseline: str | None = Field(
        default=None,
        description="run that the others are compared with; null: `sparse-only`, if a run has that name; empty: none",
    )
    max_train_patches: int = Field(
        default=50_000,
        ge=10,
        description="patches that the probes are fitted on at most, drawn evenly from the slides; bounds the memory",
    )
    retrieval_patches: int = Field(
        default=2000,
        ge=0,
        description="held-out pairs, drawn evenly from the slides, among which runs with a dense branch look for the "
        "dense patch of an H&E patch; 0 leaves it out",
    )
    seed: int = Field(default=0, ge=0, description="seed of the halves of blocks and of the draw of patches to fit on")

    @field_validator("labels")
    @classmethod
    def _counts_once(cls, labels: tuple[int | Literal["all"], ...]) -> tuple[int | Literal["all"], ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("labels must differ")
        return labels

    @field_validator("classes")
    @classmethod
    def _names_columns_of_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        # A probe of a dense side is called dense-…, whatever it asks.
        wrong = [name for name in classes if name in _NO_CLASSES or classes.count(name) > 1]
        if wrong:
            raise ValueError(f"classes must differ and be none of {', '.join(_NO_CLASSES)}")
        return classes


def baseline_of(baseline: str | None, runs: Collection[str]) -> str:
    """Return the run that the others are compared with; empty for none.

    Args:
        baseline: as the settings have it.
        runs: names of the runs, without those that repeat another one.

    Raises:
        ValueError: if it names none of the runs.
    """
    if baseline is None:
        return USUAL_BASELINE if USUAL_BASELINE in runs else ""
    if baseline and baseline not in runs:
        near = get_close_matches(baseline, list(runs), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(runs)
        raise ValueError(f"baseline is {baseline}, which is not a run: {hint}runs are {listed}; empty for none")
    return baseline
