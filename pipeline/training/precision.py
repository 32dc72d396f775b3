"""Choose the device and floating-point format of a network."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


def best_device() -> torch.device:
    """Return the first CUDA device where there is one, otherwise the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], network: nn.Module, device: torch.device) -> Precision:
    """Return what `auto` means here; the rule looks at hardware and architecture only, never at a clock.

    bfloat16 pays on CUDA devices that know it and on CPUs with AVX512-BF16 or AMX. Depthwise convolutions are the
    exception on the CPU: there they are slower in bfloat16 than in float32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        # Where it is emulated, on devices before Ampere, it is slower than float32.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if supported and not _has_depthwise(network) else "fp32"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which the network's forward pass runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _has_depthwise(network: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels for layer in network.modules())
