"""The encoder as the CPU runs it in bfloat16: the same features, and only where that holds."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from drawn_store import write_store
from drawn_training import draw_pairs, train_tiny
from torch import nn

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder
from pipeline.embedding.fused import fused_in_bf16
from pipeline.errors import StatedError


def _network(name: str) -> nn.Module:
    """With statistics in its normalisation that are not the initial ones."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, num_classes=0)
    with torch.no_grad():
        network.train()(torch.randn(8, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_a_network_of_convolutions_keeps_its_features_without_its_norms(name: str) -> None:
    network, pixels = _network(name), torch.randn(4, 3, 64, 64)
    before = copy.deepcopy(network.state_dict())
    fused = fused_in_bf16(network)
    assert fused is not None
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    with torch.inference_mode():
        expected, found = network(pixels), fused(pixels.bfloat16()).float()
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class _ReadTwice(nn.Module):
    """Its convolution's output is also read past the norm: folding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = self.convolution(pixels)
        return (self.norm(values) + values).mean(dim=(2, 3))


class _Branching(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels if pixels.sum() > 0 else -pixels


@pytest.mark.parametrize(
    "network", [_ReadTwice(), _Branching(), timm.create_model("test_vit", num_classes=0, img_size=64)]
)
def test_other_networks_are_left_to_autocast(network: nn.Module) -> None:
    assert fused_in_bf16(network.eval()) is None


def test_a_precision_that_changes_the_features_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(train_tiny(tmp_path), torch.device("cpu"))
    patches = draw_pairs(3, 1, 7)[0]
    encoder.check_precision(patches, "bf16")
    monkeypatch.setattr(encoder, "_fused", lambda pixels: torch.randn(len(pixels), encoder.description.feature_dim))
    encoder.check_precision(patches, "fp32")
    with pytest.raises(StatedError, match=r"set embed.precision to fp32, found cosine"):
        encoder.check_precision(patches, "bf16")


def test_a_slide_without_a_patch_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = train_tiny(tmp_path)
    nowhere = np.zeros((0, 2), dtype=np.int64)
    write_store(tmp_path / "none.zarr", sparse=np.zeros((0, 32, 32, 3), np.uint8), slide="bare", position_px=nowhere)
    argv = ["embed", "--store", str(tmp_path / "none.zarr"), "--encoder", str(encoder)]
    assert main([*argv, "--out", str(tmp_path / "none.h5"), "--settings", json.dumps({})]) == 1
    assert "error: slide bare" in capfd.readouterr().err
    assert not (tmp_path / "none.h5").exists()
