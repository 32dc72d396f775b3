"""How far rounding alone moves a training, measured on the machine that runs the test.

Two correct ways of summing the same numbers differ by rounding, and a training amplifies that by an amount that depends
on the network, the number of steps and the processor's kernels. A fixed tolerance fits one processor. So the test
trains again from weights that are off by rounding, and takes the distance of those trainings as its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.training import model
from pipeline.training.branches import BranchNetwork

Curve = list[dict[str, float]]

VARIANTS = 3
# The largest of three draws of a deviation is often exceeded by a fourth; four times it, hardly ever.
SAFETY = 4.0


def perturbed_network(seed: int) -> type[BranchNetwork]:
    """Return a network class whose initial weights are off by the relative rounding error of the sums they enter.

    A float32 sum of n products rounded independently has a relative error of about eps times the root of n.
    """

    class Perturbed(BranchNetwork):
        def __init__(self, *args: Any, **arguments: Any) -> None:
            super().__init__(*args, **arguments)
            random = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in self.parameters():
                    summands = weight[0].numel() if weight.ndim > 1 else 1
                    error = torch.finfo(weight.dtype).eps * summands**0.5
                    weight.mul_(1 + error * torch.randn(weight.shape, generator=random))

    return Perturbed


def perturbed_curves(train: Callable[[int], Curve]) -> list[Curve]:
    """Return the curves of trainings that differ from the plain one by rounding at their start.

    Args:
        train: trains and returns the curve; it gets the number of the variant, for the name of its folder.
    """
    curves = []
    for number in range(VARIANTS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "BranchNetwork", perturbed_network(number))
            curves.append(train(number))
    return curves


def assert_equal_but_for_rounding(found: Curve, expected: Curve, perturbed: list[Curve]) -> None:
    """Assert that a curve is no further from the expected one than perturbed ones allow, epoch by epoch."""
    assert len(found) == len(expected)
    for epoch, (line, plain) in enumerate(zip(found, expected, strict=True)):
        assert line.keys() == plain.keys()
        allowed = {
            name: SAFETY * max(_relative(curve[epoch][name], plain[name]) for curve in perturbed) for name in plain
        }
        # A term may hardly move in three draws by chance; together they tell how far this training moves.
        terms = max(value for name, value in allowed.items() if name != "gradient_norm")
        for name in plain:
            bound = max(terms, allowed[name])
            assert _relative(line[name], plain[name]) <= bound, f"{name} in epoch {epoch + 1}: beyond {bound:.1e}"


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-12)
