"""Write an encoder as a model repository: timm loads it by `local-dir:` now, by `hf-hub:` once uploaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml

from pipeline.embedding.encoder import Encoder
from pipeline.embedding.exporting import check_out_folder, check_timm_folder
from pipeline.json_file import read_json
from pipeline.provenance import finished
from pipeline.training.encoder_folder import CONFIG_NAME, WEIGHTS_NAME
from pipeline.training.export import CARD_NAME
from pipeline.training.feature_range import RANGE_NAME

README_NAME = "README.md"
_NAMES = {WEIGHTS_NAME, CONFIG_NAME, RANGE_NAME, README_NAME}


def export_hub(folder: Path, out: Path, licence: str) -> None:
    """Write weights, configuration, range, and the card as README.md behind a model card's front matter.

    Args:
        folder: an encoder, from train.
        out: the folder to write.
        licence: a licence's identifier for the front matter, `other` where none of the usual ones applies.

    Raises:
        StatedError: if `folder` is not an encoder's, `out` is in use for something else, or timm's features differ.
    """
    encoder = Encoder.load(folder, torch.device("cpu"))
    check_out_folder(folder, out, _NAMES)
    card = folder / CARD_NAME
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {encoder.description.run}\n"
    with finished(out) as temporary:
        temporary.mkdir()
        for name in (WEIGHTS_NAME, CONFIG_NAME, RANGE_NAME):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, temporary / name)
        (temporary / README_NAME).write_text(f"{front_matter(folder, licence)}\n{text}", encoding="utf-8")
        check_timm_folder(encoder, temporary, out)


def front_matter(folder: Path, licence: str) -> str:
    """Return the YAML block with which a model card begins: licence, library, task, tags and base model."""
    settings = read_json(folder / CONFIG_NAME)["more_from_less"]["settings"]
    about: dict[str, object] = {
        "license": licence,
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["histology", "pathology", "h-and-e", "timm", "image-feature-extraction"],
    }
    if settings["weights"]:
        about["base_model"] = Path(settings["weights"]).name
    return f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n"
