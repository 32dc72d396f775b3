"""A trained encoder, opened from its folder: H&E patches in, feature vectors out."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from pipeline.embedding.encoder_description import AN_ENCODER, EncoderDescription, read_description
from pipeline.embedding.fused import fused_in_bf16
from pipeline.errors import StatedError
from pipeline.provenance import file_digest
from pipeline.training.encoder_folder import WEIGHTS_NAME
from pipeline.training.encoders import build_encoder
from pipeline.training.feature_range import RANGE_NAME, FeatureRange, read_range
from pipeline.training.precision import Precision, autocast, best_device, resolve_precision

SMALLEST_BF16_COSINE = 0.999


class Encoder:
    """A trained encoder in evaluation mode, on the first CUDA device where there is one.

    Attributes:
        description: what its config.json says.
        fitted: the range of its features over its training; None where that is not known.
    """

    def __init__(
        self,
        description: EncoderDescription,
        network: nn.Module,
        device: torch.device,
        fitted: FeatureRange | None = None,
    ) -> None:
        self.description = description
        self.fitted = fitted
        self._device = device
        self._network = network.eval().to(memory_format=torch.channels_last).to(device)
        self._mean = torch.tensor(description.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(description.std, device=device).view(1, 3, 1, 1)

    @cached_property
    def _fused(self) -> nn.Module | None:
        """The network as the CPU runs it in bfloat16; None where autocast has to do."""
        return fused_in_bf16(self._network) if self._device.type == "cpu" else None

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> Self:
        """Return the encoder in a folder.

        Raises:
            StatedError: if the folder is not an encoder's, or its weights are not the ones its config.json speaks of.
        """
        description = read_description(folder)
        path = folder / WEIGHTS_NAME
        if not path.is_file():
            raise StatedError(file=folder, expected=AN_ENCODER, found=f"no {WEIGHTS_NAME}")
        found = file_digest(path)
        if found != description.sha256:
            raise StatedError(file=path, expected=f"weights of SHA-256 {description.sha256}", found=found)
        fitted = read_range(folder, description.sha256)
        if fitted is not None and len(fitted.mean) != description.feature_dim:
            expected = f"a range of {description.feature_dim} features"
            raise StatedError(file=folder / RANGE_NAME, expected=expected, found=str(len(fitted.mean)))
        try:
            # Torch raises RuntimeError for tensors of other names or shapes than the network's.
            return cls.of_weights(description, load_file(path), device or best_device(), fitted)
        except (SafetensorError, OSError, LookupError, ValueError, RuntimeError) as error:
            raise StatedError(
                file=path, expected=f"weights of a {description.architecture}", found=str(error)
            ) from None

    @classmethod
    def of_weights(
        cls,
        description: EncoderDescription,
        weights: dict[str, torch.Tensor],
        device: torch.device,
        fitted: FeatureRange | None = None,
    ) -> Self:
        """Return the encoder of these weights, by timm's names of the tensors.

        Raises:
            StatedError: if timm does not know the architecture.
            RuntimeError: if the tensors are not those of the network.
        """
        network = build_encoder(
            description.architecture, in_chans=3, size_px=description.input_px, model_args=description.model_args
        )
        network.load_state_dict(weights)
        return cls(description, network, device, fitted)

    @property
    def network(self) -> nn.Module:
        """The network itself, in evaluation mode: normalised pixels (n, 3, input_px, input_px) to features (n, D)."""
        return self._network

    def precision(self, wanted: Literal["auto", "fp32", "bf16"]) -> Precision:
        """Return what `auto` means for this encoder: bf16 only if its features were measured to stay the same."""
        if wanted == "auto" and self.description.bf16_cosine < SMALLEST_BF16_COSINE:
            return "fp32"
        return resolve_precision(wanted, self._network, self._device)

    def check_precision(self, patches: NDArray[np.uint8], precision: Precision) -> None:
        """Compare the features of some patches with those in float32, before a slide is embedded in less.

        Raises:
            StatedError: if the cosine between the two is below 0.999 for any of them.
        """
        if precision == "fp32" or not len(patches):
            return
        found, expected = (torch.from_numpy(self.embed(patches, kind)).double() for kind in (precision, "fp32"))
        cosine = float(torch.nn.functional.cosine_similarity(found, expected).min())
        # Also where it is nan: a network that overflows.
        if not cosine >= SMALLEST_BF16_COSINE:
            raise StatedError(
                expected=f"features in {precision} like those in fp32 (cosine {SMALLEST_BF16_COSINE:g}); "
                "set embed.precision to fp32",
                found=f"cosine {cosine:.4f}",
            )

    def embed(self, patches: NDArray[np.uint8], precision: Precision = "fp32") -> NDArray[np.float32]:
        """Return features (n, D) float32 of RGB patches (n, P, P, 3), of which the centre of `input_px` is seen."""
        side = self.description.input_px
        start = (patches.shape[1] - side) // 2
        window = torch.from_numpy(patches).to(self._device)[:, start : start + side, start : start + side]
        pixels = window.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            if precision == "bf16" and self._fused is not None:
                features = self._fused(pixels.to(torch.bfloat16))
            else:
                with autocast(precision, self._device):
                    features = self._network(pixels)
        return np.asarray(features.float().cpu().numpy(), dtype=np.float32)
