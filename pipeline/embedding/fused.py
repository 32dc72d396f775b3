"""Prepare a convolutional encoder for the CPU: normalisation folded into convolutions, weights in bfloat16.

Under autocast every layer casts its weights anew, and batch normalisation passes over all activations once more. A
network of convolutions needs neither: in evaluation mode a batch normalisation is a scale and a shift, which
the convolution before it takes into its own weights.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_WEIGHTED = (nn.Conv2d, nn.Linear)


def fused_in_bf16(network: nn.Module) -> nn.Module | None:
    """Return a copy of the network in bfloat16 and channels-last layout, batch normalisation folded into convolutions.

    Args:
        network: in evaluation mode, float32; it stays as it is.

    Returns:
        (n, 3, P, P) bfloat16 to (n, D) bfloat16; None for a network that cannot be traced, or of which more than
        convolutions and linear layers is left: norms and attention want the float32 that autocast gives them.
    """
    try:
        traced = fx.symbolic_trace(network)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError):
        return None
    _fold_normalisation(traced)
    weighted = [layer for layer in traced.modules() if next(layer.parameters(recurse=False), None) is not None]
    buffers = [layer for layer in traced.modules() if next(layer.buffers(recurse=False), None) is not None]
    if buffers or not weighted or not all(type(layer) in _WEIGHTED for layer in weighted):
        return None
    return traced.to(torch.bfloat16).to(memory_format=torch.channels_last).eval()


def _fold_normalisation(traced: fx.GraphModule) -> None:
    """Replace each convolution by one with the following batch normalisation inside, where nobody else reads it."""
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = layers[str(before.target)], layers[str(node.target)]
        once = all(sum(other.target == item.target for other in traced.graph.nodes) == 1 for item in (before, node))
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.track_running_stats and once:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
