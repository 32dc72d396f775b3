"""Write low-rank adapters of an encoder: what training changed of a base encoder, without the base's weights.

The licences of many foundation models forbid passing on weights derived from theirs. What `low_rank` training changed
is a product of two thin matrices per attention layer (LoRA: Hu et al. 2021, arXiv 2106.09685); these can be passed on
by themselves, to whoever has the base. The factors are recovered from the merged weights by a singular value
decomposition, so that any encoder trained with `low_rank` can be exported, and the folder holds the features of a few
drawn patches, by which merging proves itself on another machine.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from pipeline.embedding.encoder import Encoder
from pipeline.embedding.encoder_description import EncoderDescription, read_description
from pipeline.embedding.exporting import TOLERANCE, check_out_folder, check_patches
from pipeline.errors import StatedError
from pipeline.json_file import MISFIT, read_json
from pipeline.provenance import file_digest, finished
from pipeline.training.encoder_folder import CONFIG_NAME, WEIGHTS_NAME
from pipeline.training.export import CARD_NAME
from pipeline.training.feature_range import RANGE_NAME, read_range
from pipeline.training.pretrained import read_start

ADAPTERS_NAME = "adapters.safetensors"
SCHEMA_VERSION = 1

_KEY = "adapters"
_CHECK = "check.features"
_DOWN, _UP = ".down", ".up"
_NAMES = {ADAPTERS_NAME, CONFIG_NAME, CARD_NAME, RANGE_NAME}
# A singular value below this share of the largest is rounding of float32 weights, not part of what was trained.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Base:
    """The encoder that adapters belong to.

    Attributes:
        name: of its folder, for people.
        sha256: hash of its weights file.
        rank: of the adapters.
    """

    name: str
    sha256: str
    rank: int


def export_adapters(folder: Path, base_folder: Path, out: Path) -> None:
    """Write a folder with the low-rank weights alone, the configuration and the card of the encoder.

    Args:
        folder: an encoder that was trained with `low_rank`.
        base_folder: the encoder that its run started from (`weights`).
        out: the folder to write.

    Raises:
        StatedError: if the encoder was not trained with low_rank, the base is not the one that it started from, or
            `out` is in use for something else.
    """
    encoder = Encoder.load(folder, torch.device("cpu"))
    config = read_json(folder / CONFIG_NAME)
    base = _base_of(folder, config, base_folder)
    check_out_folder(folder, out, _NAMES)
    description = encoder.description
    before = read_start(base_folder, description.architecture, description.input_px).weights
    tensors = _factors(before, load_file(folder / WEIGHTS_NAME), base.rank, folder)
    tensors[_CHECK] = torch.from_numpy(encoder.embed(check_patches(description.patch_px))).contiguous()
    config["more_from_less"][_KEY] = {
        "schema": SCHEMA_VERSION,
        "rank": base.rank,
        "base": {"name": base.name, "weights_sha256": base.sha256},
    }
    with finished(out) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / ADAPTERS_NAME, metadata={"format": "pt"})
        (temporary / CONFIG_NAME).write_text(_as_text(config), encoding="utf-8")
        for name in (CARD_NAME, RANGE_NAME):
            if (folder / name).is_file():
                (temporary / name).write_bytes((folder / name).read_bytes())
        # Proves on this machine that what was written gives the encoder back.
        _merged(temporary, base_folder, read_description(temporary), base.rank, shown=out)


def merge_adapters(folder: Path, base_folder: Path, out: Path) -> None:
    """Write the encoder that adapters and their base make, a folder as train writes it.

    Its features are those of the exported encoder to 1e-4, which is checked on patches that came with the adapters; its
    weights may differ from the original ones in the last bit, so their hash differs.

    Raises:
        StatedError: if `folder` holds no adapters, the base is another one, or the features differ.
    """
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    try:
        stored = config["more_from_less"].pop(_KEY)
        base = Base(str(stored["base"]["name"]), str(stored["base"]["weights_sha256"]), int(stored["rank"]))
        schema = stored["schema"]
    except (*MISFIT, AttributeError):
        found = f"no entry {_KEY}" if config else f"no {CONFIG_NAME}"
        raise StatedError(file=folder, expected="adapters as export writes them", found=found) from None
    if schema != SCHEMA_VERSION:
        raise StatedError(file=folder / CONFIG_NAME, expected=f"schema {SCHEMA_VERSION}", found=f"schema {schema}")
    _check_base(base_folder, base.sha256, base.name)
    check_out_folder(folder, out, {WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, RANGE_NAME})
    description = read_description(folder)
    weights = _merged(folder, base_folder, description, base.rank, shown=folder)
    with finished(out) as temporary:
        temporary.mkdir()
        (temporary / WEIGHTS_NAME).write_bytes(save(weights, metadata={"format": "pt"}))
        sha256 = file_digest(temporary / WEIGHTS_NAME)
        config["more_from_less"]["weights_sha256"] = sha256
        (temporary / CONFIG_NAME).write_text(_as_text(config), encoding="utf-8")
        fitted = read_range(folder, description.sha256)
        if fitted is not None:
            (temporary / RANGE_NAME).write_bytes(replace(fitted, encoder=sha256).to_bytes())
        if (folder / CARD_NAME).is_file():
            card = (folder / CARD_NAME).read_text(encoding="utf-8").replace(description.sha256, sha256)
            (temporary / CARD_NAME).write_text(card, encoding="utf-8")


def _base_of(folder: Path, config: dict[str, Any], base_folder: Path) -> Base:
    """Return what the encoder says of its base, once `base_folder` is found to be it."""
    own = config["more_from_less"]
    rank = int(own["settings"].get("low_rank", 0))
    if not rank:
        raise StatedError(file=folder, expected="an encoder trained with low_rank", found="low_rank 0")
    sha256 = str(own["provenance"].get("inputs", {}).get("weights", ""))
    name = Path(str(own["settings"]["weights"])).name
    _check_base(base_folder, sha256, name)
    return Base(name, sha256, rank)


def _check_base(folder: Path, sha256: str, name: str) -> None:
    path = folder / WEIGHTS_NAME
    expected = f'the base "{name}" of SHA-256 {sha256}'
    if not path.is_file():
        raise StatedError(file=path, expected=expected, found="no file")
    found = file_digest(path)
    if found != sha256:
        raise StatedError(file=path, expected=expected, found=found)


def _factors(before: dict[str, Tensor], after: dict[str, Tensor], rank: int, folder: Path) -> dict[str, Tensor]:
    """Return `layer.down` (rank, in) and `layer.up` (out, rank) of every weight that changed.

    Raises:
        StatedError: if a weight changed by more than the rank allows, or another tensor changed.
    """
    found = {}
    for name, value in after.items():
        if torch.equal(value, before[name]):
            continue
        change = value.double() - before[name].double()
        expected = f"a change of rank {rank} of attention weights only"
        if change.ndim != 2:
            raise StatedError(file=folder / WEIGHTS_NAME, expected=expected, found=f"another change of {name}")
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
        if len(sizes) > rank and sizes[rank] > _ROUNDING * sizes[0]:
            beyond = f"{name}: singular value {rank + 1} is {float(sizes[rank] / sizes[0]):.2g} of the first"
            raise StatedError(file=folder / WEIGHTS_NAME, expected=expected, found=beyond)
        root = sizes[:rank].sqrt()
        found[name + _DOWN] = (root[:, None] * right[:rank]).float().contiguous()
        found[name + _UP] = (left[:, :rank] * root).float().contiguous()
    return found


def _merged(
    folder: Path, base_folder: Path, description: EncoderDescription, rank: int, *, shown: Path
) -> dict[str, Tensor]:
    """Return the weights of base and adapters together, once their features are found equal to those kept.

    Raises:
        StatedError: for tensors that do not fit the base, or features that differ, naming `shown`.
    """
    start = read_start(base_folder, description.architecture, description.input_px)
    weights = copy.copy(start.weights)
    path = folder / ADAPTERS_NAME
    try:
        with safe_open(path, framework="pt") as stream:
            kept = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        expected = kept.pop(_CHECK).numpy()
        for name in sorted({key.removesuffix(_DOWN).removesuffix(_UP) for key in kept}):
            down, up = kept[name + _DOWN].double(), kept[name + _UP].double()
            if down.shape[0] > rank:
                raise ValueError(f"{name}: rank {down.shape[0]}, expected at most {rank}")
            weights[name] = (weights[name].double() + up @ down).float()
    except (OSError, SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise StatedError(file=path, expected=f"adapters of {description.architecture}", found=str(error)) from None
    found = _features(weights, description)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        difference = (
            f"a difference of {np.abs(found - expected).max():.2g}"
            if found.shape == expected.shape
            else f"shape {found.shape}"
        )
        raise StatedError(file=shown, expected=f"the encoder's features to {TOLERANCE:g}", found=difference)
    return {name: value.contiguous() for name, value in weights.items()}


def _features(weights: dict[str, Tensor], description: EncoderDescription) -> NDArray[np.float32]:
    encoder = Encoder.of_weights(description, weights, torch.device("cpu"))
    return encoder.embed(check_patches(description.patch_px))


def _as_text(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
