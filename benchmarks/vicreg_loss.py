"""VICReg forward and backward: ours, with the covariance term from the Gram matrix, against lightly's.

Usage: python benchmarks/vicreg_loss.py [--batch N] [--widths D ...] [--repeats N] [--threads N] [--check]. Needs
lightly (pip install lightly). All get the same float32 embeddings of two branches; value and gradient are checked equal
before anything is timed. "d x d" is the same loss with the covariance matrix written out, to tell the algebra from the
rest. Prints a table; the last line is JSON. With --check the exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lightly.loss import VICRegLoss
from torch import Tensor
from torch.nn.functional import mse_loss

sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_slide import interleaved, judged, versions

from pipeline.training.losses import COVARIANCE_WEIGHT, INVARIANCE_WEIGHT, VARIANCE_WEIGHT, variance_term, vicreg

Loss = Callable[[Tensor, Tensor], Tensor]

GOALS = {2048: 15.0, 8192: 40.0}
TOLERANCE = 1e-6


def main() -> int:
    """Run all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256, help="rows of the embeddings")
    parser.add_argument("--widths", type=int, nargs="+", default=[2048, 8192], help="columns of the embeddings")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    losses: dict[str, Loss] = {"ours": ours, "d x d": written_out, "lightly": VICRegLoss()}
    work: dict[str, Callable[[], int]] = {}
    differences, goals = {}, []
    for width in parsed.widths:
        branches = embeddings(parsed.batch, width)
        differences[width] = check_equal(losses, branches)
        for name, loss in losses.items():
            work[f"{name}, {parsed.batch} x {width}"] = lambda loss=loss, branches=branches: turn(loss, branches)
        if width in GOALS:
            goals.append((f"ours, {parsed.batch} x {width}", f"lightly, {parsed.batch} x {width}", GOALS[width]))
    for task in work.values():
        task()
    measured, missed = judged(interleaved(work, parsed.repeats), goals, "rows")
    result = {
        "benchmark": "vicreg_loss",
        "threads": parsed.threads,
        "relative_difference_to_lightly": differences,
        **measured,
        "missed": missed,
        "versions": versions("lightly", "torch"),
    }
    print(json.dumps(result))
    return 1 if parsed.check and missed else 0


def ours(a: Tensor, b: Tensor) -> Tensor:
    """Return the loss of a training step."""
    return torch.stack(list(vicreg([a, b], [1.0]).values())).sum()


def written_out(a: Tensor, b: Tensor) -> Tensor:
    """Return the same loss from the (d, d) covariance matrices."""
    loss = INVARIANCE_WEIGHT * mse_loss(a, b)
    for z in (a, b):
        matrix = torch.cov(z.T)
        off_diagonal = (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
        loss = loss + VARIANCE_WEIGHT * variance_term(z, 1, 1e-4) / 2 + COVARIANCE_WEIGHT * off_diagonal
    return loss


def embeddings(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Return two branches that share a part, as in training."""
    generator = torch.Generator().manual_seed(width)
    shared = torch.randn(count, width, generator=generator)
    first, second = (0.5 * shared + 0.5 * torch.randn(count, width, generator=generator) for _ in range(2))
    return first, second


def check_equal(losses: dict[str, Loss], branches: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the largest relative difference of values and gradients to lightly's.

    Too large a one ends the benchmark.
    """
    found = {}
    values, gradients = {}, {}
    for name, loss in losses.items():
        a, b = (z.clone().requires_grad_() for z in branches)
        values[name] = loss(a, b)
        values[name].backward()
        gradients[name] = torch.cat([a.grad, b.grad])
    value, gradient = values["lightly"].item(), gradients["lightly"]
    for name in set(losses) - {"lightly"}:
        found[f"{name}, value"] = abs(values[name].item() / value - 1)
        found[f"{name}, gradient"] = float((gradients[name] - gradient).norm() / gradient.norm())
    worst = max(found.values())
    if worst > TOLERANCE:
        raise SystemExit(f"ours and lightly's differ by {worst:.1e}, more than {TOLERANCE:g}: {found}")
    return found


def turn(loss: Loss, branches: tuple[Tensor, Tensor]) -> int:
    """Return one forward and backward pass; returns the rows done."""
    a, b = (z.clone().requires_grad_() for z in branches)
    loss(a, b).backward()
    return len(a)


if __name__ == "__main__":
    sys.exit(main())
