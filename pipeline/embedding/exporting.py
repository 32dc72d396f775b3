"""The verb export: an encoder in a form that needs nothing of this project, checked before it takes its name.

What torchscript and onnx files take is the same: `pixels`, float32 (n, 3, P, P), RGB, uint8 values divided by 255 (0 to
1), P being the side of the patches of the encoder's training. The central crop and the normalisation are inside.
"""

from __future__ import annotations

import copy
import io
import shutil
import warnings
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.embedding.encoder import Encoder
from pipeline.embedding.encoder_description import EncoderDescription
from pipeline.errors import StatedError
from pipeline.provenance import finished
from pipeline.training.encoder_folder import CONFIG_NAME, WEIGHTS_NAME
from pipeline.training.export import CARD_NAME
from pipeline.training.feature_range import RANGE_NAME

TOLERANCE = 1e-4
ONNX_OPSET = 18
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

_LARGEST_ONNX_BYTES = 2**31 - 2**24
_NEEDED_NAMES = (CONFIG_NAME, WEIGHTS_NAME)
_FOLDER_NAMES = {*_NEEDED_NAMES, CARD_NAME, RANGE_NAME}

Embedding = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class NormalisedEncoder(nn.Module):
    """The encoder with its central crop and normalisation inside: pixels (n, 3, P, P) in 0 to 1 to features (n, D)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, description: EncoderDescription) -> None:
        super().__init__()
        self.network = network
        self.start = (description.patch_px - description.input_px) // 2
        self.side = description.input_px
        self.register_buffer("mean", torch.tensor(description.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(description.std).view(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features (n, D) float32 of pixels (n, 3, P, P) float32."""
        end = self.start + self.side
        window = pixels[:, :, self.start : end, self.start : end]
        features: torch.Tensor = self.network((window - self.mean) / self.std)
        return features


class _CheckedEncoder(nn.Module):
    """A module behind a size check that survives tracing; the traced module would silently crop patches of any size."""

    def __init__(self, module: nn.Module, side: int) -> None:
        super().__init__()
        self.module = module
        self.side = side
        self.check = torch.jit.script(_pixels_of_side)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features (n, D) of pixels (n, 3, side, side)."""
        features: torch.Tensor = self.module(self.check(pixels, self.side))
        return features


def _pixels_of_side(pixels: torch.Tensor, side: int) -> torch.Tensor:
    if pixels.dim() != 4 or pixels.size(1) != 3 or pixels.size(2) != side or pixels.size(3) != side:
        raise ValueError(f"expected pixels (n, 3, {side}, {side}), found {pixels.shape}")
    if not pixels.is_floating_point():
        raise ValueError("expected floating-point pixels in 0 to 1, found integers")
    return pixels


def export_timm(folder: Path, out: Path) -> None:
    """Write a folder that `timm.create_model("local-dir:OUT", pretrained=True)` loads: weights, configuration, card.

    The weights are the encoder's own bytes, so the SHA-256 in the configuration holds for them.

    Raises:
        StatedError: if `folder` is not an encoder's, `out` is in use for something else, or timm's features differ.
    """
    encoder = _load(folder)
    check_out_folder(folder, out, _FOLDER_NAMES)
    with finished(out) as temporary:
        temporary.mkdir()
        for name in sorted(_FOLDER_NAMES):
            if name in _NEEDED_NAMES or (folder / name).is_file():
                shutil.copyfile(folder / name, temporary / name)
        check_timm_folder(encoder, temporary, out)


def check_timm_folder(encoder: Encoder, folder: Path, out: Path) -> None:
    """Load the folder as timm does and compare its features.

    Raises:
        StatedError: if they are not the encoder's, naming `out`.
    """
    network = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True)
    module = NormalisedEncoder(network, encoder.description).eval()
    check_features(encoder, lambda pixels: _forward(module, pixels), out)


def export_torchscript(folder: Path, out: Path) -> None:
    """Write a traced module that `torch.jit.load` opens without timm; config.json rides along as an extra file.

    Raises:
        StatedError: if `folder` is not an encoder's, `out` is a folder, the architecture cannot be traced, or the
            traced module's features differ.
    """
    encoder = _load(folder)
    _check_file(out)
    try:
        # Tracing warns of branches on sizes, which are fixed here, and of its deprecation.
        with warnings.catch_warnings(action="ignore"):
            module = _CheckedEncoder(_module(encoder), encoder.description.patch_px).eval()
            traced = torch.jit.trace(module, _example(encoder), check_trace=False)
    except RuntimeError as error:
        raise _not_exportable(folder, "TorchScript", encoder, error) from None
    config = (folder / CONFIG_NAME).read_text(encoding="utf-8")
    # Through memory: given a path, torch names the archive's root after it, and here that is the temporary name.
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(traced, buffer, _extra_files={CONFIG_NAME: config})
    with finished(out) as temporary:
        _write_without_source_lines(buffer, temporary)
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.jit.load(temporary, map_location="cpu")
        check_features(encoder, lambda pixels: _forward(loaded, pixels), out)


def export_onnx(folder: Path, out: Path) -> None:
    """Write one ONNX file with a free batch size, `pixels` in and `features` out; config.json is in its metadata.

    Raises:
        StatedError: if packages are absent, `folder` is not an encoder's, `out` is a folder, the architecture has no
            ONNX form or weights over 2 GiB, or the features that onnxruntime finds differ.
    """
    absent = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if absent:
        raise StatedError(
            expected=f"the packages {', '.join(ONNX_PACKAGES)} (pip install more-from-less[onnx])",
            found=f"no {', '.join(absent)}",
        )
    encoder = _load(folder)
    _check_file(out)
    module = _module(encoder)
    size = sum(value.numel() * value.element_size() for value in module.state_dict().values())
    if size > _LARGEST_ONNX_BYTES:
        raise StatedError(file=folder, expected="weights below 2 GiB, for one ONNX file", found=f"{size} bytes")
    config = (folder / CONFIG_NAME).read_text(encoding="utf-8")
    with finished(out) as temporary:
        try:
            _write_onnx(module, _example(encoder), temporary, config)
        except RuntimeError as error:
            raise _not_exportable(folder, "ONNX", encoder, error) from None
        check_features(encoder, _onnx_embedding(temporary), out)


def check_features(encoder: Encoder, embedding: Embedding, out: Path) -> None:
    """Compare an export with the encoder, in batches of one and of three.

    Raises:
        StatedError: if a feature f of the encoder and the export's differ by more than 1e-4 (1 + abs(f)).
    """
    patches = check_patches(encoder.description.patch_px)
    expected = encoder.embed(patches)
    pixels = np.ascontiguousarray(patches.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
    for rows in (slice(0, 1), slice(0, 3)):
        found = embedding(pixels[rows])
        if found.shape != expected[rows].shape or not np.allclose(
            found, expected[rows], rtol=TOLERANCE, atol=TOLERANCE
        ):
            same = found.shape == expected[rows].shape
            difference = (
                f"a difference of {np.abs(found - expected[rows]).max():.2g}" if same else f"shape {found.shape}"
            )
            raise StatedError(file=out, expected=f"the encoder's features to {TOLERANCE:g}", found=difference)


def check_patches(side_px: int) -> NDArray[np.uint8]:
    """Return the RGB patches (3, side_px, side_px, 3) on which two forms of an encoder are compared."""
    patches = np.random.default_rng(0).integers(0, 256, (3, side_px, side_px, 3), dtype=np.uint8)
    patches[1] = 255 - patches[1] // 4
    return patches


def _load(folder: Path) -> Encoder:
    return Encoder.load(folder, torch.device("cpu"))


def _module(encoder: Encoder) -> nn.Module:
    network = copy.deepcopy(encoder.network).to(memory_format=torch.contiguous_format)
    return NormalisedEncoder(network, encoder.description).eval().requires_grad_(False)


def _example(encoder: Encoder) -> torch.Tensor:
    side = encoder.description.patch_px
    return torch.zeros(2, 3, side, side)


def _forward(module: nn.Module, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.asarray(module.eval()(torch.from_numpy(pixels)).numpy(), dtype=np.float32)


def _write_without_source_lines(archive: io.BytesIO, path: Path) -> None:
    """Write a TorchScript archive less its debug records, which hold the paths of this machine's Python files."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            if not item.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(item.filename), source.read(item))


def _write_onnx(module: nn.Module, example: torch.Tensor, path: Path, config: str) -> None:
    import onnx

    program = torch.onnx.export(
        module,
        (example,),
        input_names=["pixels"],
        output_names=["features"],
        opset_version=ONNX_OPSET,
        dynamo=True,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        node.ClearField("metadata_props")  # It holds the paths of this machine's Python files.
    onnx.helper.set_model_props(proto, {CONFIG_NAME: config})
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _onnx_embedding(path: Path) -> Embedding:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda pixels: np.asarray(session.run(["features"], {"pixels": pixels})[0], dtype=np.float32)


def _not_exportable(folder: Path, form: str, encoder: Encoder, error: RuntimeError) -> StatedError:
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return StatedError(
        file=folder,
        expected=f"an architecture with a {form} form",
        found=f"{encoder.description.architecture}: {reason}",
    )


def _check_file(out: Path) -> None:
    if out.is_dir():
        raise StatedError(file=out, expected="the name of a file to write", found="a folder")


def check_out_folder(folder: Path, out: Path, names: set[str]) -> None:
    """Refuse to replace a folder under the final name that no such export, which writes `names`, has written.

    Raises:
        StatedError: if `out` is a link, a file, the encoder's own folder, or holds anything else.
    """
    expected = "the name of a new folder, or of an earlier export"
    if out.is_symlink():
        raise StatedError(file=out, expected=expected, found="a link")
    if not out.exists():
        return
    if not out.is_dir():
        raise StatedError(file=out, expected=expected, found="a file")
    if out.samefile(folder):
        raise StatedError(file=out, expected=expected, found="the encoder's own folder")
    foreign = sorted(item.name for item in out.iterdir() if item.name not in names)
    if foreign:
        raise StatedError(file=out, expected=expected, found=f"a folder with {foreign[0]}")
