"""Check what an encoder's config.json may change of the architecture that timm builds by its name: `model_args`.

Foundation models are often a known architecture with layer scale, another depth or register tokens. Only numbers that
change the network are taken, within bounds, because the file comes from anywhere and a network is built by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

ModelArguments = Mapping[str, bool | int | float]

# The architecture as timm builds it by its name.
AS_NAMED: ModelArguments = MappingProxyType({})

# The largest value of each; the smallest is 0 of the counts and just above it of the others.
_COUNTS = {"depth": 128, "embed_dim": 8192, "num_heads": 128, "patch_size": 64, "reg_tokens": 64}
_REALS = {"init_values": 100.0, "mlp_ratio": 16.0}
_FLAGS = ("class_token", "no_embed_class", "qkv_bias", "qk_norm")
# Set for each run (size of its patches, three colours, no classifier), or without effect on patches of one size.
_OURS = ("img_size", "in_chans", "num_classes", "dynamic_img_size", "dynamic_img_pad")


def checked_model_arguments(config: Mapping[str, Any]) -> ModelArguments:
    """Return the arguments in `model_args` of a config.json that change the network, by name.

    Empty where there are none.

    Raises:
        ValueError: if one is of another kind than is known here, out of bounds, or no mapping holds them.
    """
    given = config.get("model_args") or {}
    if not isinstance(given, dict):
        raise ValueError(f"model_args {given!r:.80}")
    if given.get("in_chans", 3) != 3:
        raise ValueError(f"model_args in_chans {given['in_chans']!r:.80}, not R, G, B")
    found = {name: value for name, value in given.items() if name not in _OURS}
    for name, value in found.items():
        if not _is_allowed(name, value):
            raise ValueError(
                f"model_args {name} {value!r:.80}, which is not among those that are known and their bounds"
            )
    return found


def _is_allowed(name: str, value: Any) -> bool:
    if name in _FLAGS:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if name in _COUNTS:
        return isinstance(value, int) and (0 if name == "reg_tokens" else 1) <= value <= _COUNTS[name]
    return name in _REALS and isinstance(value, int | float) and 0 < value <= _REALS[name]
