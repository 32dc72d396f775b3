"""An encoder folder: opened by this project and by timm alone with the same features, refused where not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from drawn_training import draw_pairs, train_tiny

from pipeline.embedding.encoder import Encoder
from pipeline.errors import StatedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "encoder"))


def _patches(count: int = 12) -> np.ndarray:
    return draw_pairs(count, 1, 99)[0]


def _by_timm(model: torch.nn.Module, folder: Path, patches: np.ndarray) -> np.ndarray:
    known = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    pixels = (patches / 255 - np.array(known["mean"])) / np.array(known["std"])
    with torch.inference_mode():
        return model.eval()(torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).numpy()


def test_timm_alone_rebuilds_it_from_the_weights_file(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    model = timm.create_model(
        config["architecture"], num_classes=0, in_chans=3, checkpoint_path=str(folder / "model.safetensors")
    )
    expected = Encoder.load(folder).embed(_patches())
    assert expected.dtype == np.float32
    assert expected.shape == (12, config["num_features"])
    np.testing.assert_allclose(_by_timm(model, folder, _patches()), expected, atol=1e-4)


def test_timm_opens_the_folder_itself_and_finds_the_normalisation(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    np.testing.assert_allclose(_by_timm(model, folder, _patches()), Encoder.load(folder).embed(_patches()), atol=1e-4)
    data = timm.data.resolve_data_config(model=model)
    assert tuple(data["input_size"]) == (3, 32, 32)
    assert data["mean"] == pytest.approx(Encoder.load(folder).description.mean)


def test_a_vision_transformer_is_built_for_the_patch_and_crops_are_central(tmp_path: Path) -> None:
    encoder = Encoder.load(train_tiny(tmp_path, encoder="vit_tiny_patch16_224", size_px=16, projector=[16]))
    patches = _patches(3)
    other = np.zeros_like(patches)
    other[:, 8:24, 8:24] = patches[:, 8:24, 8:24]
    np.testing.assert_array_equal(encoder.embed(patches), encoder.embed(other))


def test_features_do_not_depend_on_the_batch(folder: Path) -> None:
    encoder = Encoder.load(folder)
    together = encoder.embed(_patches())
    apart = np.concatenate([encoder.embed(_patches()[row : row + 1]) for row in range(12)])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_bfloat16_is_chosen_only_where_it_was_measured_to_change_nothing(copy: Path) -> None:
    path = copy / "config.json"
    config = json.loads(path.read_text())
    config["more_from_less"]["bf16_cosine"] = 0.998
    path.write_text(json.dumps(config))
    encoder = Encoder.load(copy)
    assert encoder.precision("auto") == "fp32"
    assert encoder.precision("bf16") == "bf16"


def test_the_measured_cosine_is_that_of_the_features(folder: Path) -> None:
    encoder = Encoder.load(folder)
    exact, fast = encoder.embed(_patches()), encoder.embed(_patches(), "bf16")
    cosine = (exact * fast).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    assert cosine.min() == pytest.approx(encoder.description.bf16_cosine, abs=2e-3)


def test_altered_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    values = bytearray(weights.read_bytes())
    values[-1] ^= 1
    weights.write_bytes(bytes(values))
    with pytest.raises(StatedError, match="weights of SHA-256"):
        Encoder.load(copy)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, "no config.json"),
        ("model.safetensors", None, "no model.safetensors"),
        ("config.json", "{", "an encoder folder as train writes it"),
        ("config.json", '{"architecture": "resnet18"}', "KeyError"),
    ],
)
def test_what_is_no_encoder_folder_is_refused(copy: Path, name: str, text: str | None, message: str) -> None:
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text)
    with pytest.raises(StatedError, match=message):
        Encoder.load(copy)
