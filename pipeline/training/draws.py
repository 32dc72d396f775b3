"""Random numbers for the rows of a batch."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


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
        """(count, *shape) numbers in [0, 1)."""
        drawn = torch.rand(self._batch_size, *shape, generator=self._generator, device=self.device)
        return drawn[self._rows]
