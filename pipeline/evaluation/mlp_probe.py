"""Fit the classifier of More From Less: a small network on frozen features.

As its public code has it (arXiv 2303.10656): batch normalisation, 256 units with ReLU, batch normalisation, softmax;
Adam at 1e-3, batches of 128, Keras' defaults otherwise. Its training images were augmented; frozen features are not.
Features come standardised, as to the other class probes: the running moments of the first layer take thousands of steps
to reach those of features far from 0, which a training on few patches does not have.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_UNITS = 256
_BATCH = 128
_RATE = 1e-3


def fit_mlp(standard: Floats, labels: Integers, classes: int, epochs: int, seed: int) -> nn.Module:
    """Return the head fitted to standardised training features (n, D) with classes (n,) from 0, in evaluation mode.

    Args:
        standard: n of 2 or more.
        labels: their classes.
        classes: K.
        epochs: passes over the rows; nothing is chosen on the way.
        seed: of initial weights and order.
    """
    x, y = torch.from_numpy(standard.astype(np.float32)), torch.from_numpy(labels)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = _head(standard.shape[1], classes)
    optimiser = torch.optim.Adam(head.parameters(), lr=_RATE, eps=1e-7)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x), generator=order), _BATCH):
            if len(rows) < 2:
                continue  # one row has no variance to be normalised by; another epoch has it elsewhere
            optimiser.zero_grad(set_to_none=True)
            cross_entropy(head(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return head.eval()


def predict_mlp(head: nn.Module, standard: Floats) -> Floats:
    """Return probability (n, K) of each class, for standardised features (n, D)."""
    with torch.inference_mode():
        found = head(torch.from_numpy(standard.astype(np.float32))).double().softmax(dim=1)
    return np.asarray(found.numpy(), dtype=np.float64)


def _head(width: int, classes: int) -> nn.Sequential:
    """Use Keras's momentum: it keeps 0.99 of a running moment, where torch names the 0.01 taken of the new one."""
    head = nn.Sequential(
        nn.BatchNorm1d(width, eps=1e-3, momentum=0.01),
        nn.Linear(width, _UNITS),
        nn.ReLU(),
        nn.BatchNorm1d(_UNITS, eps=1e-3, momentum=0.01),
        nn.Linear(_UNITS, classes),
    )
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return head
