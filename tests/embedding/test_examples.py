"""The examples of docs/encoders.md run as they stand, and give the encoder's features.

TRIDENT and STAMP are on no package index: stand-ins take their places, with the signatures that they have
(TRIDENT `CustomInferenceEncoder`, a module that passes on what it is given; STAMP `Extractor`, a frozen dataclass with
keyword arguments), and are used as those programs use them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cohort import REPOSITORY
from drawn_training import draw_pairs, train_tiny
from PIL import Image
from torch import nn

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder


class CustomInferenceEncoder(nn.Module):
    def __init__(self, enc_name: str, model: nn.Module, transforms: Callable[..., Any], precision: torch.dtype) -> None:
        super().__init__()
        self.enc_name, self.model, self.eval_transforms, self.precision = enc_name, model, transforms, precision

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.model(pixels)


@dataclass(frozen=True)
class Extractor:
    _: KW_ONLY
    model: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    identifier: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with encoder.pt, beside the encoder that it was made from."""
    place = tmp_path_factory.mktemp("examples")
    encoder = train_tiny(place)
    assert main(["export", "--encoder", str(encoder), "--to", "torchscript", "--out", str(place / "encoder.pt")]) == 0
    return place


def _run(section: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the example under a heading leaves."""
    text = (REPOSITORY / "docs" / "encoders.md").read_text(encoding="utf-8")
    (code,) = re.findall(rf"^## {section}\n\n```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, f"docs/encoders.md, {section}", "exec"), names)
    return names


def _stand_in(monkeypatch: pytest.MonkeyPatch, path: str, item: type) -> None:
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    setattr(sys.modules[path], item.__name__, item)


def _check(model: nn.Module, transform: Callable[[Image.Image], torch.Tensor], folder: Path) -> None:
    """Pictures through the transform and the model, as both programs do it, against the encoder itself."""
    patches = draw_pairs(3, 1, 99)[0]
    with torch.inference_mode():
        found = model(torch.stack([transform(Image.fromarray(patch)) for patch in patches]))
    expected = Encoder.load(folder / "run" / "encoder", torch.device("cpu")).embed(patches)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_plain_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = _run("Plain torch", folder, monkeypatch)
    expected = Encoder.load(folder / "run" / "encoder", torch.device("cpu")).embed(
        names["pixels"].permute(0, 2, 3, 1).contiguous().numpy()
    )
    np.testing.assert_allclose(names["features"].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_trident(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, "trident.patch_encoder_models", CustomInferenceEncoder)
    encoder = _run("TRIDENT", folder, monkeypatch)["encoder"]
    assert encoder.precision is torch.float32
    _check(encoder, encoder.eval_transforms, folder)


def test_stamp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, "stamp.preprocessing.extractor", Extractor)
    extractor = _run("STAMP", folder, monkeypatch)["extractor"]
    sha256 = Encoder.load(folder / "run" / "encoder").description.sha256
    assert extractor.identifier == f"tiny-{sha256[:12]}"
    _check(extractor.model, extractor.transform, folder)
