"""Import the package valis without the network and without parts whose licence restricts their use.

`import valis` (1.2.0) builds, as the default value of an argument, a matcher of learned features (DISK with LightGlue)
whose weights kornia then fetches from the internet, also for those who use other features. While it is imported here,
kornia gets stand-ins that hold no weights; afterwards it is as before. The engine then names its own features: VGG
descriptors, compiled into OpenCV's contrib modules, need no weights. The weights of SuperPoint and SuperGlue that lie
in valis's package, for research only by their makers' licence, are never loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from pipeline.errors import StatedError

HOW_TO_INSTALL = (
    "the environment of the engine valis: `make valis` builds it as .venv-valis, `snakemake --use-conda` from "
    "envs/valis.yaml"
)


def valis_registration() -> ModuleType:
    """Return `valis.registration`, with `feature_detectors`, `feature_matcher` and `preprocessing` as attributes.

    Raises:
        StatedError: if valis is not installed in this interpreter.
    """
    if find_spec("valis") is None:
        raise StatedError(expected=HOW_TO_INSTALL, found="an interpreter without the package valis")
    with _without_weights():
        return import_module("valis.registration")


@contextmanager
def _without_weights() -> Iterator[None]:
    """Replace Kornia's learned features by modules without weights for the time of a `with` block."""
    torch: Any = import_module("torch")
    features: Any = import_module("kornia.feature")

    class Weightless(torch.nn.Module):  # type: ignore[misc]
        """Takes any arguments and knows nothing."""

        def __init__(self, *_: object) -> None:
            super().__init__()

    kept = {name: getattr(features, name) for name in ("DISK", "LightGlueMatcher")}
    disk = type("DISK", (Weightless,), {"from_pretrained": classmethod(lambda kind, *_: kind())})
    features.DISK, features.LightGlueMatcher = disk, Weightless
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(features, name, value)
