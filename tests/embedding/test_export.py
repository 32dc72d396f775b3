"""The verb export: other programs get the encoder's features from it, and a wrong export never takes its name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from cohort import REPOSITORY
from drawn_training import draw_pairs, train_tiny

from pipeline.cli import main
from pipeline.embedding import exporting
from pipeline.embedding.encoder import Encoder
from pipeline.errors import StatedError

ABSENT = [name for name in exporting.ONNX_PACKAGES if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(ABSENT), reason=f"the extra onnx is not installed: no {', '.join(ABSENT)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer that sees the central 16 of 32 pixels."""
    place = tmp_path_factory.mktemp("transformer")
    return train_tiny(place, encoder="vit_tiny_patch16_224", size_px=16, projector=[16])


def _export(folder: Path, to: str, out: Path) -> int:
    return main(["export", "--encoder", str(folder), "--to", to, "--out", str(out)])


def _pixels(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Patches as embed takes them, and as an export does."""
    patches = draw_pairs(count, 1, 99)[0]
    return patches, np.ascontiguousarray(patches.transpose(0, 3, 1, 2)).astype(np.float32) / 255


def _left_over(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


@pytest.mark.parametrize("kind", ["folder", "transformer"])
def test_torchscript_takes_plain_pixels_and_gives_the_encoders_features(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    assert _export(folder, "torchscript", tmp_path / "encoder.pt") == 0
    files = {"config.json": ""}
    module = torch.jit.load(tmp_path / "encoder.pt", _extra_files=files)
    patches, pixels = _pixels(5)
    for count in (1, 5):
        with torch.inference_mode():
            found = module(torch.from_numpy(pixels[:count])).numpy()
        np.testing.assert_allclose(found, Encoder.load(folder).embed(patches[:count]), rtol=1e-4, atol=1e-4)
    assert files["config.json"].decode() == (folder / "config.json").read_text()


def test_torchscript_needs_torch_alone(folder: Path, tmp_path: Path) -> None:
    assert _export(folder, "torchscript", tmp_path / "encoder.pt") == 0
    code = (
        "import sys, torch\n"
        "module = torch.jit.load('encoder.pt')\n"
        "assert not module.training\n"
        "assert module(torch.rand(2, 3, 32, 32)).ndim == 2\n"
        "assert not {'timm', 'pipeline', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torchscript_refuses_patches_of_another_size_and_integers(transformer: Path, tmp_path: Path) -> None:
    assert _export(transformer, "torchscript", tmp_path / "encoder.pt") == 0
    module = torch.jit.load(tmp_path / "encoder.pt")
    for shape in ((1, 3, 16, 16), (1, 3, 64, 64), (1, 1, 32, 32), (3, 32, 32)):
        with pytest.raises(torch.jit.Error, match="expected pixels"):
            module(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match="found integers"):
        module(torch.zeros((1, 3, 32, 32), dtype=torch.uint8))


@needs_onnx
def test_onnx_refuses_patches_of_another_size(transformer: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert _export(transformer, "onnx", tmp_path / "encoder.onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="Expected: 32"):
        session.run(None, {"pixels": np.zeros((1, 3, 64, 64), np.float32)})


def test_the_example_of_the_outputs_page_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "outputs.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    (example,) = (item for item in examples if "torch.jit.load" in item)
    assert "8, 256, 256, 3" in example
    assert _export(folder, "torchscript", tmp_path / "encoder.pt") == 0
    monkeypatch.chdir(tmp_path)
    names: dict[str, torch.Tensor] = {}
    exec(example.replace("8, 256, 256, 3", "8, 32, 32, 3"), names)
    expected = Encoder.load(folder).embed(names["patches"].numpy())
    np.testing.assert_allclose(names["features"].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to", ["torchscript", pytest.param("onnx", marks=needs_onnx)])
def test_the_same_encoder_gives_the_same_bytes_without_paths_of_this_machine(
    folder: Path, tmp_path: Path, to: str
) -> None:
    written = []
    for name in ("a", "b"):
        if to == "torchscript":
            # Each in its own process: torch numbers the classes of a process's traces on.
            argv = ["export", "--encoder", str(folder), "--to", to, "--out", name]
            subprocess.run([sys.executable, "-P", "-m", "pipeline", *argv], cwd=tmp_path, check=True)
        else:
            assert _export(folder, to, tmp_path / name) == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    parts = [written[0]]
    if to == "torchscript":
        with zipfile.ZipFile(tmp_path / "a") as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    places = [str(Path(module.__file__).parent).encode() for module in (exporting, timm)]
    assert not [place for place in places for part in parts if place in part]


def test_timm_opens_the_folder_and_the_hash_holds(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "my encoder"
    assert _export(folder, "timm", out) == 0
    config = json.loads((out / "config.json").read_text())
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    known = timm.data.resolve_data_config(model=model)
    patches, pixels = _pixels(4)
    mean, std = (np.array(known[key], dtype=np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        found = model(torch.from_numpy((pixels - mean) / std)).numpy()
    np.testing.assert_allclose(found, Encoder.load(folder).embed(patches), rtol=1e-4, atol=1e-4)
    assert Encoder.load(out).description.sha256 == config["more_from_less"]["weights_sha256"]
    assert (out / "card.md").is_file()
    assert _export(folder, "timm", out) == 0, "an earlier export may be replaced"


@needs_onnx
@pytest.mark.parametrize("kind", ["folder", "transformer"])
def test_onnx_takes_any_batch_and_gives_the_encoders_features(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import onnx
    import onnxruntime

    folder = request.getfixturevalue(kind)
    out = tmp_path / "encoder.onnx"
    assert _export(folder, "onnx", out) == 0
    assert _left_over(tmp_path) == ["encoder.onnx"], "weights are inside"
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    patches, pixels = _pixels(7)
    for count in (1, 2, 7):
        (found,) = session.run(["features"], {"pixels": pixels[:count]})
        np.testing.assert_allclose(found, Encoder.load(folder).embed(patches[:count]), rtol=1e-4, atol=1e-4)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    config = json.loads(session.get_modelmeta().custom_metadata_map["config.json"])
    assert config["more_from_less"]["weights_sha256"] == Encoder.load(folder).description.sha256


def test_absent_packages_are_named_with_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    known = {"onnx", "onnxruntime"}
    monkeypatch.setattr(exporting, "find_spec", lambda name: object() if name in known else None)
    assert _export(folder, "onnx", tmp_path / "encoder.onnx") == 1
    error = capfd.readouterr().err
    assert "pip install more-from-less[onnx]" in error
    assert "found no onnxscript" in error
    assert _left_over(tmp_path) == []


class _Shifted(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.module(pixels) + 1e-2


def test_an_export_that_differs_does_not_take_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"of yesterday")
    whole = exporting._module
    monkeypatch.setattr(exporting, "_module", lambda encoder: _Shifted(whole(encoder)))
    assert _export(folder, "torchscript", tmp_path / "encoder.pt") == 1
    assert "a difference of 0.01" in capfd.readouterr().err
    assert (tmp_path / "encoder.pt").read_bytes() == b"of yesterday"
    assert _left_over(tmp_path) == ["encoder.pt"]


def test_features_of_another_shape_are_told_apart(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(folder)
    with pytest.raises(StatedError, match="found shape"):
        exporting.check_features(encoder, lambda pixels: np.zeros((len(pixels), 1), np.float32), tmp_path)


@pytest.mark.parametrize("to", ["timm", "torchscript"])
def test_altered_weights_are_not_exported(
    folder: Path, tmp_path: Path, to: str, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "encoder"))
    values = bytearray((copy / "model.safetensors").read_bytes())
    values[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(values))
    assert _export(copy, to, tmp_path / "out") == 1
    assert "weights of SHA-256" in capfd.readouterr().err
    assert _left_over(tmp_path) == ["encoder"]


@pytest.mark.parametrize("to", ["timm", "torchscript"])
def test_a_folder_with_other_things_is_never_replaced(
    folder: Path, tmp_path: Path, to: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "draft.tex").write_text("x")
    assert _export(folder, to, tmp_path / "thesis") == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert _left_over(tmp_path / "thesis") == ["draft.tex"]


def test_an_encoder_is_not_exported_onto_itself_a_link_or_a_file(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "encoder"))
    (tmp_path / "link").symlink_to(copy)
    assert _export(folder, "timm", tmp_path / "link") == 1
    assert _export(copy, "timm", tmp_path / "." / "encoder") == 1
    (tmp_path / "file").write_text("x")
    assert _export(copy, "timm", tmp_path / "file") == 1
    assert (tmp_path / "file").read_text() == "x"
    Encoder.load(copy)


def test_without_a_path_the_export_lies_beside_the_encoder(folder: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(folder, tmp_path / "run" / "encoder"))
    assert main(["export", "--encoder", str(encoder), "--to", "torchscript"]) == 0
    assert sorted(item.name for item in encoder.parent.iterdir()) == ["encoder", "encoder.pt"]
