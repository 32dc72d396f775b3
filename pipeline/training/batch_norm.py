"""Batch normalisation over the whole batch where several processes hold a part of it each.

The function itself is replaced while the network runs, so that this holds for every architecture, timm's fused
normalisation and activation included, and the network keeps its layers. torch.nn.SyncBatchNorm runs on CUDA only, and
replaces layers; it would be a second implementation beside the one that processors need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipeline.training.processes import Processes


def synchronised_batch_norm(processes: Processes) -> AbstractContextManager[object]:
    """Take batch normalisation's moments over the rows of all processes within the block."""
    return nullcontext() if processes.count == 1 else _Synchronised(processes)


class _Synchronised(TorchFunctionMode):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        values: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)
        mean, variance, count = _moments(values.detach(), self._processes)
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * (count / (count - 1))).to(running_var.dtype), momentum)
        scale = torch.ones_like(mean) if weight is None else weight
        shift = torch.zeros_like(mean) if bias is None else bias
        normalised: Tensor = _Normalise.apply(values, scale, shift, mean, variance, count, eps, self._processes)
        return normalised


def _moments(values: Tensor, processes: Processes) -> tuple[Tensor, Tensor, int]:
    """Return mean and population variance (C,) of the channels over all processes, and how many values they rest on."""
    dimensions = [dimension for dimension in range(values.ndim) if dimension != 1]
    variance, mean = torch.var_mean(values.float(), dimensions, correction=0)
    variances, means = processes.all_of(torch.stack([variance, mean])).unbind(dim=1)
    # Equal shares: the whole variance is the mean one within the shares, and that of their means.
    whole = variances.mean(dim=0) + means.var(dim=0, correction=0)
    return means.mean(dim=0), whole, values.numel() // values.shape[1] * processes.count


class _Normalise(torch.autograd.Function):
    """Normalisation by given moments, with the gradient that also passes through them.

    With x' the normalised values, g the gradient of the output and means over the whole batch, the gradient of x is
    weight / std * (g - mean(g) - x' mean(g x')) (Ioffe and Szegedy, arXiv 1502.03167). Torch's own kernel for constant
    moments gives the first part and the sums of g and g x'.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: int,
        eps: float,
        processes: Processes,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.count, ctx.eps, ctx.processes = count, eps, processes
        return functional.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance = ctx.saved_tensors
        deviation = torch.rsqrt(variance + ctx.eps)
        slope, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], values, weight, mean, variance, mean, deviation, False, ctx.eps, [True, True, True]
        )
        by_values, alone = ctx.processes.sum_tensor(torch.stack([of_weight, of_bias]).float()) / ctx.count
        factor = -weight * deviation.square() * by_values
        offset = -weight * deviation * alone - factor * mean
        channels = [1, -1] + [1] * (values.ndim - 2)
        through_moments = torch.addcmul(offset.view(channels), values.float(), factor.view(channels))
        slope = (slope.float() + through_moments).to(values.dtype)
        return slope, of_weight, of_bias, None, None, None, None, None
