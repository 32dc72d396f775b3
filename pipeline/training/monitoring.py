"""Signs of a collapsed representation, and the curve of a training.

`curve.png` shows one run without a page; the report draws runs over one another in the page's colours
(`report/figures.py`), as SVG that a browser restyles, which matplotlib cannot write.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.provenance import finished
from pipeline.training.losses import TERMS


def effective_rank(vectors: Tensor) -> float:
    """Return number of directions that (n, d) vectors really use, 1 to min(n - 1, d); 0 if all are equal.

    The exponential of the entropy of the normalised singular values of the centred matrix (Roy and Vetterli, EUSIPCO
    2007).
    """
    centred = (vectors - vectors.mean(dim=0)).double()
    singular = torch.linalg.svdvals(centred)
    total = singular.sum()
    if total <= 1e-12:
        return 0.0
    share = singular / total
    return float(torch.exp(torch.special.entr(share).sum()))


def mean_std(vectors: Tensor) -> float:
    """Return mean over the dimensions of the standard deviation over the (n, d) vectors."""
    return float(vectors.double().std(dim=0).mean())


def write_curve(path: Path, name: str, history: Sequence[dict[str, Any]]) -> None:
    """Write a PNG with the loss on the left and ranks and spread on the right, by epoch."""
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in history]
    for key in ("loss", *(term for term in TERMS if history and term in history[0])):
        left.plot(epochs, [line[key] for line in history], label=key, lw=2 if key == "loss" else 1.2, marker=".")
    left.set(xlabel="epoch", ylabel="mean over the epoch", title=f"{name}: loss and its weighted terms", yscale="log")
    for key, label in (("embedding_rank", "embedding"), ("feature_rank", "sparse features")):
        right.plot(epochs, [line[key] for line in history], label=f"effective rank, {label}", marker=".")
    right.set(xlabel="epoch", ylabel="effective rank in a batch", title="spread of the representation", ylim=(0, None))
    spread = right.twinx()
    spread.plot(epochs, [line["embedding_std"] for line in history], "k:", label="embedding std (right axis)")
    spread.set(ylabel="mean standard deviation", ylim=(0, None))
    left.legend(frameon=False, fontsize=8)
    lines = [*right.get_lines(), *spread.get_lines()]
    right.legend(lines, [str(line.get_label()) for line in lines], frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with finished(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
