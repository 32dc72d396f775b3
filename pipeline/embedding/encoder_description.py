"""Read what an encoder's config.json says, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StatedError
from pipeline.json_file import MISFIT, read_json
from pipeline.limits import LARGEST_PATCH_PX, MAX_FEATURES
from pipeline.training.encoder_folder import CONFIG_NAME, CONFIG_SCHEMA
from pipeline.training.model_arguments import ModelArguments, checked_model_arguments

AN_ENCODER = "an encoder folder as train writes it"


@dataclass(frozen=True)
class EncoderDescription:
    """What an encoder's config.json says.

    Attributes:
        run: name of the run that made it.
        architecture: timm name.
        model_args: what the network has other than timm's architecture of that name.
        mean: of R, G, B on the scale 0 to 1.
        std: of the same.
        patch_px: side of the patches of its training.
        input_px: side of the central part that the encoder sees.
        mpp: um per pixel of those patches.
        feature_dim: length of a feature vector.
        bf16_cosine: smallest cosine between bfloat16 and float32 features that train measured.
        sha256: hash of the weights.
    """

    run: str
    architecture: str
    model_args: ModelArguments
    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_px: int
    input_px: int
    mpp: float
    feature_dim: int
    bf16_cosine: float
    sha256: str


def read_description(folder: Path) -> EncoderDescription:
    """Return what the folder's config.json says.

    Raises:
        StatedError: if there is none, or it is not one that train wrote.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise StatedError(file=folder, expected=AN_ENCODER, found=f"no {CONFIG_NAME}")
    try:
        config: Any = read_json(path)
        own = config["more_from_less"]
        if own["schema"] != CONFIG_SCHEMA:
            raise StatedError(file=path, expected=f"schema {CONFIG_SCHEMA}", found=f"schema {own['schema']}")
        found = EncoderDescription(
            run=str(own["run"]),
            architecture=str(config["architecture"]),
            model_args=checked_model_arguments(config),
            mean=tuple(float(value) for value in config["pretrained_cfg"]["mean"]),
            std=tuple(float(value) for value in config["pretrained_cfg"]["std"]),
            patch_px=int(own["patch"]["size_px"]),
            input_px=int(own["patch"]["input_px"]),
            mpp=float(own["patch"]["mpp"]),
            feature_dim=int(own["feature_dim"]),
            bf16_cosine=float(own["bf16_cosine"]),
            sha256=str(own["weights_sha256"]),
        )
    except (OSError, *MISFIT) as error:
        raise StatedError(file=path, expected=AN_ENCODER, found=repr(error)) from None
    _check(found, path)
    return found


def _check(found: EncoderDescription, path: Path) -> None:
    """Refuse sizes that no training has, before a network for them is built."""
    wrong = ""
    if not 1 <= found.input_px <= found.patch_px <= LARGEST_PATCH_PX:
        wrong = f"patches of {found.patch_px} px, of which {found.input_px} are seen"
    elif not 1 <= found.feature_dim <= MAX_FEATURES or not found.mpp > 0:
        wrong = f"{found.feature_dim} features at {found.mpp} um/px"
    elif len(found.mean) != 3 or len(found.std) != 3 or min(found.std) <= 0:
        wrong = f"a normalisation by {found.mean} and {found.std}"
    if wrong:
        raise StatedError(file=path, expected=AN_ENCODER, found=wrong)
