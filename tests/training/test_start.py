"""Runs that start from given weights: as they are, trained further, or adapted with low rank."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from drawn_training import TINY, write_cohort
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder
from pipeline.errors import StatedError
from pipeline.settings import RunSettings, build
from pipeline.training.low_rank import LowRankLinear, add_low_rank, merge_low_rank


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, and beside it `given`: a ViT of 64 px as timm's local-dir form has it."""
    folder = tmp_path_factory.mktemp("start")
    write_cohort(folder)
    torch.manual_seed(5)
    network = timm.create_model("test_vit", num_classes=0, img_size=64)
    (folder / "given").mkdir()
    save_file(network.state_dict(), folder / "given" / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2], "num_classes": 0},
    }
    (folder / "given" / "config.json").write_text(json.dumps(config))
    return folder


def _run(cohort: Path, name: str, **changes: Any) -> int:
    out = cohort / name
    argv = ["train", "--run", name, "--stores", str(cohort / "tile"), "--split", str(cohort / "patches.tsv")]
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
    settings = {**TINY, "encoder": "test_vit", "epochs": 1, "weights": str(cohort / "given"), **changes}
    return main([*argv, "--settings", json.dumps(settings)])


def _weights(cohort: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(cohort / name / "encoder" / "model.safetensors")


def test_without_an_epoch_the_given_weights_and_their_normalisation_are_kept(cohort: Path) -> None:
    assert _run(cohort, "as-it-is", epochs=0) == 0
    given, kept = load_file(cohort / "given" / "model.safetensors"), _weights(cohort, "as-it-is")
    assert kept.keys() == given.keys()
    for name, value in given.items():
        if name != "pos_embed":
            torch.testing.assert_close(kept[name], value, rtol=0, atol=0)
    assert kept["pos_embed"].shape[1] < given["pos_embed"].shape[1]  # 32 px instead of 64
    config = json.loads((cohort / "as-it-is/encoder/config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.7, 0.6, 0.7]
    assert "weights" in config["more_from_less"]["provenance"]["inputs"]
    assert "those that it was given" in (cohort / "as-it-is/encoder/card.md").read_text()


def test_low_rank_changes_the_attention_by_that_rank_and_nothing_else(cohort: Path) -> None:
    assert _run(cohort, "as-it-is-2", epochs=0) == 0
    assert _run(cohort, "adapted", low_rank=2, lr=1e-2) == 0
    before, after = _weights(cohort, "as-it-is-2"), _weights(cohort, "adapted")
    assert after.keys() == before.keys()
    for name, value in after.items():
        changed = value - before[name]
        if ".attn." in name and name.endswith("weight") and "norm" not in name:
            assert torch.linalg.matrix_rank(changed.double(), rtol=1e-4) == 2
        else:
            assert not changed.any(), name
    assert "attention adapted with rank 2" in (cohort / "adapted/encoder/card.md").read_text()


def test_low_rank_leaves_the_moments_of_batch_normalisation_as_they_were(cohort: Path) -> None:
    """MobileViT has attention between convolutions; the moments of none of them move."""
    torch.manual_seed(5)
    given = cohort / "hybrid"
    given.mkdir()
    tensors = timm.create_model("mobilevit_xxs", num_classes=0).state_dict()
    save_file(tensors, given / "model.safetensors")
    normalisation = {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2], "num_classes": 0}
    config = {"architecture": "mobilevit_xxs", "num_classes": 0, "pretrained_cfg": normalisation}
    (given / "config.json").write_text(json.dumps(config))
    assert _run(cohort, "hybrid-adapted", encoder="mobilevit_xxs", weights=str(given), low_rank=2) == 0
    after = _weights(cohort, "hybrid-adapted")
    moments = [name for name in after if "running" in name]
    assert moments
    assert all(torch.equal(after[name], tensors[name]) for name in moments)
    assert any((after[name] != tensors[name]).any() for name in after if ".attn." in name)


def test_all_of_the_given_weights_are_trained_without_low_rank(cohort: Path) -> None:
    assert _run(cohort, "as-it-is-3", epochs=0) == 0
    assert _run(cohort, "further") == 0
    before, after = _weights(cohort, "as-it-is-3"), _weights(cohort, "further")
    assert all((after[name] != value).any() for name, value in before.items() if name.endswith("weight"))


def test_adapted_layers_start_as_they_were_and_merge_into_what_they_did() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        plain = network(pixels)
    add_low_rank(network, 3, seed=0)
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels), plain)
    adapted = [layer for layer in network.modules() if isinstance(layer, LowRankLinear)]
    assert adapted
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * len(adapted)
    for layer in adapted:
        nn.init.normal_(layer.up.weight)
    with torch.inference_mode():
        changed = network(pixels)
        assert not torch.allclose(changed, plain, atol=1e-2)
    merge_low_rank(network)
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels), changed, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(layer, LowRankLinear) for layer in network.modules())
    with pytest.raises(StatedError, match="an encoder with attention"):
        add_low_rank(timm.create_model("test_resnet"), 3, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "nowhere"}, r"nowhere/model\.safetensors: expected the weights that run wrong starts from"),
        ({"encoder": "test_resnet"}, "weights of test_resnet, the run's encoder, found test_vit"),
        ({"weights": "", "low_rank": 2}, "low_rank adapts weights, which are not given"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    cohort: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(cohort, "wrong", **changes) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error


def test_broken_weights_are_refused(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (cohort / "given" / "config.json").read_text()
    tensors = load_file(cohort / "given" / "model.safetensors")
    name = next(key for key in tensors if key.endswith("weight"))
    cases = {
        "nan": (config, {**tensors, name: tensors[name] * torch.nan}, "finite weights, found nan or infinity in"),
        "other": (config, {name: tensors[name]}, "weights that fit test_vit at 32 px"),
        "silent": ('{"architecture": "test_vit"}', tensors, "pretrained_cfg with mean and std"),
    }
    for case, (text, values, message) in cases.items():
        (tmp_path / case).mkdir()
        (tmp_path / case / "config.json").write_text(text)
        save_file(values, tmp_path / case / "model.safetensors")
        assert _run(cohort, "wrong", weights=str(tmp_path / case)) == 1
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


def _with_model_args(cohort: Path, folder: Path, **changes: Any) -> None:
    """An encoder of those arguments in `folder`, as timm's local-dir form has it."""
    torch.manual_seed(7)
    network = timm.create_model("test_vit", num_classes=0, img_size=64, **changes)
    config = json.loads((cohort / "given" / "config.json").read_text())
    config["model_args"] |= changes | {"dynamic_img_size": True}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")


def test_a_network_that_model_args_change_is_started_from_adapted_and_opened_by_others(cohort: Path) -> None:
    """As foundation models are: layer scale, register tokens and another depth, which timm's name alone lacks."""
    changes = {"init_values": 1e-5, "depth": 3, "reg_tokens": 2}
    given, encoder = cohort / "changed", cohort / "changed-adapted" / "encoder"
    _with_model_args(cohort, given, **changes)
    assert _run(cohort, "changed-adapted", weights=str(given), low_rank=2, lr=1e-2) == 0
    before, after = load_file(given / "model.safetensors"), load_file(encoder / "model.safetensors")
    assert {"blocks.2.ls1.gamma", "reg_token"} <= after.keys() == before.keys()
    torch.testing.assert_close(after["blocks.0.ls1.gamma"], before["blocks.0.ls1.gamma"])
    assert (after["blocks.2.attn.qkv.weight"] != before["blocks.2.attn.qkv.weight"]).any()
    patches = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    opened = Encoder.load(encoder)
    by_timm = timm.create_model(f"local-dir:{encoder.absolute()}", pretrained=True).eval()
    normalised = (torch.from_numpy(patches).permute(0, 3, 1, 2) / 255 - opened._mean) / opened._std
    with torch.inference_mode():
        np.testing.assert_allclose(opened.embed(patches), by_timm(normalised).numpy(), atol=1e-4)
    assert "init_values=1e-05" in (encoder / "card.md").read_text()


@pytest.mark.parametrize(
    "model_args",
    [
        {"mlp_layer": "SwiGLU"},
        {"depth": 10**6},
        {"depth": True},
        {"init_values": -1},
        {"in_chans": 4},
        {"cache_dir": "x"},
    ],
)
def test_model_args_that_are_not_known_are_refused_before_a_network_is_built(
    cohort: Path, tmp_path: Path, model_args: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    _with_model_args(cohort, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": model_args}))
    assert _run(cohort, "wrong", weights=str(tmp_path)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"config\.json: expected .*model_args.* found .*model_args {next(iter(model_args))} ", error), (
        error
    )


def test_the_settings_of_a_run_that_adapts_are_read() -> None:
    assert build(RunSettings, {"weights": "w", "low_rank": 8}, source="x").low_rank == 8
