"""The encoder folder: weights, the configuration that rebuilds the network with timm, the range of its features in
training, and a card for people.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from pipeline.provenance import file_digest, finished
from pipeline.settings import RunSettings
from pipeline.training.card import card
from pipeline.training.encoder_folder import CONFIG_NAME, CONFIG_SCHEMA, WEIGHTS_NAME
from pipeline.training.encoders import architecture_arguments, feature_width
from pipeline.training.feature_range import RANGE_NAME, FeatureRange
from pipeline.training.model_arguments import ModelArguments
from pipeline.training.normalisation import ColourStatistics, MarkerStatistics
from pipeline.training.rows import TrainingRows

CARD_NAME = "card.md"


@dataclass(frozen=True)
class TrainedEncoder:
    """A sparse encoder and what is to be said of it.

    Attributes:
        run: name of the run.
        network: the encoder.
        settings: of the run.
        model_args: what it has other than the architecture that timm builds by the name in `settings`.
        size_px: side of the patches' part that the encoder sees.
        colour: normalisation of its input.
        markers: statistics of a dense side of fluorescence or counts that it was trained beside, otherwise empty.
        dense_colour: statistics of a brightfield one.
        rows: the training patches.
        precision: number format in training.
        bf16_cosine: smallest cosine between its features in bfloat16 and float32.
        fitted: the range of its features over the training patches; None where nothing can be said of it.
        last: the last line of the training's history; None where nothing was trained.
    """

    run: str
    network: nn.Module
    settings: RunSettings
    model_args: ModelArguments
    size_px: int
    colour: ColourStatistics
    markers: tuple[MarkerStatistics, ...]
    dense_colour: ColourStatistics | None
    rows: TrainingRows
    precision: str
    bf16_cosine: float
    fitted: FeatureRange | None
    last: dict[str, Any] | None


def write_encoder(folder: Path, trained: TrainedEncoder, provenance: dict[str, Any]) -> None:
    """Write the folder in one step."""
    with finished(folder) as temporary:
        temporary.mkdir()
        weights = temporary / WEIGHTS_NAME
        tensors = {key: value.detach().cpu().contiguous() for key, value in trained.network.state_dict().items()}
        weights.write_bytes(save(tensors, metadata={"format": "pt"}))
        sha256 = file_digest(weights)
        if trained.fitted is not None:
            (temporary / RANGE_NAME).write_bytes(replace(trained.fitted, encoder=sha256).to_bytes())
        config = configuration(trained, sha256, provenance)
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (temporary / CONFIG_NAME).write_text(text, encoding="utf-8")
        (temporary / CARD_NAME).write_text(card(config, trained.last), encoding="utf-8")


def configuration(trained: TrainedEncoder, sha256: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of config.json: what timm reads of a local folder, then what this project adds."""
    size_px, settings, rows = trained.size_px, trained.settings, trained.rows
    arguments = architecture_arguments(settings.encoder, in_chans=3, size_px=size_px)
    width = feature_width(trained.network, in_chans=3, size_px=size_px)
    return {
        "architecture": settings.encoder,
        "num_classes": 0,
        "num_features": width,
        "model_args": {**trained.model_args, **{key: arguments[key] for key in ("img_size",) if key in arguments}},
        "pretrained_cfg": {
            "tag": trained.run,
            "input_size": [3, size_px, size_px],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(trained.colour.mean),
            "std": list(trained.colour.std),
            "num_classes": 0,
        },
        "more_from_less": {
            "schema": CONFIG_SCHEMA,
            "run": trained.run,
            "in_chans": 3,
            "feature_dim": width,
            "patch": {"size_px": rows.size_px, "mpp": rows.mpp, "input_px": size_px},
            "settings": asdict(settings),
            "precision": trained.precision,
            "bf16_cosine": round(trained.bf16_cosine, 6),
            "markers": [asdict(item) for item in trained.markers],
            "dense": _dense(trained),
            "classes": list(rows.classes),
            "markers_absent": {marker: list(slides) for marker, slides in rows.panel.absent().items()},
            "training": {
                "slides": [item.store.attributes.slide for item in rows.slides],
                "patients": sorted({item.store.attributes.patient for item in rows.slides}),
                "patches": len(rows),
            },
            "weights_sha256": sha256,
            "provenance": provenance,
        },
    }


def _dense(trained: TrainedEncoder) -> dict[str, Any] | None:
    """Return the dense side: kind, panel (markers, stains, classes, genes), its components, colours.

    Null without one.
    """
    rows, colour = trained.rows, trained.dense_colour
    if not rows.dense_kind:
        return None
    description: dict[str, Any] = {"kind": rows.dense_kind, "panel": list(rows.markers)}
    if rows.components:
        found = rows.components.items()
        description["components"] = {encoder: [rows.markers[index] for index in indices] for encoder, indices in found}
    return description | ({} if colour is None else {"mean": list(colour.mean), "std": list(colour.std)})
