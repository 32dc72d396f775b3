"""Embed the held-out patches of a run in the space its branches share, and rank their partners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import Interval, enough_blocks
from pipeline.evaluation.dense_patches import encoded, readable_slides
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.probed_rows import drawn_evenly, held_out
from pipeline.evaluation.reading import Cohort, SlidePairs, encoder_of, read_features
from pipeline.evaluation.retrieval import Figure, Ranks, partner_ranks, retrieval_figures
from pipeline.settings import EvaluateSettings, PanelSettings
from pipeline.training.branch_checkpoint import BRANCHES_NAME, KeptBranches
from pipeline.training.dense_description import DenseDescription
from pipeline.training.precision import best_device
from pipeline.training.rows import TrainingRows

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Gallery:
    """The held-out pairs among which partners are looked for.

    Attributes:
        pairs: the slides.
        chosen: of each slide, which of its pairs, indices into `SlidePairs.rows`.
        rows: the same as the dense branch reads them.
        within: of each slide, which of its held-out pairs, counted from the first held-out one.
        slides: of each slide, its number among all held-out ones.
    """

    pairs: tuple[SlidePairs, ...]
    chosen: tuple[Integers, ...]
    rows: TrainingRows
    within: tuple[Integers, ...]
    slides: tuple[int, ...]


def retrieval(
    trainings: Path,
    embeddings: Path,
    stores: Path,
    cohort: Cohort,
    groups: Mapping[str, Sequence[str]],
    tested: HeldOut,
    settings: EvaluateSettings,
    panel: PanelSettings,
) -> dict[str, Any]:
    """Return for every run with a dense branch how well dense patches are found from H&E; ready for JSON.

    Args:
        trainings: folder that holds RUN/encoder and RUN/branches.safetensors; runs without a folder there are left
            out.
        embeddings: folder that holds RUN/SLIDE.h5, the features of the sparse encoder.
        stores: folder of the stores.
        cohort: the pairs.
        groups: for each run the trainings that are its seeds.
        tested: the held-out blocks and their resamples.
        settings: of the stage.
        panel: what slides call the same marker.

    Raises:
        StatedError: if a run's branches are not there, or are not those of the features' encoder.
    """
    summaries = {}
    for run, names in groups.items():
        if not (trainings / run).is_dir():
            continue  # features from elsewhere
        described = [DenseDescription.read(trainings / name / "encoder") for name in names]
        dense = [item for item in described if item is not None]
        if not dense:
            continue
        gallery = _gallery(stores, cohort, dense[0], settings, panel)
        if gallery is None:
            continue
        ranks = [
            _ranks(trainings / name / BRANCHES_NAME, item, embeddings / name, gallery)
            for name, item in zip(names, dense, strict=True)
        ]
        blocks, of_slides = _blocks(gallery, tested)
        figures = retrieval_figures(ranks, blocks, of_slides)
        summaries[run] = {
            "patches": len(ranks[0].ahead),
            "slides": [slide.slide for slide in gallery.pairs],
            "seeds": len(ranks),
            **{figure.name: _told(figure) for figure in figures},
        }
    return summaries


def _gallery(
    stores: Path, cohort: Cohort, dense: DenseDescription, settings: EvaluateSettings, panel: PanelSettings
) -> Gallery | None:
    """Return held-out pairs whose dense side is of the run's kind and shows one of its markers.

    None where there are none.
    """
    numbers = {slide.slide: number for number, slide in enumerate(held_out(cohort))}
    readable = readable_slides(dense, held_out(cohort), stores, panel)
    if not readable.slides:
        return None
    held = [np.flatnonzero(slide.held_out) for slide in readable.slides]
    within = drawn_evenly([np.arange(len(rows)) for rows in held], settings.retrieval_patches, settings.seed)
    chosen = tuple(rows[picked] for rows, picked in zip(held, within, strict=True))
    of_slides = tuple(numbers[slide.slide] for slide in readable.slides)
    return Gallery(readable.slides, chosen, readable.rows(chosen), tuple(within), of_slides)


def _ranks(path: Path, dense: DenseDescription, features: Path, gallery: Gallery) -> Ranks:
    encoder, _ = encoder_of(features, [slide.slide for slide in gallery.pairs])
    if encoder != dense.encoder_sha256:
        raise StatedError(
            file=features,
            expected=f"features of encoder {dense.encoder_sha256[:12]}, beside which {path} was trained",
            found=f"of encoder {encoder[:12] or 'without a hash'}",
        )
    branches = KeptBranches.load(path, dense, best_device())
    sparse = [
        read_features(features, slide)[picked] for slide, picked in zip(gallery.pairs, gallery.chosen, strict=True)
    ]
    found = encoded(gallery.rows, branches.embed_dense)
    return partner_ranks(branches.project_sparse(np.concatenate(sparse)), found)


def _blocks(gallery: Gallery, tested: HeldOut) -> tuple[list[Integers], HeldOut]:
    """Return the blocks of the gallery's patches, and the held-out slides that they are of."""
    blocks = [tested.blocks[number][picked] for number, picked in zip(gallery.slides, gallery.within, strict=True)]
    of_slides = HeldOut(
        tuple(slide.slide for slide in gallery.pairs),
        tuple(map(len, blocks)),
        tuple(blocks),
        tuple(tested.counts[number] for number in gallery.slides),
        enough_blocks(blocks),
        tuple(tested.position_um[number][picked] for number, picked in zip(gallery.slides, gallery.within, strict=True))
        if tested.position_um
        else (),
        tested.block_um,
    )
    return blocks, of_slides


def _told(figure: Figure) -> dict[str, Any]:
    low, high = _ends(figure.within)
    return {
        "score": figure.score,
        "low": low,
        "high": high,
        "chance": figure.chance,
        "per_seed": list(figure.per_seed),
    }


def _ends(within: Interval) -> tuple[float | None, float | None]:
    return (None, None) if np.isnan(within.low) else (within.low, within.high)
