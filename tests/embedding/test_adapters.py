"""Low-rank adapters leave the base at home and give the encoder back; a model repository loads in timm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from drawn_training import TINY, write_cohort
from safetensors.torch import load_file, save_file

from pipeline.cli import main
from pipeline.embedding.encoder import Encoder


def _base(folder: Path, seed: int) -> Path:
    """A ViT of 64 px as timm's local-dir form has it; training at 32 px resamples its position embeddings."""
    torch.manual_seed(seed)
    folder.mkdir()
    save_file(timm.create_model("test_vit", num_classes=0, img_size=64).state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "test_vit",
        "num_classes": 0,
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"mean": [0.7, 0.6, 0.7], "std": [0.2, 0.25, 0.2], "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    write_cohort(folder)
    _base(folder / "base", 5)
    _base(folder / "other", 6)
    _train(folder, "adapted", low_rank=2, lr=1e-2)
    return folder


def _train(cohort: Path, name: str, **changes: Any) -> None:
    out = cohort / name
    argv = ["train", "--run", name, "--stores", str(cohort / "tile"), "--split", str(cohort / "patches.tsv")]
    argv += ["--out-encoder", str(out / "encoder"), "--out-metrics", str(out / "m"), "--out-curve", str(out / "c")]
    settings = {**TINY, "encoder": "test_vit", "epochs": 1, "weights": str(cohort / "base"), **changes}
    assert main([*argv, "--settings", json.dumps(settings)]) == 0


def _export(cohort: Path, out: Path, run: str = "adapted", base: str = "base") -> int:
    argv = ["export", "--encoder", str(cohort / run / "encoder"), "--to", "adapters", "--out", str(out)]
    return main([*argv, "--base", str(cohort / base)])


def _merge(adapters: Path, base: Path, out: Path) -> int:
    return main(["merge-adapters", "--adapters", str(adapters), "--base", str(base), "--out", str(out)])


def _patches() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_base_and_adapters_give_the_encoder_back(cohort: Path, tmp_path: Path) -> None:
    assert _export(cohort, tmp_path / "adapters") == 0
    assert _merge(tmp_path / "adapters", cohort / "base", tmp_path / "merged") == 0
    original, merged = Encoder.load(cohort / "adapted" / "encoder"), Encoder.load(tmp_path / "merged")
    np.testing.assert_allclose(merged.embed(_patches()), original.embed(_patches()), rtol=1e-4, atol=1e-4)
    assert merged.fitted is not None
    assert merged.description.mean == original.description.mean
    card = (tmp_path / "merged" / "card.md").read_text()
    assert merged.description.sha256 in card
    assert original.description.sha256 == merged.description.sha256 or original.description.sha256 not in card


def test_adapters_hold_no_weight_of_the_base_and_are_small(cohort: Path, tmp_path: Path) -> None:
    assert _export(cohort, tmp_path / "adapters") == 0
    assert sorted(item.name for item in (tmp_path / "adapters").iterdir()) == [
        "adapters.safetensors",
        "card.md",
        "config.json",
        "range.safetensors",
    ]
    kept = load_file(tmp_path / "adapters" / "adapters.safetensors")
    base = load_file(cohort / "base" / "model.safetensors")
    assert not kept.keys() & base.keys()
    factors = {name: value for name, value in kept.items() if name != "check.features"}
    assert factors
    assert all(".attn." in name and 2 in value.shape for name, value in factors.items())
    changed = {name.rsplit(".", 1)[0] for name in factors}
    after = load_file(cohort / "adapted" / "encoder" / "model.safetensors")
    for name in changed:
        product = kept[f"{name}.up"].double() @ kept[f"{name}.down"].double()
        torch.testing.assert_close(product, after[name].double() - base[name].double(), rtol=1e-3, atol=1e-6)


def test_another_base_is_refused_and_nothing_is_written(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _export(cohort, tmp_path / "never", base="other") == 1
    assert _export(cohort, tmp_path / "adapters") == 0
    assert _merge(tmp_path / "adapters", cohort / "other", tmp_path / "merged") == 1
    errors = capsys.readouterr().err.splitlines()
    assert len([line for line in errors if 'expected the base "base" of SHA-256' in line]) == 2
    assert sorted(item.name for item in tmp_path.iterdir()) == ["adapters"]


def test_damaged_adapters_are_refused(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _export(cohort, tmp_path / "adapters") == 0
    path = tmp_path / "adapters" / "adapters.safetensors"
    kept = load_file(path)
    save_file({name: value if name == "check.features" else 10 * value for name, value in kept.items()}, path)
    assert _merge(tmp_path / "adapters", cohort / "base", tmp_path / "merged") == 1
    assert "the encoder's features to 0.0001, found a difference of" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_an_encoder_trained_as_a_whole_has_no_adapters(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(cohort, "whole")
    assert _export(cohort, tmp_path / "never", run="whole") == 1
    assert "expected an encoder trained with low_rank, found low_rank 0" in capsys.readouterr().err
    assert main(["export", "--encoder", str(cohort / "whole" / "encoder"), "--to", "adapters"]) == 1
    assert "found no --base" in capsys.readouterr().err


def test_an_encoder_folder_is_not_taken_for_adapters(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _merge(cohort / "adapted" / "encoder", cohort / "base", tmp_path / "merged") == 1
    assert "expected adapters as export writes them, found no entry adapters" in capsys.readouterr().err
    assert _merge(tmp_path, cohort / "base", tmp_path / "merged") == 1
    assert "found no config.json" in capsys.readouterr().err


def test_a_model_repository_loads_in_timm_from_disk_and_from_the_hub(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = cohort / "adapted" / "encoder", tmp_path / "hub"
    argv = ["export", "--encoder", str(folder), "--to", "hub", "--licence", "cc-by-nc-4.0", "--out", str(out)]
    assert main(argv) == 0
    front = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert front["library_name"] == "timm"
    assert front["base_model"] == "base"
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = Encoder.load(folder, torch.device("cpu")).network
    with torch.inference_mode():
        wanted = expected(pixels)
        found = timm.create_model(f"local-dir:{out}", pretrained=True).eval()(pixels)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # The hub's own cache, as a download leaves it; timm is told to look nowhere else.
    snapshot = tmp_path / "cache" / "models--lab--distilled" / "snapshots" / ("0" * 40)
    shutil.copytree(out, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found_model = timm.create_model("hf-hub:lab/distilled", pretrained=True, cache_dir=tmp_path / "cache").eval()
    with torch.inference_mode():
        torch.testing.assert_close(found_model(pixels), wanted, rtol=1e-4, atol=1e-4)
