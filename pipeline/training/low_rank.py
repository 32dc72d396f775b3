"""Adapt a transformer's attention at low rank (LoRA: Hu et al. 2021, arXiv 2106.09685), merged before export."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.errors import StatedError
from pipeline.training.draws import seed_of


class LowRankLinear(nn.Module):
    """A frozen linear layer plus a trained product of rank `rank`: y = W x + b + up(down(x)), `up` being 0 at first."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        changed: Tensor = self.frozen(x) + self.up(self.down(x))
        return changed

    def merged(self) -> nn.Linear:
        """Return one linear layer that does the same."""
        with torch.no_grad():
            self.frozen.weight += self.up.weight @ self.down.weight
        return self.frozen


def add_low_rank(encoder: nn.Module, rank: int, seed: int) -> None:
    """Freeze the encoder and gives every linear layer of its attention a trained product of that rank, in place.

    Raises:
        StatedError: if the encoder has no attention.
    """
    encoder.requires_grad_(requires_grad=False)
    names = [name for name, layer in encoder.named_modules() if _is_attention(name, layer)]
    if not names:
        raise StatedError(expected="an encoder with attention, for low_rank", found=type(encoder).__name__)
    for name in names:
        torch.manual_seed(seed_of(seed, "low rank", name))
        layer = encoder.get_submodule(name)
        if isinstance(layer, nn.Linear):
            encoder.set_submodule(name, LowRankLinear(layer, rank))


def freeze_batch_norm(encoder: nn.Module) -> None:
    """Freeze batch-norm statistics of an encoder in training, in place.

    They are not parameters: to freeze those does not hold them.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


def merge_low_rank(encoder: nn.Module) -> None:
    """Replace every such layer by one plain linear layer, in place."""
    for name, layer in list(encoder.named_modules()):
        if isinstance(layer, LowRankLinear):
            encoder.set_submodule(name, layer.merged())


def _is_attention(name: str, layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) and "attn" in name.split(".")
