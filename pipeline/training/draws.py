"""Derive seeds from their purpose, and draw random numbers for the rows of a batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator, Tensor


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that is fixed by `parts`, for example (run seed, "order", epoch).

    No draw shifts another, and nothing needs to be remembered across an interruption.
    """
    text = "\0".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Draws:
    """Uniform numbers for this process's rows of a batch.

    They are always drawn for the whole batch, so a row's numbers do not depend on who works on it.

    Args:
        generator: on the device where the numbers are wanted.
        batch_size: rows of the whole batch.
        rows: those of them that are wanted.
    """

    def __init__(self, generator: Generator, batch_size: int, rows: slice = slice(None)) -> None:
        self.device = generator.device
        self.count = len(range(batch_size)[rows])
        self._generator = generator
        self._batch_size = batch_size
        self._rows = rows

    def uniform(self, *shape: int) -> Tensor:
        """Return (count, *shape) numbers in [0, 1)."""
        drawn = torch.rand(self._batch_size, *shape, generator=self._generator, device=self.device)
        return drawn[self._rows]
